//! Random sequences of ledger operations beside a model so simple that it is right: after every
//! operation both say the same, and every invariant holds.
//!
//! The seed is printed; `INNOVER_SEED=<number>` runs the same sequences again, `INNOVER_SEQUENCES`
//! another number of them.

use std::collections::BTreeMap;

use innover_money::{Currency, Money};
use ledger::{
    booking::{self, Asked, Became, What},
    model::{Account, AccountId, Book, Entry, House, Posting, Reservation, Side},
    store::entries::EntryRow,
};
use proptest::{
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use crate::support::{account, currency, wallet};

const SEQUENCES: u32 = 10_000;
const OPERATIONS_MAX: usize = 1_000;
const CODES: [&str; 2] = ["EUR", "JPY"];
/// Per currency: two wallets, one that may owe 50, and the house's cash.
const ACCOUNTS: usize = 4;

#[derive(Clone, Debug)]
enum Operation {
    /// An entry of several postings; the last account takes up what is missing.
    Entry {
        id: u16,
        code: u8,
        legs: [(u8, i16); 3],
    },
    /// A transfer at once.
    Transfer {
        id: u16,
        code: u8,
        from: u8,
        to: u8,
        minor: i16,
    },
    /// A transfer in two phases.
    Reserve {
        id: u16,
        code: u8,
        from: u8,
        to: u8,
        minor: i16,
    },
    /// Posts so many hundredths of one of the reservations there were.
    Post { which: u8, percent: u8 },
    /// Gives one of them back.
    Void { which: u8 },
    /// Closes an account that holds nothing.
    Close { code: u8, account: u8 },
}

fn operation() -> impl Strategy<Value = Operation> {
    let minor = -2i16..120;
    prop_oneof![
        3 => (0u16..1_500, 0u8..2, prop::array::uniform3((0u8..4, -60i16..60)))
            .prop_map(|(id, code, legs)| Operation::Entry { id, code, legs }),
        5 => (0u16..1_500, 0u8..2, 0u8..4, 0u8..4, minor.clone()).prop_map(
            |(id, code, from, to, minor)| Operation::Transfer { id, code, from, to, minor }),
        4 => (0u16..1_500, 0u8..2, 0u8..4, 0u8..4, minor).prop_map(
            |(id, code, from, to, minor)| Operation::Reserve { id, code, from, to, minor }),
        3 => (any::<u8>(), 1u8..=110).prop_map(|(which, percent)| Operation::Post { which, percent }),
        2 => any::<u8>().prop_map(|which| Operation::Void { which }),
        1 => (0u8..2, 0u8..3).prop_map(|(code, account)| Operation::Close { code, account }),
    ]
}

fn account_id(code: usize, n: usize) -> AccountId {
    match n {
        3 => House::Cash.id(currency(CODES[code])),
        n => format!("acc_{}_{n}", CODES[code]).into(),
    }
}

fn floor(n: usize) -> Option<i64> {
    [Some(0), Some(0), Some(-50), None][n]
}

/// What the model knows of an account. All grow on the credit side but the house's cash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Simple {
    posted: i64,
    held: i64,
    held_in: i64,
    closed: bool,
}

/// The model: sums in a table, and a list of reservations.
#[derive(Default)]
struct Model {
    accounts: BTreeMap<(usize, usize), Simple>,
    /// Currency, from, to, minor units; `None` once it ended.
    reserved: Vec<Option<(usize, usize, usize, i64)>>,
    /// What each id was used for, and whether it was refused.
    used: BTreeMap<u16, (String, bool)>,
}

impl Model {
    fn get(&self, at: (usize, usize)) -> Simple {
        self.accounts.get(&at).copied().unwrap_or_default()
    }

    /// Moves signed amounts (credits positive), all or none.
    fn post(&mut self, code: usize, legs: &[(usize, i64)]) -> bool {
        let mut after = self.accounts.clone();
        for (n, credit) in legs {
            let account = after.entry((code, *n)).or_default();
            account.posted += if *n == 3 { -credit } else { *credit };
            let grows = (*n == 3) != (*credit > 0);
            if account.closed || (!grows && !keeps_floor(account, *n)) {
                return false;
            }
        }
        self.accounts = after;
        true
    }

