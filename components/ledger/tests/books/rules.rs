//! Tables: what is an entry, and what accounts say to it.

use innover_money::Minor;
use ledger::model::{Account, Book, Converted, Entry, House, Posting, Refusal, Side};

use crate::support::{account, currency, id, money, wallet};

fn entry(postings: &[(&str, Side, &str, &str)]) -> Entry {
    let postings = postings
        .iter()
        .map(|(account, side, amount, code)| Posting {
            account: id(account),
            side: *side,
            money: money(amount, code),
        });
    Entry {
        postings: postings.collect(),
    }
}

use Side::{Credit, Debit};

#[test]
fn an_entry_balances_in_every_currency_and_names_each_account_once() {
    let many = |n: usize| -> Entry {
        let half = n / 2;
        let postings = (0..n).map(|i| Posting {
            account: format!("acc_{i}").into(),
            side: if i < half { Debit } else { Credit },
            money: money("1.00", "EUR"),
        });
        Entry {
            postings: postings.collect(),
        }
    };
    for (what, entry, code) in [
        (
            "two",
            entry(&[("a", Debit, "1", "EUR"), ("b", Credit, "1", "EUR")]),
            None,
        ),
        (
            "one debit, two credits",
            entry(&[
                ("a", Debit, "3", "EUR"),
                ("b", Credit, "1", "EUR"),
                ("c", Credit, "2", "EUR"),
            ]),
            None,
        ),
        (
            "two currencies, each balanced",
            entry(&[
                ("a", Debit, "1", "EUR"),
                ("b", Credit, "1", "EUR"),
                ("c", Debit, "5", "JPY"),
                ("d", Credit, "5", "JPY"),
            ]),
            None,
        ),
        ("64 postings", many(64), None),
        ("66 postings", many(66), Some("invalid_request")),
        ("none", entry(&[]), Some("invalid_request")),
        (
            "one",
            entry(&[("a", Debit, "1", "EUR")]),
            Some("invalid_request"),
        ),
        (
            "unequal",
            entry(&[("a", Debit, "1", "EUR"), ("b", Credit, "2", "EUR")]),
            Some("unbalanced"),
        ),
        (
            "equal only across currencies",
            entry(&[("a", Debit, "1", "EUR"), ("b", Credit, "1", "USD")]),
            Some("unbalanced"),
        ),
        (
            "nothing",
            entry(&[("a", Debit, "0", "EUR"), ("b", Credit, "0", "EUR")]),
            Some("invalid_amount"),
        ),
        (
            "negative",
            entry(&[("a", Debit, "-1", "EUR"), ("b", Credit, "-1", "EUR")]),
            Some("invalid_amount"),
        ),
        (
            "itself",
            entry(&[("a", Debit, "1", "EUR"), ("a", Credit, "1", "EUR")]),
            Some("invalid_request"),
        ),
    ] {
        assert_eq!(entry.check().err().map(|e| e.code()), code, "{what}");
    }
}

#[test]
fn sums_beyond_64_bits_are_compared_not_wrapped() {
    let huge = innover_money::Money::new(i64::MAX, currency("EUR")).expect("EUR");
    let posting = |name: &str, side| Posting {
        account: id(name),
        side,
        money: huge,
    };
    let two_for_one = Entry {
        postings: vec![
            posting("a", Debit),
            posting("b", Debit),
            posting("c", Credit),
        ],
    };
    assert_eq!(
        two_for_one.check().err().map(|e| e.code()),
        Some("unbalanced")
    );
}

fn accounts() -> Vec<Account> {
    let mut closed = account(&wallet("closed", "EUR"), 1_000);
    closed.closed = true;
    let mut held = account(&wallet("held", "EUR"), 1_000);
    held.totals.pending_debits = Minor(900);
    let mut full = account(&House::Cash.opening(currency("EUR")), 0);
    full.totals.debits = Minor(i64::MAX);
    vec![
        account(&wallet("rich", "EUR"), 1_000),
        account(&wallet("poor", "EUR"), 0),
        account(&wallet("dollars", "USD"), 1_000),
        closed,
        held,
        full,
    ]
}

#[test]
fn an_account_refuses_what_breaks_its_floor_its_currency_or_its_closing() {
    for (from, to, amount, refused) in [
        ("rich", "poor", "10.00", None),
        (
            "rich",
            "poor",
            "10.01",
            Some(Refusal::InsufficientFunds {
                account: id("rich"),
            }),
        ),
        (
            "poor",
            "rich",
            "0.01",
            Some(Refusal::InsufficientFunds {
                account: id("poor"),
            }),
        ),
        ("held", "rich", "1.00", None),
        (
            "held",
            "rich",
            "1.01",
            Some(Refusal::InsufficientFunds {
                account: id("held"),
            }),
        ),
        (
            "rich",
            "closed",
            "1.00",
            Some(Refusal::AccountClosed {
                account: id("closed"),
            }),
        ),
        (
            "closed",
            "rich",
            "1.00",
            Some(Refusal::AccountClosed {
                account: id("closed"),
            }),
        ),
        (
            "rich",
            "nobody",
            "1.00",
            Some(Refusal::AccountNotFound {
                account: id("nobody"),
            }),
        ),
        (
            "acc_house_cash_EUR",
            "rich",
            "1.00",
            Some(Refusal::OutOfRange {
                account: id("acc_house_cash_EUR"),
            }),
        ),
        (
            "rich",
            "dollars",
            "1.00",
            Some(Refusal::CurrencyMismatch {
                account: id("dollars"),
                expected: currency("USD"),
                got: currency("EUR"),
            }),
        ),
    ] {
        let mut book = Book::new(accounts());
        let before = format!("{book:?}");
        let entry = entry(&[(from, Debit, amount, "EUR"), (to, Credit, amount, "EUR")]);
        let done = book.post(&entry.check().expect("balanced"));
        assert_eq!(done.clone().err(), refused, "{from} to {to}");
        if refused.is_some() {
            assert_eq!(
                format!("{book:?}"),
                before,
                "a refused entry leaves no posting behind"
            );
        } else {
            assert_eq!(book.changed().count(), 2, "{from} to {to}");
        }
    }
}

