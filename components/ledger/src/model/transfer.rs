//! Transfers in two phases: reserved, then posted (whole or in part), voided or expired, exactly one
//! of them once.

use std::fmt;

use innover_money::{Currency, Money};

use super::{AccountId, Checked, Entry, EntryError, Posting};

/// What is reserved: the two-posting entry that may follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// The account to be debited.
    pub debit: AccountId,
    /// The account to be credited.
    pub credit: AccountId,
    /// By how much at most.
    pub money: Money,
}

impl Reservation {
    /// The entry that posts `part` of it.
    ///
    /// # Errors
    /// As [`Entry::check`].
    pub fn entry(&self, part: Money) -> Result<Checked<Entry>, EntryError> {
        let postings = vec![
            Posting::debit(self.debit.clone(), part),
            Posting::credit(self.credit.clone(), part),
        ];
        Entry { postings }.check()
    }

    /// The part of it that is to be posted: all of it when no amount is asked for.
    ///
    /// # Errors
    /// When the amount is in another currency, nothing, or more than is reserved.
    pub fn part(&self, asked: Option<Money>) -> Result<Money, PartError> {
        let part = asked.unwrap_or(self.money);
        if part.currency() != self.money.currency() {
            return Err(PartError::Currency(self.money.currency()));
        }
        if !part.is_positive() {
            return Err(PartError::NotPositive);
        }
        if part.minor() > self.money.minor() {
            return Err(PartError::MoreThanReserved);
        }
        Ok(part)
    }
}

/// Why a part of a reservation cannot be posted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartError {
    /// The reservation is in this currency.
    Currency(Currency),
    /// Nothing or less.
    NotPositive,
    /// More than was reserved.
    MoreThanReserved,
}

impl fmt::Display for PartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PartError::Currency(currency) => write!(f, "the transfer is in {currency}"),
            PartError::NotPositive => {
                f.write_str("post more than nothing; to give it all back, void it")
            }
            PartError::MoreThanReserved => f.write_str("this is more than was reserved"),
        }
    }
}

/// Where a transfer in two phases stands. Only `pending` ever changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Its amount is reserved.
    Pending,
    /// Booked, whole or in part.
    Posted,
    /// Given back by somebody.
    Voided,
    /// Given back because nobody settled it in time.
    Expired,
}

impl State {
    /// As stored and sent.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Pending => "pending",
            State::Posted => "posted",
            State::Voided => "voided",
            State::Expired => "expired",
        }
    }

    /// The state with this name.
    pub fn parse(text: &str) -> Option<State> {
        [State::Pending, State::Posted, State::Voided, State::Expired]
            .into_iter()
            .find(|state| state.as_str() == text)
    }
}
