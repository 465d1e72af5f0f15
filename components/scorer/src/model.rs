//! A points table: each effect looks at one feature, or at two together, finds the bin that the values
//! fall into and adds that bin's points. The score is the sum, kept within 0 to 1000.
//!
//! 500 is an even chance of fraud on the data the model was trained from, and every 50 points double
//! or halve the odds. A feature that is absent adds nothing.

use serde::{Deserialize, Serialize};

use crate::{
    Error, Fact, Feature, Reason, Scored, Value,
    limits::{FACTS_MAX, LIST_ITEMS_MAX, SCORE_MAX},
};

/// The model as `model.json` holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Name and version, recorded with each score.
    pub name: String,
    /// The score when nothing is known.
    pub base: i32,
    /// In the order in which equal effects stand among the reasons.
    pub effects: Vec<Effect>,
}

/// What one feature, or two together, do to the score.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Effect {
    /// The reason's code when points are added.
    pub raises: String,
    /// The reason's code when points are taken away.
    pub lowers: String,
    /// One axis, or two whose bins are crossed. The reason names the first one's feature.
    pub axes: Vec<Axis>,
    /// One number per bin; of two axes the second's bins stand together.
    pub points: Vec<i32>,
}

/// A feature and how its values are put into bins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Axis {
    /// The feature's name.
    pub feature: String,
    /// Its bins.
    pub bins: Bins,
}

/// How values are put into bins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bins {
    /// An integer: bin 0 lies below the first edge, bin n at or above the n-th.
    Integer(Vec<i64>),
    /// False, true.
    Boolean,
    /// A text: one bin per value, then one for all others.
    Text(Vec<String>),
    /// A list of texts: the first of these values that is in it, then one bin for lists of other
    /// values, then one for the empty list.
    Texts(Vec<String>),
}

impl Bins {
    /// How many there are.
    pub fn count(&self) -> usize {
        match self {
            Bins::Integer(edges) => edges.len() + 1,
            Bins::Boolean => 2,
            Bins::Text(values) => values.len() + 1,
            Bins::Texts(values) => values.len() + 2,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Bins::Integer(_) => "integer",
            Bins::Boolean => "boolean",
            Bins::Text(_) => "text",
            Bins::Texts(_) => "texts",
        }
    }

    /// The bin of a value; `None` when it is of another type.
    fn find(&self, value: &Value) -> Option<usize> {
        match (self, value) {
            (Bins::Integer(edges), Value::Integer(n)) => {
                Some(edges.iter().filter(|edge| n >= *edge).count())
            }
            (Bins::Boolean, Value::Boolean(flag)) => Some(usize::from(*flag)),
            (Bins::Text(values), Value::Text(text)) => {
                let at = values.iter().position(|value| value == text);
                Some(at.unwrap_or(values.len()))
            }
            (Bins::Texts(values), Value::Texts(texts)) => {
                let at = values.iter().position(|value| texts.contains(value));
                Some(at.unwrap_or(values.len() + usize::from(texts.is_empty())))
            }
            _ => None,
        }
    }
}

impl Axis {
    /// The bin of this feature among the facts; `None` when it is absent.
    fn bin(&self, facts: &[Fact]) -> Result<Option<usize>, Error> {
        let Some(fact) = facts.iter().find(|fact| fact.name == self.feature) else {
            return Ok(None);
        };
        if let Value::Texts(texts) = &fact.value
            && texts.len() > LIST_ITEMS_MAX
        {
            return Err(Error::LimitExceeded(self.feature.clone()));
        }
        match self.bins.find(&fact.value) {
            Some(bin) => Ok(Some(bin)),
            None => Err(Error::WrongType(self.feature.clone())),
        }
    }
}

impl Effect {
    /// How many bins it has.
    pub fn bins(&self) -> usize {
        self.axes.iter().map(|axis| axis.bins.count()).product()
    }

    /// The bin the facts fall into; `None` when one of its features is absent.
    ///
    /// # Errors
    /// A feature is of another type, or a list too long.
    pub fn bin(&self, facts: &[Fact]) -> Result<Option<usize>, Error> {
        let mut bin = Some(0);
        // Every axis is looked at, so that a wrong type is found whatever else is absent.
        for axis in &self.axes {
            let next = axis.bin(facts)?;
            bin = bin
                .zip(next)
                .map(|(bin, next)| bin * axis.bins.count() + next);
        }
        Ok(bin)
    }
}

impl Model {
    /// Reads a model and checks that it is whole.
    ///
    /// # Errors
    /// A sentence about what is wrong with the text.
    pub fn read(json: &str) -> Result<Model, String> {
        let model: Model = serde_json::from_str(json).map_err(|e| e.to_string())?;
        for effect in &model.effects {
            if effect.axes.is_empty() || effect.points.len() != effect.bins() {
                return Err(format!(
                    "`{}` has {} points for {} bins",
                    effect.raises,
                    effect.points.len(),
                    effect.bins()
                ));
            }
        }
        Ok(model)
    }

    /// The features it takes, each once.
    pub fn features(&self) -> Vec<Feature> {
        let mut features: Vec<Feature> = Vec::new();
        for axis in self.effects.iter().flat_map(|effect| &effect.axes) {
            if !features.iter().any(|known| known.name == axis.feature) {
                features.push(Feature {
                    name: axis.feature.clone(),
                    kind: axis.bins.kind().into(),
                    required: false,
                });
            }
        }
        features
    }

    /// The score of these facts; those the model does not know are ignored.
    ///
    /// # Errors
    /// A feature is of another type than the model takes, or a bound is exceeded.
    pub fn score(&self, facts: &[Fact]) -> Result<Scored, Error> {
        if facts.len() > FACTS_MAX {
            return Err(Error::LimitExceeded(format!(
                "{} facts, {FACTS_MAX} at most",
                facts.len()
            )));
        }
        let mut score = self.base;
        let mut reasons = Vec::new();
        for effect in &self.effects {
            let Some(bin) = effect.bin(facts)? else {
                continue;
            };
            let points = effect.points[bin];
            if points == 0 {
                continue;
            }
            score = score.saturating_add(points);
            let code = match points > 0 {
                true => &effect.raises,
                false => &effect.lowers,
            };
            reasons.push(Reason {
                code: code.clone(),
                feature: effect.axes[0].feature.clone(),
                points,
            });
        }
        reasons.sort_by_key(|reason| std::cmp::Reverse(reason.points.unsigned_abs()));
        let score = u16::try_from(score.clamp(0, SCORE_MAX)).unwrap_or_default();
        Ok(Scored {
            score,
            reasons,
            model: self.name.clone(),
        })
    }
}
