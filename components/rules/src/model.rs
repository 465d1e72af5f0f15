//! Rule sets and what they decide: pure.
//!
//! Every rule is evaluated; the strictest outcome of those that match decides, decline before review
//! before approve. So adding a rule can only make a set stricter, whatever its place, and an
//! explanation always names all that matched.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::{
    expr::{Condition, EvalError},
    facts::{FactId, Facts},
    limits::{
        DESCRIPTION_BYTES_MAX, NAME_BYTES_MAX, NODES_MAX, REASONS_MAX, RULES_MAX, WEIGHT_MAX,
    },
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

/// A rule set that can be evaluated: every rule compiled, names unique, bounds kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleSet {
    rules: Vec<(Rule, Condition)>,
}

/// Grows when the form or the meaning of compiled conditions changes.
const STORED_FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Stored<T> {
    format: u32,
    conditions: T,
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
    pub values: BTreeMap<&'static str, Value>,
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

/// A rule that could not be evaluated, which ends the whole evaluation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rule `{rule}`: {error}")]
pub struct RuleError {
    /// Its id.
    pub rule: String,
    /// Why.
    pub error: EvalError,
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
        let mut nodes = 0;
        let mut compiled = Vec::with_capacity(rules.len());
        for (at, rule) in rules.into_iter().enumerate() {
            let at = |field: &str| format!("/rules/{at}/{field}");
            if !is_name(&rule.id) {
                return Err(error(
                    at("id"),
                    format!("an id is 1 to {NAME_BYTES_MAX} of a-z, 0-9, `_`, `-` and `.`"),
                ));
            }
            if !ids.insert(rule.id.clone()) {
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
            let condition = Condition::compile(&rule.when)
                .map_err(|e| error(at("when"), format!("rule `{}`: {e}", rule.id)))?;
            nodes += condition.nodes();
            if nodes > NODES_MAX {
                return Err(error(
                    at("when"),
                    format!("the set has more than {NODES_MAX} steps"),
                ));
            }
            compiled.push((rule, condition));
        }
        Ok(RuleSet { rules: compiled })
    }

    /// The set of `rules` from what [`RuleSet::stored`] kept of it; compiled again when another
    /// release stored it in another form.
    ///
    /// # Errors
    /// [`SetError`] when this release does not accept the rules.
    pub fn restore(rules: Vec<Rule>, stored: &str) -> Result<RuleSet, SetError> {
        match serde_json::from_str::<Stored<Vec<Condition>>>(stored) {
            Ok(Stored {
                format: STORED_FORMAT,
                conditions,
            }) if conditions.len() == rules.len() => Ok(RuleSet {
                rules: rules.into_iter().zip(conditions).collect(),
            }),
            _ => RuleSet::compile(rules),
        }
    }

    /// The compiled conditions, to store beside the rules.
    pub fn stored(&self) -> String {
        let conditions: Vec<_> = self.rules.iter().map(|(_, condition)| condition).collect();
        // Text that cannot be read is compiled again, so an empty one is only slower.
        serde_json::to_string(&Stored {
            format: STORED_FORMAT,
            conditions,
        })
        .unwrap_or_default()
    }

    /// The rules as they were written.
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter().map(|(rule, _)| rule)
    }

    /// Decides.
    ///
    /// # Errors
    /// [`RuleError`] when one rule cannot be evaluated: what it would have said is unknown, so the
    /// others may not decide without it.
    pub fn decide(&self, facts: &Facts) -> Result<Decision, RuleError> {
        let mut matched: Vec<&(Rule, Condition)> = Vec::new();
        for entry in &self.rules {
            let (rule, condition) = entry;
            let holds = condition.holds(facts).map_err(|error| RuleError {
                rule: rule.id.clone(),
                error,
            })?;
            if holds {
                matched.push(entry);
            }
        }
        let outcome = matched
            .iter()
            .map(|(rule, _)| rule.outcome)
            .max()
            .unwrap_or(Outcome::Approve);
        let mut reason_codes: Vec<String> = Vec::new();
        for (rule, _) in matched.iter().filter(|(rule, _)| rule.outcome == outcome) {
            for code in &rule.reason_codes {
                if !reason_codes.contains(code) {
                    reason_codes.push(code.clone());
                }
            }
        }
        Ok(Decision {
            outcome,
            reason_codes,
            // At most RULES_MAX weights of at most WEIGHT_MAX each.
            score: matched.iter().map(|(rule, _)| rule.weight).sum(),
            matched: matched
                .into_iter()
                .map(|(rule, condition)| explain(rule, condition, facts))
                .collect(),
        })
    }
}

fn explain(rule: &Rule, condition: &Condition, facts: &Facts) -> Match {
    let value = |fact: &FactId| {
        let value = facts.get(*fact).map_or(Value::Null, |value| value.json());
        (fact.fact().name, value)
    };
    Match {
        rule: rule.id.clone(),
        outcome: rule.outcome,
        reason_codes: rule.reason_codes.clone(),
        values: condition.named().iter().map(value).collect(),
    }
}

fn is_name(text: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.'))
}
