//! Bounds of the gateway, each with its reason.

/// How much of a body over its limit is read and thrown away, so that its sender gets to read why.
pub const DRAIN_BYTES_MAX: usize = 8 << 20;
/// Names and values of a request's headers together (spec: 16 kB). What a browser with a few
/// cookies sends is a tenth of it.
pub const HEADER_BYTES_MAX: usize = 16 << 10;
/// A token that was verified is taken from memory for this long at most, so that a removed signing
/// key or a corrected clock counts within a minute.
pub const VERIFIED_US: i64 = 60_000_000;
/// Verified tokens kept per instance: at 2 kB each, two megabytes.
pub const VERIFIED_MAX: usize = 1_024;
/// A minted service token (valid for 60 s) is used again for this long, which leaves a callee 40 s.
pub const MINTED_US: i64 = 20_000_000;
/// After a token with an unknown `kid`, the key set is fetched once; then not again for this long,
/// whatever `kid`s arrive: anybody can make them up.
pub const KEYS_COOL_DOWN_US: i64 = 10_000_000;
/// The key set is fetched anew after this long, so that a removed key stops being accepted.
pub const KEYS_FRESH_US: i64 = 300_000_000;
/// The key set answers from memory; slower means that identity is not there.
pub const KEYS_TIMEOUT_MS: u64 = 2_000;
/// A service's readiness is asked for this long: `/health` is for people and balancers who wait.
pub const READINESS_TIMEOUT_MS: u64 = 1_000;
/// How long an answer of `/health` is given again: it needs no token and asks every service.
pub const HEALTH_FRESH_US: i64 = 1_000_000;
/// A JWT header. Ours have 70 bytes.
pub const TOKEN_HEADER_BYTES_MAX: usize = 1_024;
/// Clocks of issuer and gateway may differ by this much.
pub const CLOCK_TOLERANCE_SECONDS: u64 = 30;
/// How long a browser may remember a preflight answer. Browsers cap it at two hours themselves.
pub const PREFLIGHT_SECONDS: u32 = 600;
