//! Money moves: orders, holds, limits, states, the sweep and the rebuild, against a small ledger.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod books;
mod holds;
mod limits;
mod orders;
mod rebuild;
mod states;
mod support;
mod sweep;
