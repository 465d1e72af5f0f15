//! The lines of an export: JSON, one record a line, in this order:
//!
//! 1. [`HEADER`], 2. the checkpoint, 3. entries by id, 4. accounts by id, each followed by its
//!    postings from the first to the last the checkpoint covers, 5. the counts.
//!
//! A line has one form only: the fields in the order below, no spaces, minor units and microseconds
//! as numbers.

use serde::{Deserialize, Serialize};

use crate::{AccountSeal, EntrySeal, Hash, PostingSeal, Statement};

/// The first line.
pub const HEADER: &str = r#"{"type":"innover-journal","version":1}"#;

/// Any line but the first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Line {
    Checkpoint(CheckpointLine),
    Entry(EntryLine),
    Account(AccountLine),
    Posting(PostingLine),
    End(EndLine),
}

/// What was signed, by which key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointLine {
    pub number: i64,
    pub created_at: i64,
    pub accounts: i64,
    pub postings: i64,
    pub root: Hash,
    pub previous: Option<Hash>,
    /// Hex.
    pub signature: String,
}

impl CheckpointLine {
    /// What its signature is over.
    pub fn statement(&self) -> Statement {
        Statement {
            number: self.number,
            created_at: self.created_at,
            accounts: self.accounts,
            postings: self.postings,
            root: self.root,
            previous: self.previous,
        }
    }
}

/// An entry; its postings follow their accounts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntryLine {
    pub id: String,
    pub kind: String,
    pub reference: String,
    pub reverses: Option<String>,
    /// JSON text.
    pub metadata: String,
    pub created_by: String,
    pub created_at: i64,
    /// Its digest.
    pub hash: Hash,
}

impl EntryLine {
    pub fn seal(&self) -> EntrySeal<'_> {
        EntrySeal {
            id: &self.id,
            kind: &self.kind,
            reference: &self.reference,
            reverses: self.reverses.as_deref(),
            metadata: &self.metadata,
            created_by: &self.created_by,
            created_at: self.created_at,
        }
    }
}

/// An account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountLine {
    pub id: String,
    pub code: String,
    pub name: String,
    pub currency: String,
    pub normal_side: String,
    pub floor: Option<i64>,
    pub created_at: i64,
    /// How many postings follow.
    pub postings: i64,
    /// The first link of its chain.
    pub hash: Hash,
}

impl AccountLine {
    pub fn seal(&self) -> AccountSeal<'_> {
        AccountSeal {
            id: &self.id,
            code: &self.code,
            name: &self.name,
            currency: &self.currency,
            normal_side: &self.normal_side,
            floor: self.floor,
            created_at: self.created_at,
        }
    }
}

/// A posting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostingLine {
    pub account: String,
    /// Its number in the account, from 1, without gaps.
    pub number: i64,
    pub entry_id: String,
    pub position: i64,
    pub direction: String,
    pub amount: i64,
    pub balance_after: i64,
    /// The account's head after it.
    pub hash: Hash,
}

impl PostingLine {
    pub fn seal(&self) -> PostingSeal<'_> {
        PostingSeal {
            number: self.number,
            entry_id: &self.entry_id,
            position: self.position,
            direction: &self.direction,
            amount: self.amount,
            balance_after: self.balance_after,
        }
    }
}

/// How many records there were.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndLine {
    pub entries: i64,
    pub accounts: i64,
    pub postings: i64,
}
