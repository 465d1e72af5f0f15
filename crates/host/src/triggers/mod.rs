//! Triggers other than HTTP.

pub(crate) mod redis;
