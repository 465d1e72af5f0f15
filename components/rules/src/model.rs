//! Rule sets and what they decide: pure. The engine reads and evaluates the expressions; what a rule
//! is besides its expression is checked here.
//!
//! Every rule is evaluated; the strictest outcome of those that match decides, decline before review
//! before approve. So adding a rule can only make a set stricter, whatever its place, and an
//! explanation always names all that matched.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::{
    engine,
    facts::{self, Facts},
    limits::{DESCRIPTION_BYTES_MAX, NAME_BYTES_MAX, REASONS_MAX, RULES_MAX, WEIGHT_MAX},
};

/// What a rule asks for, mildest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Nothing stands against it.
    Approve,
    /// A person decides.
    Review,
    /// It does not happen.
    Decline,
}

impl Outcome {
    /// The name on the wire and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Outcome::Approve => "approve",
            Outcome::Review => "review",
            Outcome::Decline => "decline",
        }
    }

    /// The outcome of this name.
    pub fn parse(name: &str) -> Option<Outcome> {
        let all = [Outcome::Approve, Outcome::Review, Outcome::Decline];
        all.into_iter().find(|outcome| outcome.as_str() == name)
    }
}

impl From<engine::Outcome> for Outcome {
    fn from(outcome: engine::Outcome) -> Outcome {
        match outcome {
            engine::Outcome::Approve => Outcome::Approve,
            engine::Outcome::Review => Outcome::Review,
            engine::Outcome::Decline => Outcome::Decline,
        }
    }
}

/// One rule as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Names the rule within its set.
    #[schema(example = "amount_over_limit")]
    pub id: String,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// A CEL expression over `facts`, true when the rule matches.
    #[schema(example = "has(facts.amount_eur_minor) && facts.amount_eur_minor > 5000000")]
    pub when: String,
    /// What it asks for.
    pub outcome: Outcome,
    /// Why, for machines: lower-case names.
    #[schema(example = json!(["amount_over_limit"]))]
    pub reason_codes: Vec<String>,
    /// What it adds to the score when it matches, 0 to 1000.
    #[serde(default)]
    pub weight: i64,
}

/// Why a rule set is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{fault}")]
pub struct SetError {
    /// JSON pointer within the request, e.g. `/rules/0/when`.
    pub param: String,
    /// What is wrong.
    pub fault: String,
}

/// A rule set that can be evaluated: every expression accepted by the engine, names unique, bounds
/// kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleSet {
    rules: Vec<Rule>,
    /// What the engine made of them.
    compiled: String,
}

/// The text the engine reads.
#[derive(Serialize)]
struct Text<'a> {
    rules: &'a [Rule],
}

/// A rule that matched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Match {
    /// Its id.
    pub rule: String,
    /// What it asked for.
    pub outcome: Outcome,
    /// Its reason codes.
    pub reason_codes: Vec<String>,
    /// The facts it names with their values; null for an absent one.
    #[schema(value_type = Object, example = json!({"amount_eur_minor": 6000000}))]
    pub values: BTreeMap<String, Value>,
}

/// What a set decided, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Decision {
    /// The strictest outcome of the rules that matched; approve when none did.
    pub outcome: Outcome,
    /// The reason codes of the rules with that outcome, in the order of the set, each once.
    pub reason_codes: Vec<String>,
    /// The weights of all rules that matched.
    pub score: i64,
    /// All rules that matched.
    pub matched: Vec<Match>,
}

/// Why there is no decision: one rule could not be evaluated, which ends the whole evaluation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RuleError(String);

impl From<engine::Error> for RuleError {
    fn from(error: engine::Error) -> RuleError {
        RuleError(said(&fault(error)))
    }
}

