//! Identifiers and the clock: the only two sources of values that are not a caller's.

use std::time::{SystemTime, UNIX_EPOCH};

use innover_contract::TraceParent;
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// A new id with a prefix that says what it names, e.g. `pay_0192f3c2…` (UUIDv7 without hyphens:
/// time-ordered, since random keys cost 5.8× in bulk inserts).
pub fn new_id(prefix: &str) -> String {
    format!("{prefix}_{}", Uuid::now_v7().simple())
}

/// A new event, request or task id: a UUIDv7.
pub fn new_uuid() -> String {
    Uuid::now_v7().to_string()
}

/// The id of what the job `job_id` makes: the same on every try of the job. Its own digits where it
/// is a UUID, so that what came later sorts later; else digits of its SHA-256.
pub fn id_of_job(prefix: &str, job_id: &str) -> String {
    let uuid = Uuid::parse_str(job_id).unwrap_or_else(|_| {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&Sha256::digest(job_id)[..16]);
        Uuid::from_bytes(bytes)
    });
    format!("{prefix}_{}", uuid.simple())
}

/// Microseconds since the epoch, UTC.
pub fn now_us() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// 62 random bits, for waits that should not coincide.
pub fn random() -> u64 {
    Uuid::now_v7().as_u64_pair().1 << 2 >> 2
}

/// Starts a trace.
pub fn new_trace() -> TraceParent {
    let (trace, span) = (Uuid::now_v7(), Uuid::now_v7());
    let mut random = [0; 24];
    random[..16].copy_from_slice(trace.as_bytes());
    // The last eight bytes of a UUIDv7 are random, the first ones a clock.
    random[16..].copy_from_slice(&span.as_bytes()[8..]);
    TraceParent::start(random)
}

/// The parent id of an onward call in the same trace.
pub fn new_span(trace: &TraceParent) -> TraceParent {
    let id = Uuid::now_v7();
    let mut random = [0; 8];
    random.copy_from_slice(&id.as_bytes()[8..]);
    trace.child(random)
}
