//! What is sealed of accounts, entries and postings.

use crate::{Hash, hash::Fields};

/// An account as it was opened: the first link of its chain. Its metadata may change and is not
/// sealed.
#[derive(Clone, Copy, Debug)]
pub struct AccountSeal<'a> {
    pub id: &'a str,
    pub code: &'a str,
    pub name: &'a str,
    pub currency: &'a str,
    /// `debit` or `credit`.
    pub normal_side: &'a str,
    /// Minor units.
    pub floor: Option<i64>,
    /// Microseconds since the epoch.
    pub created_at: i64,
}

impl AccountSeal<'_> {
    /// The head of an account without postings.
    pub fn hash(&self) -> Hash {
        Fields::of("innover/account/1")
            .text(self.id)
            .text(self.code)
            .text(self.name)
            .text(self.currency)
            .text(self.normal_side)
            .optional_number(self.floor)
            .number(self.created_at)
            .done()
    }
}

/// An entry but for its postings, which carry its digest.
#[derive(Clone, Copy, Debug)]
pub struct EntrySeal<'a> {
    pub id: &'a str,
    pub kind: &'a str,
    pub reference: &'a str,
    /// The entry it reverses.
    pub reverses: Option<&'a str>,
    /// JSON text.
    pub metadata: &'a str,
    pub created_by: &'a str,
    /// Microseconds since the epoch.
    pub created_at: i64,
}

impl EntrySeal<'_> {
    /// Its digest.
    pub fn hash(&self) -> Hash {
        Fields::of("innover/entry/1")
            .text(self.id)
            .text(self.kind)
            .text(self.reference)
            .optional(self.reverses)
            .text(self.metadata)
            .text(self.created_by)
            .number(self.created_at)
            .done()
    }
}

/// A posting. Its account is not a field of its own: the account is the first link of the chain that
/// the posting continues.
#[derive(Clone, Copy, Debug)]
pub struct PostingSeal<'a> {
    /// Its number in the account, from 1.
    pub number: i64,
    pub entry_id: &'a str,
    /// Its place in the entry, from 0.
    pub position: i64,
    /// `debit` or `credit`.
    pub direction: &'a str,
    /// Minor units.
    pub amount: i64,
    /// What the account had posted after it, on its normal side, in minor units.
    pub balance_after: i64,
}

impl PostingSeal<'_> {
    /// The account's head after this posting; `previous` is the head before it.
    pub fn hash(&self, entry: &Hash, previous: &Hash) -> Hash {
        Fields::of("innover/posting/1")
            .number(self.number)
            .text(self.entry_id)
            .number(self.position)
            .text(self.direction)
            .number(self.amount)
            .number(self.balance_after)
            .hash(entry)
            .hash(previous)
            .done()
    }
}
