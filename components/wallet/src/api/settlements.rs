//! A hold is captured or released, once.
//!
//! Who settles it is recorded first, as its claim: one request at a time. Then the ledger is asked,
//! which alone knows whether the hold has expired meanwhile, and what it says is recorded.

use axum::extract::Path;
use innover_kit::{
    Answer, Batch, Body, Cause, Code, Cx, Db, Failure, Result,
    amount::{self, Amount},
    batch::with_retries,
    idempotency::{self, IdempotencyKey},
};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{
    WRITE,
    holds::{HoldView, existing_hold},
    orders::{id_of, project, stored},
    wallets::existing,
};
use crate::{
    ledger::{self, Verdict, decimal},
    model::movement::{Claim, Movement, Settling, State},
    store::{self, movements::Changes},
};

/// What is captured of a hold.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CaptureRequest {
    /// In the hold's currency; all of it when absent. The rest is released.
    #[schema(value_type = Option<Amount>)]
    amount: Option<Amount>,
}

/// Nothing has to be said.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReleaseRequest {}

/// Capture a hold, whole or in part. The payee's owner does, or the house.
#[utoipa::path(post, path = "/v1/holds/{id}/capture", tag = "holds", request_body = CaptureRequest,
    params(("id" = String, Path), ("Idempotency-Key" = String, Header, description = "Unique to this capture")),
    responses((status = 200, body = HoldView), (status = 400, description = "invalid_amount: more than is held"),
              (status = 403, description = "not_owner"), (status = 404, description = "hold_not_found"),
              (status = 409, description = "invalid_state: it is captured, released or expired; conflict: another request is at it"),
              (status = 422, description = "wallet_not_active or account_closed")))]
pub async fn capture(cx: Cx, Path(id): Path<String>, body: Body<CaptureRequest>) -> Result<Answer> {
    let key = cx.require_idempotency(&body.fields)?;
    settle(
        &cx,
        &key,
        &id,
        Settling::Capture,
        body.value.amount.as_ref(),
    )
    .await
}

/// Release a hold. The payee's owner does, or the house.
#[utoipa::path(post, path = "/v1/holds/{id}/release", tag = "holds", request_body = ReleaseRequest,
    params(("id" = String, Path), ("Idempotency-Key" = String, Header, description = "Unique to this release")),
    responses((status = 200, body = HoldView), (status = 403, description = "not_owner"),
              (status = 404, description = "hold_not_found"),
              (status = 409, description = "invalid_state: it is captured, released or expired; conflict: another request is at it")))]
pub async fn release(cx: Cx, Path(id): Path<String>, body: Body<ReleaseRequest>) -> Result<Answer> {
    let key = cx.require_idempotency(&body.fields)?;
    settle(&cx, &key, &id, Settling::Release, None).await
}

async fn settle(
    cx: &Cx,
    key: &IdempotencyKey,
    id: &str,
    what: Settling,
    amount: Option<&Amount>,
) -> Result<Answer> {
    cx.require(WRITE)?;
    let db = Db::open().await?;
    if let Some(answer) = key.replay(&db).await? {
        return Ok(answer);
    }
    let hold = existing_hold(&db, id).await?;
    may_settle(cx, &db, &hold).await?;
    drop(db);
    let claim = Claim {
        what,
        id: id_of(cx, "stl", &format!("{}/{}", hold.id, what.as_str()))?,
        minor: match what {
            Settling::Capture => part(&hold, amount)?,
            Settling::Release => 0,
        },
    };
    let claimed = with_retries(async || take(cx, key, id, &claim).await).await?;
    let verdict = match claimed {
        Claimed::Ours(hold) => Some(ledger::settle(cx, &hold, &claim).await?),
        Claimed::Settled => None,
        Claimed::Answer(answer) => return Ok(answer),
        Claimed::Busy(failure) => return Err(failure),
    };
    with_retries(async || conclude(cx, key, id, &claim, verdict.as_ref()).await).await
}

/// A hold secures what its payee is owed, so it is not the payer's to settle.
async fn may_settle(cx: &Cx, db: &Db, hold: &Movement) -> Result<()> {
    let payee = match &hold.other_wallet {
        Some(payee) => existing(db, payee).await?.owner,
        // The house's: nobody's subject is empty.
        None => String::new(),
    };
    cx.require_actor_for(&payee)
}

