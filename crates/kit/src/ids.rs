//! Identifiers and the clock: the only two sources of values that are not a caller's.

use std::time::{SystemTime, UNIX_EPOCH};

use innover_contract::TraceParent;
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
