//! The rules of the journal, and its SQL on a real SQLite database whose batches run in shuffled
//! order.

mod booking;
mod openapi;
mod properties;
mod refunds;
mod rules;
mod sequences;
mod store;
mod support;
