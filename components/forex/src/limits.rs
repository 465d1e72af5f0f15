//! Every bound of this service, each with its reason.

/// A quote is good for this long: the customer reads and confirms, the house carries the risk.
pub const QUOTE_LIFE_US: i64 = 30_000_000;

/// Quotes and rates older than this many days carry a warning. The ECB publishes every TARGET
/// working day and its longest pauses (Easter, Christmas) are five days, so a week without a new set
/// means that loading fails.
pub const RATE_AGE_DAYS_WARNED: i64 = 7;

/// Daily sets in one request: the whole history since 1999 is 7,126 days, and 2,500 of them took 0.7 s.
pub const RATE_SETS_MAX: usize = 10_000;

/// The largest body: the whole history as CSV is 2 MB.
pub const FILE_BYTES_MAX: usize = 4 << 20;

/// Longest name of a source, e.g. `ECB`.
pub const SOURCE_BYTES_MAX: usize = 32;
