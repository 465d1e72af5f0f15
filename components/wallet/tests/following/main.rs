//! How wallets follow the ledger: the rule, and its SQL on a real SQLite database whose batches run
//! in shuffled order.

mod events;
mod openapi;
mod rules;
mod support;
