//! The fraud model: whatever component spin.toml plugs in under `innover:risk/scorer`. Native builds
//! have no composition and call the shipped one.

#[cfg(not(target_family = "wasm"))]
pub use ::scorer::{Error, Fact, Feature, Reason, Scored, Value};
#[cfg(target_family = "wasm")]
pub use plugged::innover::risk::{
    facts::{Fact, Value},
    scorer::{Error, Feature, Reason, Scored},
};

#[cfg(not(target_family = "wasm"))]
use ::scorer as plugged_in;
#[cfg(target_family = "wasm")]
use plugged::innover::risk::scorer as plugged_in;

#[cfg(target_family = "wasm")]
mod plugged {
    wit_bindgen::generate!({
        path: "../../wit/risk",
        world: "scorer-user",
        additional_derives: [PartialEq, Eq],
    });
}

/// What the model takes. It is the same as long as the instance lives, so it is asked once.
pub fn features() -> &'static [Feature] {
    static FEATURES: std::sync::OnceLock<Vec<Feature>> = std::sync::OnceLock::new();
    FEATURES.get_or_init(plugged_in::features)
}

/// The score of these features.
///
/// # Errors
/// What the model refuses.
pub fn score(features: &[Fact]) -> Result<Scored, Error> {
    plugged_in::score(features)
}
