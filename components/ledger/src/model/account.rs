//! Accounts, what they hold, and the book that entries are applied to.

use std::{borrow::Borrow, collections::HashMap, fmt, sync::Arc};

use innover_journal::{AccountSeal, Hash};
use innover_money::{Currency, Minor, Money};

use super::{Checked, Entry, Reservation, Side};

/// The id of an account, e.g. `acc_0192…` or `acc_house_cash_EUR`. A batch names one account many
/// times, so copies share the text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId(Arc<str>);

impl AccountId {
    /// An id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Hashed and compared as the text it is.
impl Borrow<str> for AccountId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl From<String> for AccountId {
    fn from(id: String) -> AccountId {
        AccountId(id.into())
    }
}

impl From<&str> for AccountId {
    fn from(id: &str) -> AccountId {
        AccountId(id.into())
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What an account is when it is opened; none of it ever changes but the metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// Its id.
    pub id: AccountId,
    /// Its place in the chart of accounts, e.g. `wallet`.
    pub code: String,
    /// What people call it.
    pub name: String,
    /// Its one currency.
    pub currency: Currency,
    /// The side on which it grows.
    pub normal_side: Side,
    /// What the available balance never goes below; `None` for no limit.
    pub floor: Option<Minor>,
    /// A JSON object.
    pub metadata: String,
}

impl Opening {
    /// The fields in which another opening of the same id differs, by their names in a request.
    pub fn differing(&self, other: &Opening) -> Vec<&'static str> {
        [
            ("/code", self.code != other.code),
            ("/name", self.name != other.name),
            ("/currency", self.currency != other.currency),
            ("/normal_side", self.normal_side != other.normal_side),
            ("/floor", self.floor != other.floor),
            ("/metadata", self.metadata != other.metadata),
        ]
        .into_iter()
        .filter_map(|(name, differs)| differs.then_some(name))
        .collect()
    }

    /// The first link of its chain, when it is opened at `created_at`.
    pub fn head(&self, created_at: i64) -> Hash {
        let seal = AccountSeal {
            id: self.id.as_str(),
            code: &self.code,
            name: &self.name,
            currency: self.currency.code(),
            normal_side: self.normal_side.as_str(),
            floor: self.floor.map(|floor| floor.0),
            created_at,
        };
        seal.hash()
    }
}

/// The house's own accounts, one of each per currency, opened with a currency's first account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum House {
    /// What the house holds; top-ups come from it.
    Cash,
    /// The position a conversion leaves in a currency.
    Fx,
    /// The margins of conversions: income.
    Margin,
}

impl House {
    /// All of them.
    pub const ALL: [House; 3] = [House::Cash, House::Fx, House::Margin];

    fn parts(self) -> (&'static str, &'static str, Side) {
        match self {
            House::Cash => ("cash", "House cash", Side::Debit),
            House::Fx => ("fx", "House currency position", Side::Credit),
            House::Margin => ("margin", "House conversion margin", Side::Credit),
        }
    }

    /// Its id in `currency`.
    pub fn id(self, currency: Currency) -> AccountId {
        format!("acc_house_{}_{currency}", self.parts().0).into()
    }

    /// How it is opened. It has no floor: the house may owe.
    pub fn opening(self, currency: Currency) -> Opening {
        let (code, name, normal_side) = self.parts();
        Opening {
            id: self.id(currency),
            code: format!("house_{code}"),
            name: format!("{name} {currency}"),
            currency,
            normal_side,
            floor: None,
            metadata: "{}".into(),
        }
    }
}

/// Sums of an account's postings, in minor units, which only grow, and what is reserved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Posted debits.
    pub debits: Minor,
    /// Posted credits.
    pub credits: Minor,
    /// Debits that are reserved.
    pub pending_debits: Minor,
    /// Credits that are reserved.
    pub pending_credits: Minor,
}