impl RuleSet {
    /// Compiles and checks rules.
    ///
    /// # Errors
    /// [`SetError`] for the first that is not acceptable.
    pub fn compile(rules: Vec<Rule>) -> Result<RuleSet, SetError> {
        let error = |param: String, fault: String| SetError { param, fault };
        if rules.is_empty() || rules.len() > RULES_MAX {
            return Err(error(
                "/rules".into(),
                format!("a rule set has 1 to {RULES_MAX} rules"),
            ));
        }
        let mut ids = std::collections::BTreeSet::new();
        for (at, rule) in rules.iter().enumerate() {
            let at = |field: &str| format!("/rules/{at}/{field}");
            if !is_name(&rule.id) {
                return Err(error(
                    at("id"),
                    format!("an id is 1 to {NAME_BYTES_MAX} of a-z, 0-9, `_`, `-` and `.`"),
                ));
            }
            if !ids.insert(&rule.id) {
                return Err(error(
                    at("id"),
                    format!("the id `{}` is used twice", rule.id),
                ));
            }
            if rule.description.len() > DESCRIPTION_BYTES_MAX {
                return Err(error(
                    at("description"),
                    format!("at most {DESCRIPTION_BYTES_MAX} bytes"),
                ));
            }
            let reasons = rule.reason_codes.len() <= REASONS_MAX
                && rule.reason_codes.iter().all(|code| is_name(code));
            if !reasons || (rule.reason_codes.is_empty() && rule.outcome != Outcome::Approve) {
                let fault = format!(
                    "a rule that declines or reviews says why: 1 to {REASONS_MAX} codes of a-z, 0-9, `_`, `-` and `.`"
                );
                return Err(error(at("reason_codes"), fault));
            }
            if !(0..=WEIGHT_MAX).contains(&rule.weight) {
                return Err(error(
                    at("weight"),
                    format!("a weight is 0 to {WEIGHT_MAX}"),
                ));
            }
        }
        let text = serde_json::to_string(&Text { rules: &rules })
            .map_err(|e| error("/rules".into(), e.to_string()))?;
        match engine::check(&text, &facts::declared(false), &facts::declared(true)) {
            Ok(compiled) => Ok(RuleSet { rules, compiled }),
            Err(refused) => {
                let fault = fault(refused);
                let at = rules.iter().position(|rule| rule.id == fault.rule);
                let param = at.map_or("/rules".into(), |at| format!("/rules/{at}/when"));
                Err(error(param, said(&fault)))
            }
        }
    }

    /// The set of `rules` from what [`RuleSet::stored`] kept of it; compiled again when that was
    /// another engine's, or another version's.
    ///
    /// # Errors
    /// [`SetError`] when this engine does not accept the rules.
    pub fn restore(rules: Vec<Rule>, stored: &str) -> Result<RuleSet, SetError> {
        // Whether it can be evaluated is of no interest without facts, only whether it can be read.
        match engine::evaluate(stored, &[]) {
            Err(engine::Error::InvalidRuleSet(_)) => RuleSet::compile(rules),
            _ => Ok(RuleSet {
                rules,
                compiled: stored.to_owned(),
            }),
        }
    }

    /// What the engine made of the rules, to store beside them.
    pub fn stored(&self) -> &str {
        &self.compiled
    }

    /// The rules as they were written.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Decides.
    ///
    /// # Errors
    /// [`RuleError`] when one rule cannot be evaluated: what it would have said is unknown, so the
    /// others may not decide without it.
    pub fn decide(&self, facts: &Facts) -> Result<Decision, RuleError> {
        let decision = engine::evaluate(&self.compiled, facts.given())?;
        let decisive = decision
            .matched
            .iter()
            .filter(|rule| rule.outcome == decision.outcome);
        let mut reason_codes: Vec<String> = Vec::new();
        for code in decisive.flat_map(|rule| &rule.reasons) {
            if !reason_codes.contains(code) {
                reason_codes.push(code.clone());
            }
        }
        Ok(Decision {
            outcome: decision.outcome.into(),
            reason_codes,
            score: decision.score,
            matched: decision.matched.into_iter().map(explain).collect(),
        })
    }
}

fn explain(matched: engine::Matched) -> Match {
    let values = matched.values.into_iter();
    let absent = matched.absent.into_iter();
    Match {
        rule: matched.rule,
        outcome: matched.outcome.into(),
        reason_codes: matched.reasons,
        values: values
            .map(|fact| (fact.name, facts::json(fact.value)))
            .chain(absent.map(|name| (name, Value::Null)))
            .collect(),
    }
}

/// The first fault of an error.
fn fault(error: engine::Error) -> engine::Fault {
    use engine::Error::{InvalidRuleSet, LimitExceeded, Overflow, TypeMismatch, UnknownFact};
    match error {
        InvalidRuleSet(faults) => faults.into_iter().next().unwrap_or(engine::Fault {
            rule: String::new(),
            message: "the rule engine does not take this rule set".into(),
        }),
        UnknownFact(fault) | TypeMismatch(fault) | Overflow(fault) | LimitExceeded(fault) => fault,
    }
}

fn said(fault: &engine::Fault) -> String {
    match fault.rule.as_str() {
        "" => fault.message.clone(),
        rule => format!("rule `{rule}`: {}", fault.message),
    }
}

fn is_name(text: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.'))
}
