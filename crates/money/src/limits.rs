//! Every bound of this crate, each with its reason.

/// Longest amount text in bytes. The longest valid one is a sign, the 19 digits of an `i64` and a
/// point; the rest is room for leading zeros. What is longer is refused before it is read.
pub const AMOUNT_BYTES_MAX: usize = 40;

/// Most decimal digits of a rate's numerator or denominator: 10^38 is the last power of ten that
/// fits `u128`, so every rate of that many digits is held exactly.
pub const RATE_DIGITS_MAX: u32 = 38;

/// Longest rate text in bytes: two integers of [`RATE_DIGITS_MAX`] digits and the `/` between them.
pub const RATE_BYTES_MAX: usize = 77;

/// Significant digits shown of an amount that has no finite decimal form; the fraction stands
/// beside them, so nothing is lost.
pub const EXACT_DIGITS_SHOWN: usize = 38;

/// Most parts of one split. A journal entry holds 64 postings; the rest is room for batches.
pub const SPLIT_PARTS_MAX: usize = 8_190;

/// Largest margin: 10,000 basis points are the whole amount, more would leave the customer owing.
pub const MARGIN_BASIS_POINTS_MAX: u32 = 10_000;

/// Largest rate file. The whole ECB history since 1999 is 2 MB; this is room for a century.
pub const RATES_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Most currencies in one rate file. ISO 4217 lists 178; the ECB publishes 41.
pub const RATE_COLUMNS_MAX: usize = 256;

/// Most XML nodes in one rate file: the full XML history has under 300,000.
pub const XML_NODES_MAX: u32 = 1_000_000;
