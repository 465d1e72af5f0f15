//! Entries: between 2 and 64 postings that balance in every currency.

use std::{collections::BTreeSet, fmt};

use innover_money::{Currency, Money};

use super::AccountId;
use crate::limits::{POSTINGS_MAX, POSTINGS_MIN};

/// The side of an account a posting stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Left.
    Debit,
    /// Right.
    Credit,
}

impl Side {
    /// `debit` or `credit`, as stored and sent.
    pub fn as_str(self) -> &'static str {
        match self {
            Side::Debit => "debit",
            Side::Credit => "credit",
        }
    }

    /// The other one.
    pub fn opposite(self) -> Side {
        match self {
            Side::Debit => Side::Credit,
            Side::Credit => Side::Debit,
        }
    }

    /// The side with this name.
    pub fn parse(text: &str) -> Option<Side> {
        match text {
            "debit" => Some(Side::Debit),
            "credit" => Some(Side::Credit),
            _ => None,
        }
    }
}

/// One line of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Posting {
    /// The account it changes.
    pub account: AccountId,
    /// On which side.
    pub side: Side,
    /// By how much; always more than nothing.
    pub money: Money,
}

impl Posting {
    /// A debit of `account`.
    pub fn debit(account: AccountId, money: Money) -> Posting {
        Posting {
            account,
            side: Side::Debit,
            money,
        }
    }

    /// A credit of `account`.
    pub fn credit(account: AccountId, money: Money) -> Posting {
        Posting {
            account,
            side: Side::Credit,
            money,
        }
    }
}

/// An entry as somebody wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its lines, in the order they are shown.
    pub postings: Vec<Posting>,
}

/// What passed its check. Nothing outside this file can make one, so whoever holds a
/// `Checked<Entry>` holds an entry that balances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked<T>(T);

impl Checked<Entry> {
    /// Its lines.
    pub fn postings(&self) -> &[Posting] {
        &self.0.postings
    }
}

/// Why something is no journal entry, whatever the accounts hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryError {
    /// Fewer than 2 or more than 64 postings.
    Count(usize),
    /// A posting of nothing or less.
    NotPositive {
        /// Its place in the entry, from 0.
        position: usize,
    },
    /// An account is named twice: what it gets is one posting.
    SameAccount {
        /// The second mention's place in the entry, from 0.
        position: usize,
    },
    /// Debits and credits of a currency differ.
    Unbalanced {
        /// The currency.
        currency: Currency,
        /// Sum of its debits in minor units.
        debits: i128,
        /// Sum of its credits in minor units.
        credits: i128,
    },
}

impl EntryError {
    /// The problem code a caller is told.
    pub fn code(&self) -> &'static str {
        match self {
            EntryError::Unbalanced { .. } => "unbalanced",
            EntryError::NotPositive { .. } => "invalid_amount",
            EntryError::Count(_) | EntryError::SameAccount { .. } => "invalid_request",
        }
    }

    /// JSON pointer to the field at fault in a request.
    pub fn pointer(&self) -> String {
        match self {
            EntryError::NotPositive { position } => format!("/postings/{position}/amount"),
            EntryError::SameAccount { position } => format!("/postings/{position}/account"),
            EntryError::Count(_) | EntryError::Unbalanced { .. } => "/postings".into(),
        }
    }
}

impl fmt::Display for EntryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EntryError::Count(n) => {
                write!(
                    f,
                    "an entry has {POSTINGS_MIN} to {POSTINGS_MAX} postings, not {n}"
                )
            }
            EntryError::NotPositive { .. } => f.write_str("a posting moves more than nothing"),
            EntryError::SameAccount { .. } => {
                f.write_str("an entry names each account once; combine the amounts")
            }
            EntryError::Unbalanced {
                currency,
                debits,
                credits,
            } => {
                let (debits, credits) = (shown(*debits, *currency), shown(*credits, *currency));
                write!(
                    f,
                    "debits of {debits} and credits of {credits} {currency} differ"
                )
            }
        }
    }
}

/// A sum in major units; one beyond 64 bits stays in minor units, which only a hostile entry has.
fn shown(minor: i128, currency: Currency) -> String {
    let money = i64::try_from(minor)
        .ok()
        .and_then(|minor| Money::new(minor, currency).ok());
    money.map_or_else(|| format!("{minor} minor units"), Money::to_decimal_string)
}

impl Entry {
    /// Checks what can be checked without the accounts.
    ///
    /// # Errors
    /// The first rule it breaks.
    pub fn check(self) -> Result<Checked<Entry>, EntryError> {
        let count = self.postings.len();
        if !(POSTINGS_MIN..=POSTINGS_MAX).contains(&count) {
            return Err(EntryError::Count(count));
        }
        let mut accounts = BTreeSet::new();
        // A handful of currencies at most: a scan beats a map.
        let mut sums: Vec<(Currency, i128, i128)> = Vec::new();
        for (position, posting) in self.postings.iter().enumerate() {
            if !posting.money.is_positive() {
                return Err(EntryError::NotPositive { position });
            }
            if !accounts.insert(&posting.account) {
                return Err(EntryError::SameAccount { position });
            }
            let currency = posting.money.currency();
            let at = sums
                .iter()
                .position(|(c, ..)| *c == currency)
                .unwrap_or_else(|| {
                    sums.push((currency, 0, 0));
                    sums.len() - 1
                });
            // 64 amounts of 63 bits stay far below i128.
            let minor = i128::from(posting.money.minor());
            match posting.side {
                Side::Debit => sums[at].1 += minor,
                Side::Credit => sums[at].2 += minor,
            }
        }
        match sums
            .into_iter()
            .find(|(_, debits, credits)| debits != credits)
        {
            Some((currency, debits, credits)) => Err(EntryError::Unbalanced {
                currency,
                debits,
                credits,
            }),
            None => Ok(Checked(self)),
        }
    }
}
