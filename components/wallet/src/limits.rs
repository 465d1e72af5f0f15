//! Bounds of the wallet service, each with its reason.

/// An owner's id: identity providers' subjects are UUIDs or names; OpenID Connect allows 255.
pub const OWNER_BYTES_MAX: usize = 255;
/// Wallets of one look-up: a payment names two, a split over several payers a few more.
pub const LOOKUP_IDS_MAX: usize = 100;
/// Characters of a reference or a reason: what a bank statement carries (ISO 20022 unstructured
/// remittance).
pub const TEXT_CHARS_MAX: usize = 140;
/// A hold's life when the caller does not say: cards are held for a week.
pub const HOLD_SECONDS_DEFAULT: i64 = 7 * 86_400;
/// The longest life the ledger gives a reservation.
pub const HOLD_SECONDS_MAX: i64 = 90 * 86_400;
/// A movement whose outcome is not known for this long is given up, and refused by the ledger from then
/// on. A request lasts ten seconds, and a repeated one starts the time anew: no client waits any more.
pub const ASKED_AFTER_US: i64 = 180_000_000;
/// A hold that is being settled for this long is settled by the sweep: longer than a request.
pub const SETTLING_AFTER_US: i64 = 30_000_000;
/// A hold that should have expired for this long is asked for: the ledger looks at its own more often.
pub const EXPIRED_AFTER_US: i64 = 60_000_000;
/// Movements one sweep looks at; the rest is the next sweep's, ten seconds later. Each may cost a
/// call of three seconds at worst, and a task has sixty.
pub const SWEEP_MAX: i64 = 16;
/// Pages of accounts one job of a rebuild compares, 200 accounts each; the next job goes on.
pub const REBUILD_PAGES: usize = 10;
