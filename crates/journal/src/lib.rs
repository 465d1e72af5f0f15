//! The sealed journal: how postings are chained, what a checkpoint signs, how an export looks and how
//! it is verified with the public key alone.
//!
//! The ledger seals what it writes and signs checkpoints; `innover ledger verify` reads an export.
//! Pure: no I/O, no clock, no randomness, and no opinion on who may post what.

#![allow(
    clippy::missing_errors_doc,
    reason = "the error types say when they occur"
)]

mod checkpoint;
mod hash;
mod line;
mod seal;
mod verify;

pub use checkpoint::{Head, PublicKey, SigningKey, Statement, root};
pub use hash::{Hash, NotAHash};
pub use line::{AccountLine, CheckpointLine, EndLine, EntryLine, HEADER, Line, PostingLine};
pub use seal::{AccountSeal, EntrySeal, PostingSeal};
pub use verify::{Fault, Summary, Verifier, verify};
