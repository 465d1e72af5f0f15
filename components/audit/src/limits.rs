//! Bounds of the audit trail, each with its reason.

/// Rows of one page of an export: about a megabyte.
pub const EXPORT_ROWS_MAX: u32 = 1_000;
/// Rows one verification reads at once: what an instance holds in a few megabytes.
pub const VERIFY_ROWS: i64 = 2_000;
/// Rows one request verifies; the next goes on from there. Far below a request's ten seconds.
pub const VERIFY_ROWS_MAX: i64 = 20_000;
