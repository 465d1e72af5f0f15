//! What the payment service is asked: what a payment is, and to do what was decided on it.

use http::Method;
use innover_kit::{
    Code, Cx, Failure, Result,
    call::{self, Terms},
    contract::Identity,
};
use serde_json::{Value, json};

use crate::model::{Case, PaymentFacts, State, Verdict};

const PAYMENT: &str = "payment";

/// A payment, read for the service itself: nobody may have asked.
///
/// # Errors
/// Of the call.
pub async fn facts(cx: &Cx, payment_id: &str) -> Result<PaymentFacts> {
    let terms = Terms::itself(cx.service(), "payment:read");
    let path = format!("/v1/payments/{payment_id}");
    call::json_on(cx, &terms, Method::GET, PAYMENT, &path, None::<&()>, true).await
}

/// Who decided, as the payment service is told: no address, and nothing an operator could not see.
pub fn decider(identity: &Identity) -> String {
    let told = Identity {
        email: String::new(),
        ..identity.clone()
    };
    serde_json::to_string(&told).unwrap_or_default()
}

/// Lets the payment do what was decided on its case, on behalf of who decided, and says how its
/// review ended: what was asked, or what somebody else decided before.
///
/// # Errors
/// Of the call; nothing is known of the payment then, and the same may be asked again: the key makes
/// it one decision.
pub async fn decide(cx: &Cx, case: &Case, payment_id: &str) -> Result<Verdict> {
    let (verdict, word) = match case.state {
        State::Approved => (Verdict::Approve, "approve"),
        _ => (Verdict::Reject, "decline"),
    };
    let told = case.asked_as.as_deref().unwrap_or_default();
    let identity: Identity = serde_json::from_str(told)
        .map_err(|e| Failure::new(Code::Internal, format!("the decider is lost: {e}")))?;
    let terms = Terms::of(identity).key(format!("{}-decision", case.id));
    let path = format!("/v1/payments/{payment_id}/decision");
    let body = json!({
        "decision": word,
        "reason": format!("case {}: {}", case.id, case.decision_reason),
    });
    let asked: Result<Value> =
        call::json_on(cx, &terms, Method::POST, PAYMENT, &path, Some(&body), true).await;
    match asked {
        Ok(_) => Ok(verdict),
        Err(failure) if failure.code() == Code::InvalidState => {
            let facts = facts(cx, payment_id).await?;
            Verdict::of_payment(&facts.state).ok_or(failure)
        }
        Err(failure) => Err(failure),
    }
}
