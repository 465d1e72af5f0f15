//! The rule engine: whatever component spin.toml plugs in under `innover:risk/rules`. Native builds
//! have no composition and call the shipped one.

#[cfg(target_family = "wasm")]
pub use plugged::innover::risk::{
    facts::{Fact, Value},
    rules::{Error, Fault, Matched, Outcome, check, evaluate},
};
#[cfg(not(target_family = "wasm"))]
pub use rules_engine::{Error, Fact, Fault, Matched, Outcome, Value, check, evaluate};

#[cfg(target_family = "wasm")]
mod plugged {
    wit_bindgen::generate!({
        path: "../../wit/risk",
        world: "rules-user",
        additional_derives: [PartialEq, Eq],
    });
}
