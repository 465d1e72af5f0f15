//! Accounts, what they hold, and the book that entries are applied to.

use std::{collections::BTreeMap, fmt};

use innover_journal::{AccountSeal, Hash};
use innover_money::{Currency, Minor, Money};

use super::{Checked, Entry, Side};

/// The id of an account, e.g. `acc_0192…` or `acc_house_cash_EUR`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId(String);

impl AccountId {
    /// An id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for AccountId {
    fn from(id: String) -> AccountId {
        AccountId(id)
    }
}

impl From<&str> for AccountId {
    fn from(id: &str) -> AccountId {
        AccountId(id.to_owned())
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
        AccountId(format!("acc_house_{}_{currency}", self.parts().0))
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

/// Sums of an account's postings, in minor units. They only grow.
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
    /// How many postings it has had.
    pub version: i64,
    /// The last link of its chain, as it was read.
    pub head: Hash,
}

impl Account {
    /// An account without postings.
    pub fn opened(opening: &Opening, created_at: i64) -> Account {
        Account {
            id: opening.id.clone(),
            currency: opening.currency,
            normal_side: opening.normal_side,
            floor: opening.floor,
            closed: false,
            totals: Totals::default(),
            version: 0,
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

    fn post(&mut self, side: Side, money: Money) -> Result<(), Refusal> {
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
        let total = match side {
            Side::Debit => &mut self.totals.debits,
            Side::Credit => &mut self.totals.credits,
        };
        let grown = total.checked_add(Minor(money.minor()));
        *total = grown.map_err(|_| Refusal::OutOfRange {
            account: self.id.clone(),
        })?;
        self.version += 1;
        match self.floor {
            Some(floor) if side != self.normal_side && self.balance().available < floor.0 => {
                Err(Refusal::InsufficientFunds {
                    account: self.id.clone(),
                })
            }
            _ => Ok(()),
        }
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

/// A posting that took effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Posted {
    /// The account.
    pub account: AccountId,
    /// On which side.
    pub side: Side,
    /// By how much.
    pub money: Money,
    /// What the account holds after it.
    pub balance: Balance,
    /// The account's version after it: the posting's number in that account.
    pub version: i64,
}

/// The accounts a batch touches, as read, and what the batch makes of them.
#[derive(Clone, Debug, Default)]
pub struct Book {
    accounts: BTreeMap<AccountId, Line>,
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
            let line = self.accounts.get(&posting.account);
            let missing = || Refusal::AccountNotFound {
                account: posting.account.clone(),
            };
            let mut account = line.ok_or_else(missing)?.account.clone();
            account.post(posting.side, posting.money)?;
            after.push(account);
        }
        let mut done = Vec::with_capacity(after.len());
        for (posting, account) in entry.postings().iter().zip(after) {
            done.push(Posted {
                account: account.id.clone(),
                side: posting.side,
                money: posting.money,
                balance: account.balance(),
                version: account.version,
            });
            if let Some(line) = self.accounts.get_mut(&posting.account) {
                line.account = account;
            }
        }
        Ok(done)
    }

    /// The accounts that changed, each with the version it was read at.
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
