//! Bounds of the wallet service, each with its reason.

/// An owner's id: identity providers' subjects are UUIDs or names; OpenID Connect allows 255.
pub const OWNER_BYTES_MAX: usize = 255;
/// Wallets of one look-up: a payment names two, a split over several payers a few more.
pub const LOOKUP_IDS_MAX: usize = 100;
