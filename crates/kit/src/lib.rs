//! What every component shares: configuration, caller identity, the database, outbox and inbox,
//! idempotency, events and tasks, calls to other services, errors, logs.
//!
//! A component declares a [`Service`] (its router, handlers and migrations) and hands each request
//! to [`serve`]; everything a caller may rely on whatever the service is (health, tokens, limits,
//! problem+json) happens there.
#![warn(missing_docs)]

pub mod amount;
pub mod answer;
pub mod batch;
pub mod body;
pub mod call;
pub mod config;
pub mod context;
pub mod db;
pub mod events;
pub mod failure;
pub mod follow;
pub mod form;
pub mod group;
pub mod idempotency;
pub mod ids;
pub mod inbox;
pub mod jobs;
pub mod log;
pub mod page;
mod room;
pub mod service;
mod sql;
pub mod strict_json;
#[cfg(not(target_family = "wasm"))]
pub mod testing;
mod wake;
#[cfg(target_family = "wasm")]
pub mod wire;

pub use answer::Answer;
pub use batch::{Batch, BatchError, Emit, Expect};
pub use body::Body;
pub use context::{Cause, Cx};
pub use db::{Db, Row, Value};
pub use failure::{Failure, Result};
pub use form::FormOrJson;
pub use service::{Migration, Service, serve};

pub use innover_contract as contract;
pub use innover_contract::{Code, Event, Job, Problem};
