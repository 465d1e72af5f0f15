//! A candidate beside the active version: what it would have decided is kept, and decides nothing.

use innover_kit::{Batch, Cx, Db, Failure, Result, ids, log};
use sha2::{Digest, Sha256};

use crate::{
    active,
    facts::Facts,
    model::{Decision, RuleError},
    store::{self, Difference},
};

/// Compares what the version in shadow decides with `decision`, which `version` made, and keeps it.
/// Whatever goes wrong here is logged and costs the caller nothing but time.
pub async fn compare(cx: &Cx, db: &mut Db, facts: &Facts, version: i64, decision: &Decision) {
    if let Err(failure) = try_compare(cx, db, facts, version, decision).await {
        let failure: Failure = failure;
        log::error(
            cx,
            "a version in shadow could not be compared",
            &[("error", failure.to_string().into())],
        );
    }
}

async fn try_compare(
    cx: &Cx,
    db: &mut Db,
    facts: &Facts,
    version: i64,
    decision: &Decision,
) -> Result<()> {
    let Some(candidate) = store::shadow(db).await?.version.filter(|v| *v != version) else {
        return Ok(());
    };
    let candidates = active::compiled(db, candidate).await?.decide(facts);
    let differs = differs(decision, &candidates);
    let facts = facts.json().to_string();
    let list = |codes: &[String]| serde_json::Value::from(codes).to_string();
    let (outcome, reasons, error) = match &candidates {
        Ok(made) => (
            made.outcome.as_str(),
            list(&made.reason_codes),
            String::new(),
        ),
        Err(error) => ("", list(&[]), error.to_string()),
    };
    let mut batch = Batch::new();
    store::keep_shadow_decision(
        &mut batch,
        candidate,
        &request(cx.request_id(), &facts),
        differs,
        &Difference {
            id: ids::new_id("shd"),
            active_version: version,
            active_outcome: decision.outcome.as_str().into(),
            active_reasons: list(&decision.reason_codes),
            outcome: outcome.into(),
            reasons,
            error,
            facts: if differs { facts } else { String::new() },
            decided_at: ids::now_us(),
        },
    );
    Ok(batch.commit(db).await?)
}

/// Another outcome, other reasons, or none.
fn differs(active: &Decision, candidates: &Result<Decision, RuleError>) -> bool {
    candidates.as_ref().map_or(true, |made| {
        made.outcome != active.outcome || made.reason_codes != active.reason_codes
    })
}

/// Names what was asked, so that a repeated request is kept once. The request's id alone would not
/// do, because a client may choose it and use it twice.
fn request(id: &str, facts: &str) -> String {
    let mut digest = Sha256::new();
    digest.update((id.len() as u64).to_le_bytes());
    digest.update(id);
    digest.update(facts);
    let digest = digest.finalize();
    digest[..16]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
