//! Every bound of this service, each with its reason. What an expression may be is the engine's.

/// Rules of one set: an operator reads them all.
pub const RULES_MAX: usize = 200;

/// Elements of a list that is a fact.
pub const LIST_ITEMS_MAX: usize = 200;

/// Bytes of a text that is a fact: searching in one is linear in it.
pub const TEXT_BYTES_MAX: usize = 1_024;

/// Bytes of a rule's id or of a reason code.
pub const NAME_BYTES_MAX: usize = 64;

/// Reason codes of one rule.
pub const REASONS_MAX: usize = 10;

/// Bytes of a description.
pub const DESCRIPTION_BYTES_MAX: usize = 500;

/// Largest weight; the weights of a full set still fit an `i64`.
pub const WEIGHT_MAX: i64 = 1_000;