impl Totals {
    fn pending(side: Side) -> fn(&mut Totals) -> &mut Minor {
        match side {
            Side::Debit => |totals| &mut totals.pending_debits,
            Side::Credit => |totals| &mut totals.pending_credits,
        }
    }

    /// Whether anything is reserved, on either side.
    pub fn has_pending(&self) -> bool {
        self.pending_debits != Minor::ZERO || self.pending_credits != Minor::ZERO
    }
}

/// What an account holds on its normal side, in minor units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Balance {
    /// By its postings.
    pub posted: i64,
    /// Reserved of it.
    pub held: i64,
    /// `posted − held`.
    pub available: i64,
}

/// An account as the postings need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its id.
    pub id: AccountId,
    /// Its number: what postings name it by in the database.
    pub no: i64,
    /// Its one currency.
    pub currency: Currency,
    /// The side on which it grows.
    pub normal_side: Side,
    /// What the available balance never goes below.
    pub floor: Option<Minor>,
    /// Whether it takes no more postings.
    pub closed: bool,
    /// What it has been debited and credited.
    pub totals: Totals,
    /// Grows by one with every change of what it holds: a posting, a reservation or its release.
    pub version: i64,
    /// How many postings it has had.
    pub postings: i64,
    /// When it was last posted to, in microseconds; its postings' times never go back.
    pub posted_at: i64,
    /// The last link of its chain, as it was read.
    pub head: Hash,
}

impl Account {
    /// An account without postings.
    pub fn opened(opening: &Opening, no: i64, created_at: i64) -> Account {
        Account {
            id: opening.id.clone(),
            no,
            currency: opening.currency,
            normal_side: opening.normal_side,
            floor: opening.floor,
            closed: false,
            totals: Totals::default(),
            version: 0,
            postings: 0,
            posted_at: created_at,
            head: opening.head(created_at),
        }
    }

    /// What it holds.
    pub fn balance(&self) -> Balance {
        let Totals {
            debits,
            credits,
            pending_debits,
            pending_credits,
        } = self.totals;
        let (plus, minus, held) = match self.normal_side {
            Side::Credit => (credits.0, debits.0, pending_debits.0),
            Side::Debit => (debits.0, credits.0, pending_credits.0),
        };
        // Totals are never negative, so their difference fits. Only an account without a floor could
        // reserve so much that the next one does not, and there the end of the range is low enough.
        let posted = plus - minus;
        Balance {
            posted,
            held,
            available: posted.saturating_sub(held),
        }
    }

    /// Whether it may hold `money` more or less.
    fn takes(&self, money: Money) -> Result<(), Refusal> {
        let account = || self.id.clone();
        if self.closed {
            return Err(Refusal::AccountClosed { account: account() });
        }
        if self.currency != money.currency() {
            return Err(Refusal::CurrencyMismatch {
                account: account(),
                expected: self.currency,
                got: money.currency(),
            });
        }
        Ok(())
    }

    fn grow(&mut self, total: fn(&mut Totals) -> &mut Minor, by: i64) -> Result<(), Refusal> {
        let grown = total(&mut self.totals).checked_add(Minor(by));
        *total(&mut self.totals) = grown.map_err(|_| Refusal::OutOfRange {
            account: self.id.clone(),
        })?;
        self.version += 1;
        Ok(())
    }

    fn keeps_its_floor(&self, side: Side) -> Result<(), Refusal> {
        match self.floor {
            Some(floor) if side != self.normal_side && self.balance().available < floor.0 => {
                Err(Refusal::InsufficientFunds {
                    account: self.id.clone(),
                })
            }
            _ => Ok(()),
        }
    }

    fn post(&mut self, side: Side, money: Money) -> Result<(), Refusal> {
        self.takes(money)?;
        self.grow(
            match side {
                Side::Debit => |totals| &mut totals.debits,
                Side::Credit => |totals| &mut totals.credits,
            },
            money.minor(),
        )?;
        self.postings += 1;
        self.keeps_its_floor(side)
    }

