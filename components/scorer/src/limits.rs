//! Every bound of the model, each with its reason.

/// Facts of one call, those the model does not know included: each is compared with its names.
pub const FACTS_MAX: usize = 200;

/// Items of a list that is a feature: each is compared with the values the model knows.
pub const LIST_ITEMS_MAX: usize = 200;

/// The highest score the interface allows.
pub const SCORE_MAX: i32 = 1_000;
