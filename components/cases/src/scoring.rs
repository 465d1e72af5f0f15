//! What the scoring service is asked, whoever asks: a job, or a person who waits.

use http::Method;
use innover_kit::{
    Code, Cx, Failure, Result,
    call::{self, Terms},
};
use serde_json::json;

use crate::{
    model::{Case, Score, Verdict, features},
    payment,
};

const SCOPE: &str = "scoring:read scoring:write";
/// Characters of a title that fit its bound whatever they are.
const TITLE_CHARS: usize = 125;
/// Every model's range.
const SCORE_MAX: i64 = 1_000;

/// What asking for a score comes to.
pub enum Asked {
    /// The score.
    Score(Score),
    /// None: the review of the case's payment is over.
    Settled(Verdict),
}

/// Asks for the score of a case. Asking changes nothing there, so it is repeated when it fails:
/// timeout, retries with jitter, circuit breaker and bulkhead are those of every call.
///
/// # Errors
/// Of the call, or of the one that reads the case's payment.
pub async fn ask(cx: &Cx, case: &Case) -> Result<Asked> {
    let facts = match &case.payment_id {
        Some(id) => Some(payment::facts(cx, id).await?),
        None => None,
    };
    // Over Kafka the end of a review may have been told before its beginning, when there was no case.
    if let Some(verdict) = facts.as_ref().and_then(|f| Verdict::of_payment(&f.state)) {
        return Ok(Asked::Settled(verdict));
    }
    // For people who read the scoring, which takes 500 bytes.
    let title: String = case.title.chars().take(TITLE_CHARS).collect();
    let body = json!({
        "case_id": case.id,
        "title": title,
        "features": features(case, facts.as_ref()),
    });
    let terms =
        Terms::itself(cx.service(), SCOPE).key(format!("{}-score-{}", case.id, case.version));
    let score: Score = call::json_on(
        cx,
        &terms,
        Method::POST,
        "scoring",
        "/v1/scoring",
        Some(&body),
        true,
    )
    .await?;
    if (0..=SCORE_MAX).contains(&score.score) {
        return Ok(Asked::Score(score));
    }
    let what = format!("`scoring`: {} is no score of 0 to {SCORE_MAX}", score.score);
    Err(Failure::new(Code::UpstreamError, what))
}
