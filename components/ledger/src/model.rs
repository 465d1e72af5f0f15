//! What a journal entry is and what it does to accounts. Pure: no I/O, no clock, no randomness.
//!
//! An [`Entry`] becomes a [`Checked<Entry>`] or an [`EntryError`]; a [`Book`] holds the accounts a
//! batch touches and applies checked entries to them one after the other, all postings of an entry
//! or none, answering a [`Refusal`] when an account does not allow it. A [`Reservation`] holds a
//! transfer's amount on both accounts until it is posted, voided or expires.

mod account;
mod entry;
mod payment;
mod refund;
mod transfer;

pub use account::{
    Account, AccountId, Balance, Book, House, Opening, Posted, Refusal, Standing, Totals,
};
pub use entry::{Checked, Entry, EntryError, Posting, Side};
pub use payment::Converted;
pub use refund::Refunded;
pub use transfer::{PartError, Reservation, State};
