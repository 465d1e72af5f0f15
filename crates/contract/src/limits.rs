//! Bounds both sides enforce, each with its reason.

/// A service token is accepted for this long. Calls are answered within the request deadline
/// (10 s) or a task's (60 s), so a longer life only helps a thief.
pub const SERVICE_TOKEN_SECONDS: u64 = 60;
/// Clocks of two machines of one cluster may differ by this much.
pub const CLOCK_SKEW_SECONDS: u64 = 30;
/// Longer tokens are refused before they are parsed (RFC 8725 has no number; ours need under 1 kB).
pub const TOKEN_BYTES_MAX: usize = 8_192;
/// A name that travels in `iss` or `aud`: component ids are short, and a key is derived from each.
pub const SERVICE_NAME_BYTES_MAX: usize = 64;
/// Events handed over in one `POST /_events`.
pub const EVENT_BATCH_MAX: usize = 100;
/// Jobs handed over in one `POST /_tasks`.
pub const JOB_BATCH_MAX: usize = 100;
/// A request body; ledger batches have a bound of their own.
pub const BODY_BYTES_MAX: usize = 1 << 20;
/// The body of a ledger batch (8,190 transfers of about 400 bytes).
pub const LEDGER_BODY_BYTES_MAX: usize = 4 << 20;
/// Nesting of a JSON body: deeper ones only occur in attacks on recursive parsers.
pub const JSON_DEPTH_MAX: usize = 64;
/// An `Idempotency-Key`, as long as the longest that common clients send.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;
/// A caller's `X-Request-Id` is kept up to this length.
pub const REQUEST_ID_BYTES_MAX: usize = 128;
/// A request is answered within this time, or with 504.
pub const REQUEST_DEADLINE_MS: u64 = 10_000;
/// A job ends within this time unless its task says otherwise.
pub const TASK_DEADLINE_MS_DEFAULT: u64 = 60_000;
/// Items of a page.
pub const PAGE_LIMIT_MAX: u32 = 200;
/// Items of a page when the caller does not say.
pub const PAGE_LIMIT_DEFAULT: u32 = 50;
