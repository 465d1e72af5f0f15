//! The shipped fraud model, a plug-in of the service `scoring`: a points table, trained from generated
//! data (`training/`), read from `model.json`. Pure: no host, no clock, no randomness, and integers
//! only, so the same features give the same score on every machine.
//!
//! `wit/risk/risk.wit` says what each type and function means; a component in any language that
//! exports the same interface takes this one's place (docs/risk-plugins.md).

pub mod limits;
pub mod model;

use std::sync::OnceLock;

pub use bindings::exports::innover::risk::scorer::{Error, Feature, Reason, Scored};
pub use bindings::innover::risk::facts::{Fact, Value};

use model::Model;

/// The types of the interface, made from its WIT. The training and the tests use the same ones.
mod bindings {
    wit_bindgen::generate!({
        path: "../../wit/risk",
        world: "scorer-plugin",
        additional_derives: [PartialEq, Eq],
    });

    #[cfg(target_family = "wasm")]
    mod entry {
        use super::exports::innover::risk::scorer::{Error, Fact, Feature, Guest, Scored};

        struct Scorer;

        impl Guest for Scorer {
            fn features() -> Vec<Feature> {
                crate::features()
            }

            fn score(features: Vec<Fact>) -> Result<Scored, Error> {
                crate::score(&features)
            }
        }

        super::export!(Scorer with_types_in super);
    }
}

/// The trained model. A test fails when the training makes another one.
pub const MODEL_JSON: &str = include_str!("../model.json");

/// Read once per instance: that takes longer than a score.
fn model() -> Result<&'static Model, Error> {
    static MODEL: OnceLock<Option<Model>> = OnceLock::new();
    MODEL
        .get_or_init(|| Model::read(MODEL_JSON).ok())
        .as_ref()
        .ok_or_else(|| Error::LimitExceeded("the shipped model cannot be read".into()))
}

/// What the model takes; nothing of it is required.
pub fn features() -> Vec<Feature> {
    model().map(Model::features).unwrap_or_default()
}

/// Scores one subject.
///
/// # Errors
/// As the interface says: a feature of another type than the model takes, or more than
/// [`limits`] allow.
pub fn score(features: &[Fact]) -> Result<Scored, Error> {
    model()?.score(features)
}
