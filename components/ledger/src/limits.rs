//! Bounds of the ledger, each with its reason.

/// Postings of one entry, at least: money comes from one account and goes to another.
pub const POSTINGS_MIN: usize = 2;
/// Postings of one entry, at most: enough for a payroll page; longer ones are several entries.
pub const POSTINGS_MAX: usize = 64;
/// One posting made by hand, in minor units. Totals are 64-bit and only grow, so one slip must not
/// fill an account for good; 10^15 cents are ten trillion.
pub const POSTING_MINOR_MAX: i64 = 1_000_000_000_000_000;
/// An account's id, code and an entry's kind: names, not texts.
pub const NAME_CHARS_MAX: usize = 64;
/// An account's name and an entry's reference: what a bank statement carries (ISO 20022
/// unstructured remittance information).
pub const TEXT_CHARS_MAX: usize = 140;
/// Metadata of an account or an entry, as JSON: it travels with every view.
pub const METADATA_BYTES_MAX: usize = 4_096;
/// Accounts the trial balance names when they differ from their postings; one is enough to stop.
pub const DIFFERING_ACCOUNTS_MAX: i64 = 20;
/// How long an entry is tried again while others move its accounts: a calling service waits 3 s.
pub const CONTENTION_WAIT_US_MAX: i64 = 2_000_000;
/// The first pause is at most this long: a commit takes about a millisecond.
pub const CONTENTION_PAUSE_MS_MIN: u64 = 4;
/// No pause is longer: some twenty commits pass meanwhile.
pub const CONTENTION_PAUSE_MS_MAX: u64 = 40;

/// Records on one page of a journal's export.
pub const JOURNAL_PAGE: i64 = 1_000;
