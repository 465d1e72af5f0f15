//! Every bound of this service, each with its reason.

/// Features of one request, those the model does not know included.
pub const FEATURES_MAX: usize = 200;

/// Elements of a list that is a feature.
pub const LIST_ITEMS_MAX: usize = 200;

/// Bytes of a text that is a feature.
pub const TEXT_BYTES_MAX: usize = 1_024;

/// Bytes of a case's id.
pub const CASE_ID_BYTES_MAX: usize = 64;

/// Bytes of a case's title.
pub const TITLE_BYTES_MAX: usize = 500;

/// The highest score there is.
pub const SCORE_MAX: u16 = 1_000;

/// Reasons of one score, from a plug-in: they are stored and sent to every subscriber.
pub const REASONS_MAX: usize = 100;

/// Bytes of a reason's code, a feature's name or a model's name, from a plug-in.
pub const NAME_BYTES_MAX: usize = 128;
