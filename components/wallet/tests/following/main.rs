//! How wallets follow the ledger: the rule, and its SQL on a real SQLite database whose batches run
//! in shuffled order.

mod comparison;
mod events;
mod limits;
mod movements;
mod openapi;
mod rules;
mod support;
