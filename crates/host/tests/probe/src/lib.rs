//! A guest that does on request what a real one does by mistake or by malice: traps, loops, fills
//! memory, leaves a transaction open, reaches for files and hosts it was not given.

#[cfg(target_family = "wasm")]
mod entry;
#[cfg(target_family = "wasm")]
mod postgres;
#[cfg(target_family = "wasm")]
mod redis;
#[cfg(target_family = "wasm")]
mod sql;