    fn reserve(&mut self, code: usize, from: usize, to: usize, minor: i64) -> bool {
        let mut after = self.accounts.clone();
        for (n, is_credit) in [(from, false), (to, true)] {
            let account = after.entry((code, n)).or_default();
            let grows = (n == 3) != is_credit;
            match grows {
                true => account.held_in += minor,
                false => account.held += minor,
            }
            if account.closed || (!grows && !keeps_floor(account, n)) {
                return false;
            }
        }
        self.accounts = after;
        true
    }

    fn release(&mut self, (code, from, to, minor): (usize, usize, usize, i64)) {
        for (n, is_credit) in [(from, false), (to, true)] {
            let account = self.accounts.entry((code, n)).or_default();
            match (n == 3) != is_credit {
                true => account.held_in -= minor,
                false => account.held -= minor,
            }
        }
    }
}

fn keeps_floor(account: &Simple, n: usize) -> bool {
    floor(n).is_none_or(|floor| account.posted - account.held >= floor)
}

/// The ledger's side of a sequence: what a database would hold between requests.
struct Ledger {
    accounts: BTreeMap<AccountId, Account>,
    known: BTreeMap<String, Became>,
    reservations: Vec<Reservation>,
    postings: BTreeMap<AccountId, (i64, i64)>,
}

impl Ledger {
    fn new() -> Ledger {
        let opened = (0..CODES.len()).flat_map(|code| {
            (0..ACCOUNTS).map(move |n| {
                let id = account_id(code, n);
                let mut opening = match n {
                    3 => House::Cash.opening(currency(CODES[code])),
                    _ => wallet(id.as_str(), CODES[code]),
                };
                opening.floor = floor(n).map(innover_money::Minor);
                (id, account(&opening, 0))
            })
        });
        Ledger {
            accounts: opened.collect(),
            known: BTreeMap::new(),
            reservations: Vec::new(),
            postings: BTreeMap::new(),
        }
    }

    fn book(&self) -> Book {
        Book::new(self.accounts.values().cloned())
    }

    fn keep(&mut self, book: &Book) {
        for (account, version_read) in book.changed() {
            assert!(account.version > version_read, "a change has a version");
            self.accounts.insert(account.id.clone(), account.clone());
        }
    }

    /// Asks as a caller does; the answer is what became of it, and whether that is new.
    fn ask(&mut self, asked: Asked) -> booking::Outcome {
        let mut book = self.book();
        let known = self.known.get(&asked.row.id).cloned();
        let known = known.map(|became| (asked.row.id.clone(), became));
        let asked = [asked];
        let plan = booking::decide(&mut book, known.into_iter().collect(), &asked, 1_000, 1);
        let outcome = plan.outcomes[0].clone();
        for (_, posted) in &plan.written.booked {
            for p in posted {
                let sums = self.postings.entry(p.after.account.clone()).or_default();
                match p.side {
                    Side::Debit => sums.0 += p.money.minor(),
                    Side::Credit => sums.1 += p.money.minor(),
                }
            }
        }
        self.known
            .entry(asked[0].row.id.clone())
            .or_insert_with(|| outcome.became.clone());
        self.keep(&book);
        outcome
    }
}

fn money(minor: i64, code: usize) -> Money {
    Money::new(minor, currency(CODES[code])).expect("payable")
}

fn row(id: u16, kind: &str) -> EntryRow {
    EntryRow {
        id: format!("id-{id}"),
        kind: kind.into(),
        reference: String::new(),
        reverses: None,
        metadata: "{}".into(),
        created_by: "usr_1".into(),
        created_at: 0,
    }
}