    fn reserve(&mut self, side: Side, money: Money) -> Result<(), Refusal> {
        self.takes(money)?;
        self.grow(Totals::pending(side), money.minor())?;
        self.keeps_its_floor(side)
    }

    /// Gives back what was reserved: on a closed account too, since nothing is moved.
    fn release(&mut self, side: Side, money: Money) -> Result<(), Refusal> {
        self.grow(Totals::pending(side), -money.minor())
    }
}

/// Why the accounts do not allow an entry. Each is final for the request that met it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The available balance would go below the floor.
    InsufficientFunds {
        /// Whose.
        account: AccountId,
    },
    /// The account takes no more postings.
    AccountClosed {
        /// Which.
        account: AccountId,
    },
    /// There is no such account.
    AccountNotFound {
        /// Which.
        account: AccountId,
    },
    /// The posting is in another currency than the account.
    CurrencyMismatch {
        /// Which account.
        account: AccountId,
        /// Its currency.
        expected: Currency,
        /// The posting's.
        got: Currency,
    },
    /// The account's totals would not fit 64 bits.
    OutOfRange {
        /// Which account.
        account: AccountId,
    },
}

impl Refusal {
    /// The problem code a caller is told.
    pub fn code(&self) -> &'static str {
        match self {
            Refusal::InsufficientFunds { .. } => "insufficient_funds",
            Refusal::AccountClosed { .. } => "account_closed",
            Refusal::AccountNotFound { .. } => "account_not_found",
            Refusal::CurrencyMismatch { .. } => "currency_mismatch",
            Refusal::OutOfRange { .. } => "invalid_amount",
        }
    }

    /// The account that did not allow it.
    pub fn account(&self) -> &AccountId {
        match self {
            Refusal::InsufficientFunds { account }
            | Refusal::AccountClosed { account }
            | Refusal::AccountNotFound { account }
            | Refusal::CurrencyMismatch { account, .. }
            | Refusal::OutOfRange { account } => account,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // No amounts: whoever reads this may pay from the account without seeing into it.
            Refusal::InsufficientFunds { account } => {
                write!(
                    f,
                    "the available balance of `{account}` does not cover this"
                )
            }
            Refusal::AccountClosed { account } => write!(f, "account `{account}` is closed"),
            Refusal::AccountNotFound { account } => write!(f, "account `{account}` does not exist"),
            Refusal::CurrencyMismatch {
                account,
                expected,
                got,
            } => {
                write!(
                    f,
                    "account `{account}` is in {expected}, the posting in {got}"
                )
            }
            Refusal::OutOfRange { account } => {
                write!(
                    f,
                    "the totals of `{account}` would not fit 64 bits of minor units"
                )
            }
        }
    }
}

/// How an account stands after a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The account.
    pub account: AccountId,
    /// Its currency.
    pub currency: Currency,
    /// What it holds.
    pub balance: Balance,
    /// Its version.
    pub version: i64,
}

impl From<&Account> for Standing {
    fn from(account: &Account) -> Standing {
        Standing {
            account: account.id.clone(),
            currency: account.currency,
            balance: account.balance(),
            version: account.version,
        }
    }
}

/// A posting that took effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Posted {
    /// The account's number.
    pub account_no: i64,
    /// On which side.
    pub side: Side,
    /// By how much.
    pub money: Money,
    /// The posting's number in the account, from 1, without gaps.
    pub number: i64,
    /// How the account stands after it.
    pub after: Standing,
}

/// The accounts a batch touches, as read, and what the batch makes of them.
#[derive(Clone, Debug, Default)]
pub struct Book {
    accounts: HashMap<AccountId, Line>,
}

#[derive(Clone, Debug)]
struct Line {
    account: Account,
    version_read: i64,
}

impl Book {
    /// A book of these accounts.
    pub fn new(accounts: impl IntoIterator<Item = Account>) -> Book {
        let lines = accounts.into_iter().map(|account| {
            let version_read = account.version;
            (
                account.id.clone(),
                Line {
                    account,
                    version_read,
                },
            )
        });
        Book {
            accounts: lines.collect(),
        }
    }

