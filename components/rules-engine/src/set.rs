//! Rule sets: read from their text, checked, decided by.
//!
//! Every rule is evaluated; the strictest outcome of those that match decides, decline before review
//! before approve. So adding a rule can only make a set stricter, whatever its place, and an
//! explanation always names all that matched.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::IgnoredAny};

use crate::{
    Decision, Error, Fault, Matched, Outcome,
    expr::{Condition, EvalError},
    facts::{Given, Known},
    limits::{NODES_MAX, RULE_SET_BYTES_MAX, RULES_MAX},
};

/// What a rule asks for, as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Asked {
    Approve,
    Review,
    Decline,
}

impl From<Asked> for Outcome {
    fn from(asked: Asked) -> Outcome {
        match asked {
            Asked::Approve => Outcome::Approve,
            Asked::Review => Outcome::Review,
            Asked::Decline => Outcome::Decline,
        }
    }
}

/// A rule set as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Source {
    rules: Vec<SourceRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SourceRule {
    id: String,
    #[serde(default, rename = "description")]
    _description: Option<IgnoredAny>,
    when: String,
    outcome: Asked,
    #[serde(default)]
    reason_codes: Vec<String>,
    #[serde(default)]
    weight: i32,
}

/// Grows when the form or the meaning of compiled conditions changes.
const FORMAT: u32 = 2;

/// A rule set that can be evaluated. Also the form in which it is handed out: reading the text of
/// conditions costs milliseconds in a fresh instance, reading this does not.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RuleSet {
    format: u32,
    rules: Vec<Rule>,
    /// All facts that rules name, so that an evaluation looks for each only once.
    #[serde(skip)]
    names: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    id: String,
    condition: Condition,
    outcome: Asked,
    reason_codes: Vec<String>,
    weight: i32,
    /// The places in [`RuleSet::names`] of the facts its condition names.
    #[serde(skip)]
    named: Vec<usize>,
}

fn invalid(message: String) -> Error {
    Error::InvalidRuleSet(vec![Fault {
        rule: String::new(),
        message,
    }])
}

impl RuleSet {
    /// Reads a rule set in either form. With `known` facts it must be in its written form, and every
    /// expression is checked against them.
    ///
    /// # Errors
    /// [`Error::InvalidRuleSet`] with everything that is wrong.
    pub(crate) fn read(text: &str, known: Option<&Known>) -> Result<RuleSet, Error> {
        if text.len() > RULE_SET_BYTES_MAX {
            let message = format!("a rule set has at most {RULE_SET_BYTES_MAX} bytes");
            return Err(invalid(message));
        }
        if known.is_none()
            && let Ok(set) = serde_json::from_str::<RuleSet>(text)
            && set.format == FORMAT
        {
            return Ok(set.indexed());
        }
        let source: Source =
            serde_json::from_str(text).map_err(|e| invalid(format!("not a rule set: {e}")))?;
        Ok(RuleSet::compile(source, known)?.indexed())
    }

    fn indexed(mut self) -> RuleSet {
        let mut places = BTreeMap::new();
        for rule in &mut self.rules {
            for name in rule.condition.named() {
                let next = places.len();
                let place = *places.entry(name.clone()).or_insert(next);
                if place == next {
                    self.names.push(name.clone());
                }
                rule.named.push(place);
            }
        }
        self
    }

    fn compile(source: Source, known: Option<&Known>) -> Result<RuleSet, Error> {
        if source.rules.is_empty() || source.rules.len() > RULES_MAX {
            return Err(invalid(format!("a rule set has 1 to {RULES_MAX} rules")));
        }
        let (mut rules, mut faults, mut nodes) = (Vec::new(), Vec::new(), 0);
        for rule in source.rules {
            let condition = match Condition::compile(&rule.when, known) {
                Ok(condition) => condition,
                Err(error) => {
                    faults.push(Fault {
                        rule: rule.id,
                        message: error.to_string(),
                    });
                    continue;
                }
            };
            nodes += condition.nodes();
            if nodes > NODES_MAX {
                faults.push(Fault {
                    rule: rule.id,
                    message: format!("the set has more than {NODES_MAX} steps"),
                });
                break;
            }
            rules.push(Rule {
                id: rule.id,
                condition,
                outcome: rule.outcome,
                reason_codes: rule.reason_codes,
                weight: rule.weight,
                named: Vec::new(),
            });
        }
        if faults.is_empty() {
            Ok(RuleSet {
                format: FORMAT,
                rules,
                names: Vec::new(),
            })
        } else {
            Err(Error::InvalidRuleSet(faults))
        }
    }

    /// The form that is read fast.
    pub(crate) fn compiled(&self) -> String {
        // A text that cannot be read is refused, and its owner gives the written form instead.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Decides.
    ///
    /// # Errors
    /// The first rule that cannot be evaluated: what it would have said is unknown, so the others
    /// may not decide without it.
    pub(crate) fn decide(&self, given: &Given<'_>) -> Result<Decision, Error> {
        let facts: Vec<_> = self.names.iter().map(|name| given.get(name)).collect();
        let (mut matched, mut values) = (Vec::new(), Vec::new());
        for rule in &self.rules {
            values.clear();
            values.extend(rule.named.iter().map(|place| facts[*place]));
            match rule.condition.holds(&values) {
                Ok(true) => matched.push(Matched {
                    rule: rule.id.clone(),
                    outcome: rule.outcome.into(),
                    reasons: rule.reason_codes.clone(),
                    weight: rule.weight,
                    values: values
                        .iter()
                        .flatten()
                        .map(|fact| (*fact).clone())
                        .collect(),
                    absent: rule.condition.absent(&values),
                }),
                Ok(false) => {}
                Err(error) => return Err(failed(&rule.id, error)),
            }
        }
        let strictest = matched.iter().map(|rule| rule.outcome).max();
        Ok(Decision {
            outcome: strictest.unwrap_or(Outcome::Approve),
            // At most RULES_MAX 32-bit weights.
            score: matched.iter().map(|rule| i64::from(rule.weight)).sum(),
            matched,
        })
    }
}

fn failed(rule: &str, error: EvalError) -> Error {
    let fault = Fault {
        rule: rule.to_owned(),
        message: error.to_string(),
    };
    match error {
        EvalError::Overflow | EvalError::DivisionByZero => Error::Overflow(fault),
        EvalError::Type => Error::TypeMismatch(fault),
        EvalError::Absent(_) => Error::UnknownFact(fault),
    }
}
