//! The bounds of what a manifest may ask for, each with its reason.

use std::ops::RangeInclusive;

/// One delivery holds at most this many events: their effects share one commit, and a batch that
/// fails is delivered again as a whole.
pub const EVENT_BATCH: RangeInclusive<u64> = 1..=100;
/// Events in one delivery when the manifest does not say.
pub const EVENT_BATCH_DEFAULT: u32 = 100;

/// Jobs in one delivery, bounded for the same reason as events.
pub const JOB_BATCH: RangeInclusive<u64> = 1..=100;
/// Jobs in one delivery when the manifest does not say: one job, one commit.
pub const JOB_BATCH_DEFAULT: u32 = 1;

/// Requests or jobs at once. Each request at once may be an instance of its own, and 10,000
/// instances of a few megabytes are already more than a machine of today holds.
pub const CONCURRENCY: RangeInclusive<u64> = 1..=10_000;
/// Requests at once in one instance, whose memory they share and which a trap ends for all of them.
pub const INSTANCE_CONCURRENCY: RangeInclusive<u64> = 1..=64;
/// Instances side by side before they are full; no machine has more processors.
pub const PARALLELISM: RangeInclusive<u64> = 1..=1024;
/// Jobs at once per queue when the manifest does not say (Celery users expect a small number).
pub const JOB_CONCURRENCY_DEFAULT: u32 = 2;

/// A deadline of a day is no deadline; a job that needs more has to be cut into parts.
pub const DEADLINE_MS: RangeInclusive<u64> = 1..=24 * 60 * 60 * 1000;
/// How long one run of a task may take when the manifest does not say.
pub const TASK_DEADLINE_MS_DEFAULT: u64 = 60_000;

/// wasm32 addresses 4 GiB; below 1 MiB the runtime of a Rust guest does not start.
pub const MEMORY_MB: RangeInclusive<u64> = 1..=4096;

/// With the longest backoff of ten minutes, 1,000 runs are a week: beyond it nobody waits.
pub const TASK_ATTEMPTS: RangeInclusive<u64> = 1..=1000;
/// Runs before a dead letter when the manifest does not say.
pub const TASK_ATTEMPTS_DEFAULT: u32 = 10;