/// Runs one operation on both and compares what they say.
fn step(operation: &Operation, ledger: &mut Ledger, model: &mut Model) {
    match operation {
        Operation::Entry { id, code, legs } => {
            let code = usize::from(*code);
            let mut sums: BTreeMap<usize, i64> = BTreeMap::new();
            for (n, minor) in legs {
                *sums.entry(usize::from(*n)).or_default() += i64::from(*minor);
            }
            let missing: i64 = sums.values().sum();
            *sums.entry(3).or_default() -= missing;
            sums.retain(|_, credit| *credit != 0);
            let posting = |(n, credit): (&usize, &i64)| Posting {
                account: account_id(code, *n),
                side: if *credit > 0 {
                    Side::Credit
                } else {
                    Side::Debit
                },
                money: money(credit.abs(), code),
            };
            let entry = Entry {
                postings: sums.iter().map(posting).collect(),
            };
            let Ok(entry) = entry.check() else {
                assert!(sums.len() < 2, "it balances by construction");
                return;
            };
            let asked = Asked {
                row: row(*id, "entry"),
                callers_id: true,
                what: What::Entry(entry),
            };
            let legs: Vec<(usize, i64)> = sums.into_iter().collect();
            compare(
                *id,
                format!("entry {code} {legs:?}"),
                ledger.ask(asked),
                model,
                |m| m.post(code, &legs),
            );
        }
        Operation::Transfer {
            id,
            code,
            from,
            to,
            minor,
        }
        | Operation::Reserve {
            id,
            code,
            from,
            to,
            minor,
        } => {
            let (code, from, to) = (usize::from(*code), usize::from(*from), usize::from(*to));
            let minor = i64::from(*minor);
            let reservation = Reservation {
                debit: account_id(code, from),
                credit: account_id(code, to),
                money: money(minor, code),
            };
            let Ok(entry) = reservation.entry(reservation.money) else {
                assert!(
                    minor <= 0 || from == to,
                    "two accounts and an amount are a transfer"
                );
                return;
            };
            let reserve = matches!(operation, Operation::Reserve { .. });
            let what = match reserve {
                true => What::Reserve(reservation.clone(), 60),
                false => What::Transfer(entry),
            };
            let asked = Asked {
                row: row(*id, "transfer"),
                callers_id: true,
                what,
            };
            let said = format!("{reserve} {code} {from} {to} {minor}");
            let outcome = ledger.ask(asked);
            let fresh = !outcome.replayed && matches!(outcome.became, Became::Reserved(_));
            // By the clock, however far ahead of it the time of postings is.
            if let (true, Became::Reserved(row)) = (fresh, &outcome.became) {
                assert_eq!((row.created_at, row.expires_at), (1, 61));
            }
            compare(*id, said, outcome, model, |m| match reserve {
                true => m.reserve(code, from, to, minor),
                false => m.post(code, &[(from, -minor), (to, minor)]),
            });
            if fresh {
                ledger.reservations.push(reservation);
                model.reserved.push(Some((code, from, to, minor)));
            }
        }
        Operation::Post { which, percent } => settle(ledger, model, *which, Some(*percent)),
        Operation::Void { which } => settle(ledger, model, *which, None),
        Operation::Close { code, account } => {
            let at = (usize::from(*code), usize::from(*account));
            let id = account_id(at.0, at.1);
            let found = ledger.accounts.get_mut(&id).expect("opened");
            let empty = found.balance().posted == 0 && !found.totals.has_pending();
            let simple = model.get(at);
            assert_eq!(
                empty,
                (simple.posted, simple.held, simple.held_in) == (0, 0, 0)
            );
            if empty {
                found.closed = true;
                model.accounts.insert(
                    at,
                    Simple {
                        closed: true,
                        ..simple
                    },
                );
            }
        }
    }
}

/// What the ledger said of an id must be what the model says, now or the first time.
fn compare(
    id: u16,
    said: String,
    outcome: booking::Outcome,
    model: &mut Model,
    act: impl FnOnce(&mut Model) -> bool,
) {
    let refused = matches!(outcome.became, Became::Refused(..));
    match model.used.get(&id) {
        Some((before, was_refused)) => {
            assert!(outcome.replayed, "an id is used once");
            assert_eq!(refused, *was_refused, "and means the same for good");
            assert_eq!(
                outcome.differing.is_empty(),
                *before == said,
                "{before} / {said}"
            );
        }
        None => {
            let allowed = act(model);
            assert!(!outcome.replayed);
            assert_eq!(!refused, allowed, "{said}: {outcome:?}");
            model.used.insert(id, (said, refused));
        }
    }
}

