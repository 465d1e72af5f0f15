//! PostgreSQL servers that guests reach: connections are pooled and lent for one statement each.
//!
//! A guest's connection is an address it may reach. Each statement runs on a session of the pool, so
//! that a guest that waits for something else, or keeps its connection between two requests, holds up
//! nobody. Only a statement that leaves something behind in its session (`BEGIN`, `SET`, `LISTEN` …)
//! pins the session to the guest's connection, until that is dropped.
//!
//! Invariant: a session goes back only when nothing runs on it, no transaction is open and its
//! settings are those it was opened with. One whose statement was given up (the guest trapped, its
//! deadline passed) is closed once that has ended: a SELECT is cancelled on the server, a write is not.

mod pool;
mod session;
mod value;

pub(crate) use pool::{Address, Servers, Unreachable};
pub(crate) use session::{Failed, Lease, writes};