    /// Applies an entry: all of its postings, or none and the reason. The answer is in the order of
    /// the postings.
    ///
    /// # Errors
    /// The first posting's refusal; the book is as before.
    pub fn post(&mut self, entry: &Checked<Entry>) -> Result<Vec<Posted>, Refusal> {
        // A checked entry names each account once, so the copies never overlap.
        let mut after = Vec::with_capacity(entry.postings().len());
        for posting in entry.postings() {
            let mut account = self.existing(&posting.account)?.clone();
            account.post(posting.side, posting.money)?;
            after.push(account);
        }
        let mut done = Vec::with_capacity(after.len());
        for (posting, account) in entry.postings().iter().zip(after) {
            done.push(Posted {
                account_no: account.no,
                side: posting.side,
                money: posting.money,
                number: account.postings,
                after: Standing::from(&account),
            });
            self.put(account);
        }
        Ok(done)
    }

    /// Reserves a transfer's amount on both of its accounts, or nothing.
    ///
    /// # Errors
    /// As [`Book::post`].
    pub fn reserve(&mut self, reservation: &Reservation) -> Result<[Standing; 2], Refusal> {
        let (mut debit, mut credit) = self.both(reservation)?;
        debit.reserve(Side::Debit, reservation.money)?;
        credit.reserve(Side::Credit, reservation.money)?;
        Ok(self.put_both(debit, credit))
    }

    /// Gives a reservation back.
    ///
    /// # Errors
    /// Only when its accounts are not in the book.
    pub fn release(&mut self, reservation: &Reservation) -> Result<[Standing; 2], Refusal> {
        let (mut debit, mut credit) = self.both(reservation)?;
        debit.release(Side::Debit, reservation.money)?;
        credit.release(Side::Credit, reservation.money)?;
        Ok(self.put_both(debit, credit))
    }

    /// Posts a reservation, whole or in part; what is left of it is released.
    ///
    /// # Errors
    /// A refusal of the posting, e.g. because an account was closed since; the book is as before.
    pub fn settle(
        &mut self,
        reservation: &Reservation,
        entry: &Checked<Entry>,
    ) -> Result<Vec<Posted>, Refusal> {
        let before = self.both(reservation)?;
        self.release(reservation)?;
        self.post(entry).inspect_err(|_| {
            self.put_both(before.0, before.1);
        })
    }

    fn existing(&self, id: &AccountId) -> Result<&Account, Refusal> {
        self.account(id).ok_or_else(|| Refusal::AccountNotFound {
            account: id.clone(),
        })
    }

    fn both(&self, reservation: &Reservation) -> Result<(Account, Account), Refusal> {
        let debit = self.existing(&reservation.debit)?.clone();
        Ok((debit, self.existing(&reservation.credit)?.clone()))
    }

    fn put_both(&mut self, debit: Account, credit: Account) -> [Standing; 2] {
        let standings = [Standing::from(&debit), Standing::from(&credit)];
        self.put(debit);
        self.put(credit);
        standings
    }

    fn put(&mut self, account: Account) {
        if let Some(line) = self.accounts.get_mut(&account.id) {
            line.account = account;
        }
    }

    /// The time of what is posted now: never before an account's last posting, whatever the clocks
    /// of several machines say.
    pub fn time(&self, now: i64) -> i64 {
        let last = self.accounts.values().map(|line| line.account.posted_at);
        last.max().map_or(now, |last| last.max(now))
    }

    /// The accounts that changed, in no order, each with the version it was read at.
    pub fn changed(&self) -> impl Iterator<Item = (&Account, i64)> {
        let moved = |line: &&Line| line.account.version != line.version_read;
        self.accounts
            .values()
            .filter(moved)
            .map(|line| (&line.account, line.version_read))
    }

    /// An account as it stands now.
    pub fn account(&self, id: &AccountId) -> Option<&Account> {
        self.accounts.get(id).map(|line| &line.account)
    }
}