fn settle(ledger: &mut Ledger, model: &mut Model, which: u8, percent: Option<u8>) {
    if model.reserved.is_empty() {
        return;
    }
    let at = usize::from(which) % model.reserved.len();
    // Who ended it before is told so by the row's state, which `settling` guards.
    let Some(open) = model.reserved[at] else {
        return;
    };
    let reservation = ledger.reservations[at].clone();
    let mut book = ledger.book();
    let (code, from, to, minor) = open;
    match percent {
        None => {
            book.release(&reservation).expect("it is reserved");
            model.release(open);
        }
        Some(percent) => {
            let part = minor * i64::from(percent) / 100;
            let asked = reservation.part(Some(money(part, code)));
            assert_eq!(
                asked.is_ok(),
                part > 0 && part <= minor,
                "{part} of {minor}"
            );
            let Ok(part) = asked else { return };
            let entry = reservation.entry(part).expect("it was checked before");
            // An account with a reservation does not close, so nothing refuses this.
            let posted = book.settle(&reservation, &entry).expect("it was reserved");
            for p in &posted {
                let sums = ledger.postings.entry(p.after.account.clone()).or_default();
                match p.side {
                    Side::Debit => sums.0 += part.minor(),
                    Side::Credit => sums.1 += part.minor(),
                }
            }
            model.release(open);
            assert!(model.post(code, &[(from, -part.minor()), (to, part.minor())]));
        }
    }
    model.reserved[at] = None;
    ledger.keep(&book);
}

/// Everything that must hold, whatever happened.
fn check(ledger: &Ledger, model: &Model) {
    let mut per_currency: BTreeMap<Currency, i64> = BTreeMap::new();
    for code in 0..CODES.len() {
        for n in 0..ACCOUNTS {
            let id = account_id(code, n);
            let account = &ledger.accounts[&id];
            let simple = model.get((code, n));
            let balance = account.balance();
            assert_eq!(
                (balance.posted, balance.held),
                (simple.posted, simple.held),
                "{id}"
            );
            assert_eq!(balance.available, simple.posted - simple.held);
            let totals = account.totals;
            let (debits, credits) = ledger.postings.get(&id).copied().unwrap_or_default();
            assert_eq!(
                (totals.debits.0, totals.credits.0),
                (debits, credits),
                "{id}"
            );
            assert!(totals.pending_debits.0 >= 0 && totals.pending_credits.0 >= 0);
            assert!(
                account
                    .floor
                    .is_none_or(|floor| balance.available >= floor.0),
                "{id}"
            );
            *per_currency.entry(account.currency).or_default() +=
                totals.debits.0 - totals.credits.0;
            let open = |reserved: &(usize, usize, usize, i64)| {
                reserved.0 == code && (reserved.1 == n || reserved.2 == n)
            };
            let reserved: i64 = model
                .reserved
                .iter()
                .flatten()
                .filter(|r| open(r))
                .map(|r| r.3)
                .sum();
            assert_eq!(
                totals.pending_debits.0 + totals.pending_credits.0,
                reserved,
                "{id}"
            );
        }
    }
    assert!(
        per_currency.values().all(|sum| *sum == 0),
        "{per_currency:?}"
    );
}

#[test]
fn any_sequence_of_operations_keeps_every_invariant_and_agrees_with_a_simple_model() {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let seed = number("INNOVER_SEED").unwrap_or_else(|| {
        use std::hash::{BuildHasher, RandomState};
        RandomState::new().hash_one("seed")
    });
    let sequences = number("INNOVER_SEQUENCES").map_or(SEQUENCES, |n| n as u32);
    println!("INNOVER_SEED={seed}, {sequences} sequences of up to {OPERATIONS_MAX} operations");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let config = Config {
        cases: sequences,
        // The seed above is what to keep.
        failure_persistence: None,
        ..Config::default()
    };
    let sequence = prop::collection::vec(operation(), 1..=OPERATIONS_MAX);
    let done = TestRunner::new_with_rng(config, rng).run(&sequence, |operations| {
        let (mut ledger, mut model) = (Ledger::new(), Model::default());
        for operation in &operations {
            step(operation, &mut ledger, &mut model);
            check(&ledger, &model);
        }
        Ok(())
    });
    if let Err(failure) = done {
        panic!("INNOVER_SEED={seed}: {failure}");
    }
}