fn part(hold: &Movement, amount: Option<&Amount>) -> Result<i64> {
    let Some(amount) = amount else {
        return Ok(hold.amount);
    };
    let money = amount::money(amount, hold.currency.code())?;
    if money.minor() > hold.amount {
        let what = format!(
            "{} {} are held; capture that or less",
            decimal(hold.amount, hold.currency),
            hold.currency
        );
        return Err(Failure::new(Code::InvalidAmount, what).param("/amount"));
    }
    Ok(money.minor())
}

enum Claimed {
    /// The ledger is to be asked.
    Ours(Box<Movement>),
    /// This very request settled it in an earlier attempt.
    Settled,
    /// Somebody else did, or it expired.
    Answer(Answer),
    /// Not now.
    Busy(Failure),
}

/// Takes the hold for this request, unless somebody else is at it.
async fn take(cx: &Cx, key: &IdempotencyKey, id: &str, claim: &Claim) -> Result<Claimed> {
    let mut db = Db::open().await?;
    let before = existing_hold(&db, id).await?;
    let ours = match &before.claim {
        Some(earlier) if earlier.id == claim.id => {
            if earlier.minor != claim.minor {
                return Err(reused());
            }
            true
        }
        _ => false,
    };
    match before.state {
        State::Held if ours || before.claim.is_none() => {}
        State::Held => return Ok(busy("another request is settling this hold")),
        State::Requested => return Ok(busy("the hold is being placed")),
        _ if ours => return Ok(Claimed::Settled),
        state => {
            let settled = stored(cx, settled(state))?;
            let answer = idempotency::commit(&mut db, Batch::new(), Some(key), settled).await?;
            return Ok(Claimed::Answer(answer));
        }
    }
    let mut after = before.clone();
    after.claim = Some(claim.clone());
    let mut changes = Changes::default();
    // Also when it is ours already, so that the sweep leaves it to this request.
    changes.change(&before, &after, &Cause::from(cx));
    let mut batch = changes.finish();
    if claim.what == Settling::Capture && !ours {
        let sides = [Some(&before.wallet_id), before.other_wallet.as_ref()];
        let sides = sides.into_iter().flatten().map(String::as_str);
        for side in sides.clone() {
            existing(&db, side).await?.active()?;
        }
        store::while_active(&mut batch, sides);
    }
    batch.commit(&mut db).await?;
    Ok(Claimed::Ours(after.into()))
}

fn busy(what: &str) -> Claimed {
    Claimed::Busy(Failure::new(
        Code::Conflict,
        format!("{what}; read it again in a moment, or repeat this with the same key"),
    ))
}

fn settled(state: State) -> Failure {
    Failure::new(
        Code::InvalidState,
        format!("the hold is {} already", state.as_str()),
    )
}

fn reused() -> Failure {
    let mut failure = Failure::new(
        Code::IdempotencyKeyReused,
        "this key was used for a request that differs in /amount; use a new key for a new request",
    );
    failure.0.differing_fields = vec!["/amount".into()];
    failure
}

/// Writes what the ledger said of the hold, and answers: 200 when it did what was asked, 409 when
/// the hold was settled otherwise, or its refusal, which leaves the hold as it was.
async fn conclude(
    cx: &Cx,
    key: &IdempotencyKey,
    id: &str,
    claim: &Claim,
    verdict: Option<&Verdict>,
) -> Result<Answer> {
    let mut db = Db::open().await?;
    if let Some(answer) = key.replay(&db).await? {
        return Ok(answer);
    }
    let before = existing_hold(&db, id).await?;
    let mut after = before.clone();
    let mut batch = Batch::new();
    let answer = match verdict {
        Some(Verdict::Refused(failure)) => {
            if after.state == State::Held && after.claim.as_ref() == Some(claim) {
                after.claim = None;
            }
            stored(cx, failure.clone())?
        }
        other => {
            if let Some(Verdict::Stands(transfer)) = other {
                after.follow(&transfer.told(&before)?);
                let cause = Cause::from(cx);
                project(&db, &mut batch, id, transfer, before.currency, cause).await?;
            }
            match (claim.what, after.state) {
                (Settling::Capture, State::Captured) if after.moved == claim.minor => {
                    Answer::json(200, &HoldView::from(&after))?
                }
                (Settling::Release, State::Released) => Answer::json(200, &HoldView::from(&after))?,
                (_, state) => stored(cx, settled(state))?,
            }
        }
    };
    if after != before {
        let mut changes = Changes::default();
        changes.change(&before, &after, &Cause::from(cx));
        batch.append(changes.finish());
    }
    Ok(idempotency::commit(&mut db, batch, Some(key), answer).await?)
}
