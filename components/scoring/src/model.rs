//! What counts as a score: pure. A plug-in is somebody else's code, so what it says is checked before
//! it is believed.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    limits::{CASE_ID_BYTES_MAX, NAME_BYTES_MAX, REASONS_MAX, SCORE_MAX},
    scorer,
};

/// What one feature did to a score.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reason {
    /// A stable code to filter by.
    #[schema(example = "payee_new")]
    pub code: String,
    /// The feature it speaks of.
    #[schema(example = "new_payee")]
    pub feature: String,
    /// What it added, or took away when it is negative.
    #[schema(example = 64)]
    pub points: i32,
}

/// A score that may be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Score {
    /// 0 to 1000.
    pub score: u16,
    /// Why, in the order of the model.
    pub reasons: Vec<Reason>,
    /// The model's name and version.
    pub model: String,
}

/// Why a plug-in's answer is no score.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the scorer {0}")]
pub struct ScoreError(String);

impl Score {
    /// Takes a plug-in's answer when it keeps what the interface promises.
    ///
    /// # Errors
    /// [`ScoreError`] says what it breaks.
    pub fn accept(scored: scorer::Scored) -> Result<Score, ScoreError> {
        let is_name = |name: &str| (1..=NAME_BYTES_MAX).contains(&name.len());
        if scored.score > SCORE_MAX {
            return Err(ScoreError(format!(
                "answered a score of {}; a score is 0 to {SCORE_MAX}",
                scored.score
            )));
        }
        if !is_name(&scored.model) {
            return Err(ScoreError(format!(
                "named its model with {} bytes; a name has 1 to {NAME_BYTES_MAX}",
                scored.model.len()
            )));
        }
        if scored.reasons.len() > REASONS_MAX {
            return Err(ScoreError(format!(
                "gave {} reasons; {REASONS_MAX} at most",
                scored.reasons.len()
            )));
        }
        let named = |reason: &scorer::Reason| is_name(&reason.code) && is_name(&reason.feature);
        if !scored.reasons.iter().all(named) {
            return Err(ScoreError(format!(
                "gave a reason whose code or feature has not 1 to {NAME_BYTES_MAX} bytes"
            )));
        }
        Ok(Score {
            score: scored.score,
            model: scored.model,
            reasons: scored
                .reasons
                .into_iter()
                .map(|reason| Reason {
                    code: reason.code,
                    feature: reason.feature,
                    points: reason.points,
                })
                .collect(),
        })
    }
}

/// Whether a text can be a case's id.
pub fn is_case_id(id: &str) -> bool {
    (1..=CASE_ID_BYTES_MAX).contains(&id.len())
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scored() -> scorer::Scored {
        scorer::Scored {
            score: 1_000,
            model: "m/1".into(),
            reasons: vec![scorer::Reason {
                code: "c".into(),
                feature: "f".into(),
                points: -3,
            }],
        }
    }

    #[test]
    fn a_score_within_the_bounds_is_taken_as_it_is() {
        let score = Score::accept(scored()).map(|s| (s.score, s.reasons.len(), s.model));
        assert_eq!(score, Ok((1_000, 1, "m/1".into())));
    }

    #[test]
    fn an_answer_that_breaks_the_interface_is_no_score() {
        type Breaking = fn(&mut scorer::Scored);
        let broken: [(&str, Breaking); 6] = [
            ("1001", |s| s.score = 1_001),
            ("65535", |s| s.score = u16::MAX),
            ("named its model", |s| s.model.clear()),
            ("named its model", |s| {
                s.model = "x".repeat(NAME_BYTES_MAX + 1)
            }),
            ("reasons", |s| {
                s.reasons = vec![s.reasons[0].clone(); REASONS_MAX + 1]
            }),
            ("code or feature", |s| s.reasons[0].code.clear()),
        ];
        for (says, breaks) in broken {
            let mut answer = scored();
            breaks(&mut answer);
            let error = Score::accept(answer).map_err(|e| e.to_string());
            assert!(
                error.as_ref().is_err_and(|e| e.contains(says)),
                "{says}: {error:?}"
            );
        }
    }

    #[test]
    fn a_case_id_is_a_short_name() {
        for id in ["cas_0192f", "c", "A-1"] {
            assert!(is_case_id(id), "{id}");
        }
        for id in ["", "a b", "a/b", "é", &"x".repeat(CASE_ID_BYTES_MAX + 1)] {
            assert!(!is_case_id(id), "{id}");
        }
    }
}
