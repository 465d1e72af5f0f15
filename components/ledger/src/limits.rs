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
/// Transfers of one batch: what fits 4 MiB at 512 bytes each, less one for the frame (and the most
/// that TigerBeetle takes).
pub const BATCH_MAX: usize = 8_190;
/// Requests for one entry or transfer that are booked in one batch: as many as an instance serves at
/// once.
pub const TOGETHER_MAX: usize = 64;
/// Seconds a reservation lasts when the caller does not say: a card authorisation's week.
pub const RESERVED_S_DEFAULT: i64 = 7 * 24 * 3600;
/// Seconds a reservation lasts at most.
pub const RESERVED_S_MAX: i64 = 90 * 24 * 3600;
/// Reservations that expire in one batch.
pub const EXPIRED_AT_ONCE_MAX: i64 = 500;
/// Open reservations an account's view lists; there may be more.
pub const HOLDS_SHOWN_MAX: i64 = 100;
/// Accounts in one `ledger.transfers_posted`: some 60 kB.
pub const ACCOUNTS_TOLD_AT_ONCE: usize = 500;
/// Lines of one page of the general ledger.
pub const GENERAL_LEDGER_PAGE: i64 = 1_000;

/// Records on one page of a journal's export.
pub const JOURNAL_PAGE: i64 = 1_000;