#[test]
fn a_debit_normal_account_with_a_floor_does_not_go_below_it_either() {
    let opening = ledger::model::Opening {
        normal_side: Debit,
        ..wallet("till", "EUR")
    };
    let mut book = Book::new([account(&opening, 500), account(&wallet("rich", "EUR"), 0)]);
    let out = |amount| {
        entry(&[
            ("rich", Debit, amount, "EUR"),
            ("till", Credit, amount, "EUR"),
        ])
    };
    let into = entry(&[
        ("till", Debit, "1.00", "EUR"),
        ("rich", Credit, "1.00", "EUR"),
    ]);
    book.post(&into.check().expect("balanced"))
        .expect("money comes in");
    let refused = book.post(&out("6.01").check().expect("balanced"));
    // `rich` has 1.00 only, and is asked first.
    assert_eq!(
        refused,
        Err(Refusal::InsufficientFunds {
            account: id("rich")
        })
    );
    let mut book = Book::new([account(&opening, 500), account(&wallet("rich", "EUR"), 900)]);
    let refused = book.post(&out("5.01").check().expect("balanced"));
    assert_eq!(
        refused,
        Err(Refusal::InsufficientFunds {
            account: id("till")
        })
    );
    assert!(book.post(&out("5.00").check().expect("balanced")).is_ok());
}

fn payment(source: (i64, &str), target: (i64, &str), margin_minor: i64) -> Converted {
    Converted {
        payment_id: "pay_1".into(),
        payer_account: "acc_payer".into(),
        payee_account: "acc_payee".into(),
        source_minor: source.0,
        source_currency: currency(source.1),
        target_minor: target.0,
        target_currency: currency(target.1),
        margin_minor,
    }
}

#[test]
fn a_payment_becomes_the_postings_its_currencies_demand() {
    for (payment, expected) in [
        (
            payment((3333, "EUR"), (3723, "USD"), 0),
            vec![
                "debit acc_payer 33.33 EUR",
                "credit acc_house_fx_EUR 33.33 EUR",
                "debit acc_house_fx_USD 37.23 USD",
                "credit acc_payee 37.23 USD",
            ],
        ),
        (
            payment((10_000, "EUR"), (11_143, "USD"), 25),
            vec![
                "debit acc_payer 100.00 EUR",
                "credit acc_house_fx_EUR 99.75 EUR",
                "debit acc_house_fx_USD 111.43 USD",
                "credit acc_payee 111.43 USD",
                "credit acc_house_margin_EUR 0.25 EUR",
            ],
        ),
        (
            payment((500, "JPY"), (500, "JPY"), 0),
            vec!["debit acc_payer 500 JPY", "credit acc_payee 500 JPY"],
        ),
        (
            payment((1_000, "KWD"), (990, "KWD"), 10),
            vec![
                "debit acc_payer 1.000 KWD",
                "credit acc_payee 0.990 KWD",
                "credit acc_house_margin_KWD 0.010 KWD",
            ],
        ),
    ] {
        let entry = payment.entry().expect("an entry");
        let shown: Vec<String> = entry
            .postings()
            .iter()
            .map(|p| format!("{} {} {}", p.side.as_str(), p.account, p.money))
            .collect();
        assert_eq!(shown, expected);
        let named = payment.accounts();
        assert!(
            entry.postings().iter().all(|p| named.contains(&p.account)),
            "all are read before"
        );
    }
}

#[test]
fn a_payment_whose_amounts_do_not_add_up_is_no_entry() {
    let to_oneself = Converted {
        payee_account: "acc_payer".into(),
        ..payment((1, "EUR"), (1, "EUR"), 0)
    };
    for (payment, code) in [
        (payment((100, "EUR"), (101, "EUR"), 0), "unbalanced"),
        (payment((100, "EUR"), (100, "EUR"), 1), "unbalanced"),
        (payment((1, "JPY"), (0, "EUR"), 0), "invalid_amount"),
        (payment((0, "EUR"), (0, "EUR"), 0), "invalid_amount"),
        (payment((-5, "EUR"), (-5, "EUR"), 0), "invalid_amount"),
        (payment((100, "EUR"), (100, "USD"), -1), "invalid_amount"),
        (payment((100, "EUR"), (100, "USD"), 100), "invalid_amount"),
        (payment((100, "XAU"), (100, "EUR"), 0), "invalid_amount"),
        (to_oneself, "invalid_request"),
    ] {
        assert_eq!(
            payment.entry().err().map(|e| e.code()),
            Some(code),
            "{payment:?}"
        );
    }
}
