//! The shipped rule engine, a plug-in of the service `rules`: it evaluates an ordered list of rules
//! over typed facts. Pure: no host, no clock, no randomness, no state but a cache of what it parsed.
//!
//! `wit/risk/risk.wit` says what each type and function means; a component in any language that
//! exports the same interface takes this one's place (docs/risk-plugins.md).

mod cache;
pub mod expr;
pub mod facts;
pub mod limits;
mod set;

pub use bindings::exports::innover::risk::rules::{Decision, Error, Fault, Matched, Outcome};
pub use bindings::innover::risk::facts::{Fact, Value};

/// The types of the interface, made from its WIT. Native callers (tests, the service's own native
/// build) use the same ones, so that nothing is converted.
mod bindings {
    wit_bindgen::generate!({
        path: "../../wit/risk",
        world: "rules-plugin",
        additional_derives: [PartialEq, Eq],
    });

    #[cfg(target_family = "wasm")]
    mod entry {
        use super::exports::innover::risk::rules::{Decision, Error, Fact, Guest};

        struct Engine;

        impl Guest for Engine {
            fn check(
                rule_set: String,
                required: Vec<Fact>,
                optional: Vec<Fact>,
            ) -> Result<String, Error> {
                crate::check(&rule_set, &required, &optional)
            }

            fn evaluate(rule_set: String, facts: Vec<Fact>) -> Result<Decision, Error> {
                crate::evaluate(&rule_set, &facts)
            }
        }

        super::export!(Engine with_types_in super);
    }
}

/// Parses and checks a rule set. `required` and `optional` are facts of the types that evaluation
/// brings; their values are not looked at.
///
/// # Errors
/// [`Error::InvalidRuleSet`] with everything that is wrong.
pub fn check(rule_set: &str, required: &[Fact], optional: &[Fact]) -> Result<String, Error> {
    let known = facts::Known::new(required, optional);
    Ok(set::RuleSet::read(rule_set, Some(&known))?.compiled())
}

/// Decides on facts by a rule set, or by what [`check`] answered for it.
///
/// # Errors
/// As the interface says; the first rule that cannot be evaluated ends the evaluation.
pub fn evaluate(rule_set: &str, facts: &[Fact]) -> Result<Decision, Error> {
    let given = facts::Given::new(facts)?;
    cache::parsed(rule_set)?.decide(&given)
}
