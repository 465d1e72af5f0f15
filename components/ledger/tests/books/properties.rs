//! Whatever entries come, the books stay right.

use std::collections::BTreeMap;

use innover_money::Money;
use ledger::model::{AccountId, Book, Entry, House, Posted, Posting, Side};
use proptest::prelude::*;

use crate::support::{account, currency, wallet};

const CURRENCIES: [&str; 3] = ["EUR", "JPY", "KWD"];
const WALLETS: usize = 5;

fn wallet_id(currency: usize, wallet: usize) -> AccountId {
    format!("acc_{}_{wallet}", CURRENCIES[currency]).into()
}

/// Postings as anyone might send them: mostly unbalanced, accounts repeated.
fn raw() -> impl Strategy<Value = Vec<Posting>> {
    let one = (0..CURRENCIES.len(), 0..WALLETS, any::<bool>(), -5i64..200);
    prop::collection::vec(one, 0..12).prop_map(|postings| {
        postings
            .into_iter()
            .map(|(code, wallet, debit, minor)| Posting {
                account: wallet_id(code, wallet),
                side: if debit { Side::Debit } else { Side::Credit },
                money: Money::new(minor, currency(CURRENCIES[code])).expect("payable"),
            })
            .collect()
    })
}

/// The same with the house's cash taking up what is missing, so that most of them balance.
fn balanced(mut postings: Vec<Posting>) -> Entry {
    let mut seen = std::collections::BTreeSet::new();
    postings.retain(|p| p.money.is_positive() && seen.insert(p.account.clone()));
    for code in CURRENCIES.map(currency) {
        let sum: i64 = postings
            .iter()
            .filter(|p| p.money.currency() == code)
            .map(signed)
            .sum();
        if sum != 0 {
            let side = if sum > 0 { Side::Credit } else { Side::Debit };
            let money = Money::new(sum.abs(), code).expect("payable");
            postings.push(Posting {
                account: House::Cash.id(code),
                side,
                money,
            });
        }
    }
    Entry { postings }
}

fn signed(posting: &Posting) -> i64 {
    match posting.side {
        Side::Debit => posting.money.minor(),
        Side::Credit => -posting.money.minor(),
    }
}

fn book() -> Book {
    let house = CURRENCIES.map(|code| account(&House::Cash.opening(currency(code)), 0));
    let wallets = (0..CURRENCIES.len()).flat_map(|code| {
        (0..WALLETS)
            .map(move |w| account(&wallet(wallet_id(code, w).as_str(), CURRENCIES[code]), 0))
    });
    Book::new(wallets.chain(house))
}

proptest! {
    #[test]
    fn only_balanced_entries_pass_the_check(postings in raw()) {
        let mut sums = BTreeMap::new();
        for p in &postings {
            *sums.entry(p.money.currency()).or_insert(0) += signed(p);
        }
        let mut names: Vec<_> = postings.iter().map(|p| &p.account).collect();
        names.sort();
        names.dedup();
        let right = (2..=64).contains(&postings.len())
            && names.len() == postings.len()
            && postings.iter().all(|p| p.money.is_positive())
            && sums.values().all(|sum| *sum == 0);
        prop_assert_eq!(Entry { postings }.check().is_ok(), right);
    }

    #[test]
    fn debits_equal_credits_balances_are_their_postings_and_no_floor_breaks(
        entries in prop::collection::vec(raw().prop_map(balanced), 1..40)
    ) {
        let mut book = book();
        let mut applied: Vec<Posted> = Vec::new();
        for entry in entries {
            let Ok(entry) = entry.check() else { continue };
            let before = format!("{book:?}");
            match book.post(&entry) {
                Ok(posted) => applied.extend(posted),
                Err(_) => prop_assert_eq!(format!("{book:?}"), before),
            }
        }
        let mut per_currency: BTreeMap<_, i128> = BTreeMap::new();
        for (account, read_at) in book.changed() {
            let mine = || applied.iter().filter(|p| p.after.account == account.id);
            let sum = |side| mine().filter(|p| p.side == side).map(|p| p.money.minor()).sum::<i64>();
            prop_assert_eq!(account.totals.debits.0, sum(Side::Debit));
            prop_assert_eq!(account.totals.credits.0, sum(Side::Credit));
            let numbers: Vec<i64> = mine().map(|p| p.number).collect();
            prop_assert_eq!(read_at, 0);
            prop_assert_eq!(numbers, (1..=account.postings).collect::<Vec<_>>(), "no gaps");
            prop_assert_eq!(mine().next_back().map(|p| p.after.balance), Some(account.balance()));
            if let Some(floor) = account.floor {
                prop_assert!(mine().all(|p| p.after.balance.available >= floor.0), "{}", account.id);
            }
            *per_currency.entry(account.currency).or_default() +=
                i128::from(account.totals.debits.0) - i128::from(account.totals.credits.0);
        }
        prop_assert!(per_currency.values().all(|sum| *sum == 0), "{per_currency:?}");
    }
}
