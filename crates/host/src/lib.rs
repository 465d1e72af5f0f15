//! The host: runs the components of a `spin.toml` on wasmtime, with Spin's interfaces.
//!
//! ```text
//! TCP ── serve ── route ──▶ service ──▶ an instance (guest) ──▶ interfaces/*
//!                              ▲                                   │ http://<component>.spin.internal
//!          Host::call (bridge) ┴───────────────────────────────────┘
//! Redis ── triggers/redis ─────▶ a fresh instance
//! ```
//!
//! `config` says what to run, `load` resolves the manifest and compiles (`cache`, `engine`), `service`
//! is one component with its limits, `shared` is what all of them use: databases, stores, metrics,
//! log. `limits` holds every bound with its reason.
//!
//! Run it on a multi-threaded runtime. Statements run on the worker that asks, commits on the
//! blocking pool; twice as many workers as cores has been the best on two cores.

#![deny(missing_docs)]

mod bindings;
mod cache;
mod compose;
mod config;
mod database;
mod engine;
mod guest;
mod hold;
mod instances;
mod interfaces;
pub mod limits;
mod load;
pub mod log;
mod management;
mod metrics;
mod opening;
mod postgres;
mod problem;
mod route;
mod serve;
mod service;
mod shared;
mod start;
mod triggers;

pub use config::{HostConfig, Instances, KeyValueStore, ReadinessCheck};
pub use database::{Commits, LockError, WriteGuard};
pub use management::{Handler, Listener};
pub use start::{CallError, Caller, Host};
