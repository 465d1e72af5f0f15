//! Bounds of cases, each with its reason.

/// Characters of a title: one line of a list.
pub const TITLE_CHARS_MAX: usize = 200;
/// Characters of a comment: a page.
pub const COMMENT_CHARS_MAX: usize = 4_000;
/// Characters of a decision's reason: two or three sentences.
pub const REASON_CHARS_MAX: usize = 500;
/// Bytes of a person's id.
pub const OWNER_BYTES_MAX: usize = 128;
/// Wait before a case is scored again after the first failure; it doubles with each.
pub const SCORE_BACKOFF_US: i64 = 2_000_000;
/// Longest wait: scoring that was away for a day should not leave cases waiting for another.
pub const SCORE_BACKOFF_MAX_US: i64 = 600_000_000;
/// Spread of that wait in per cent, both ways, so that cases that failed together come back apart.
pub const SCORE_JITTER_PERCENT: i64 = 20;
/// An attempt that is overdue by this much has lost its job: a queue is seconds behind, not minutes.
pub const SCORE_OVERDUE_US: i64 = 120_000_000;
/// A payment that has not followed for this long has used up the tries of its job (ten, about nine
/// minutes with the queue's backoff).
pub const ASKED_OVERDUE_US: i64 = 1_800_000_000;
/// Cases one sweep looks at; the rest is the next sweep's.
pub const SWEEP_MAX: i64 = 100;
