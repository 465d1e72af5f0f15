//! Bounds of this service, each with its reason.

/// Life of an access token, what product.md promises.
pub const ACCESS_TOKEN_SECONDS: u64 = 3_600;
/// Life of a refresh family from sign-in: long enough for a month's work, and every use rotates it.
pub const REFRESH_FAMILY_US: i64 = 30 * 24 * 3_600 * 1_000_000;
/// Random bytes of a refresh token: 256 bits cannot be guessed, so SHA-256 is enough to store it.
pub const REFRESH_TOKEN_BYTES: usize = 32;
/// The longest password that is hashed. Argon2 reads it all, so its length is work for us.
pub const PASSWORD_BYTES_MAX: usize = 1_024;
/// The shortest password an administrator may set (NIST SP 800-63B-4 §3.1.1.2 asks for 8 at least).
pub const PASSWORD_CHARS_MIN: usize = 8;
/// A user name; it appears in logs and headers.
pub const USERNAME_BYTES_MAX: usize = 64;
/// An address (RFC 5321 §4.5.3.1.3).
pub const EMAIL_BYTES_MAX: usize = 254;
/// Failed sign-ins in a row before the account is locked for a while.
pub const FAILURES_MAX: i64 = 5;
/// How long a lock lasts: two guesses a minute are of no use to anyone, and half a minute is what
/// a person needs to find the right password.
pub const LOCK_US: i64 = 30_000_000;
/// Failures older than this no longer count.
pub const FAILURES_FORGOTTEN_US: i64 = 15 * 60 * 1_000_000;
/// Bytes of the digest that names a throttle row. Three bound the table to 16.7 million rows
/// whatever names attackers try; that two accounts share a row is as likely as it is harmless.
pub const THROTTLE_ID_BYTES: usize = 3;
/// Clocks may differ by this much when an access token is introspected.
pub const CLOCK_TOLERANCE_SECONDS: u64 = 30;
