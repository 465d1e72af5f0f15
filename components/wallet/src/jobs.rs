//! The tasks of `wallet-tasks`.

pub mod rebuild;
pub mod sweep;
