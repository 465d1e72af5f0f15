//! Wallets are frozen, unfrozen and closed; who did it, when and why is kept.

use axum::extract::{Path, Query};
use innover_kit::{
    Answer, Batch, Body, Cause, Code, Cx, Db, Failure, Result,
    batch::with_retries,
    contract::time::rfc3339,
    idempotency::{self, IdempotencyKey},
    ids,
    page::{Page, PageQuery},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    READ, WRITE, operator,
    orders::{line, who},
    wallets::{WalletView, existing},
};
use crate::{
    events,
    jobs::rebuild::ITSELF,
    ledger,
    model::{State, Wallet},
    store::{
        self,
        decisions::{self, Decision},
        movements,
    },
};

/// Why.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReasonRequest {
    /// Up to 140 characters.
    reason: String,
}

/// Why, if there is a reason to give.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CloseRequest {
    /// Up to 140 characters.
    #[serde(default)]
    reason: String,
}

/// A decision on a wallet.
#[derive(Debug, Serialize, ToSchema)]
pub struct DecisionView {
    id: String,
    wallet_id: String,
    /// `freeze`, `unfreeze` or `close`.
    action: String,
    reason: String,
    decided_by: String,
    decided_at: String,
}

impl From<&Decision> for DecisionView {
    fn from(d: &Decision) -> DecisionView {
        DecisionView {
            id: d.id.clone(),
            wallet_id: d.wallet_id.clone(),
            action: d.action.clone(),
            reason: d.reason.clone(),
            decided_by: d.decided_by.clone(),
            decided_at: rfc3339(d.decided_at),
        }
    }
}

/// A step of a wallet's life.
struct Step {
    action: &'static str,
    /// What others are told of it.
    event: Option<&'static str>,
    from: &'static [State],
    to: State,
}

const FREEZE: Step = Step {
    action: "freeze",
    event: Some("wallet.frozen"),
    from: &[State::Active],
    to: State::Frozen,
};
const UNFREEZE: Step = Step {
    action: "unfreeze",
    event: Some("wallet.unfrozen"),
    from: &[State::Frozen],
    to: State::Active,
};
const CLOSE: Step = Step {
    action: "close",
    event: Some("wallet.closed"),
    from: &[State::Active, State::Frozen],
    to: State::Closed,
};
/// Closed already, as everyone was told: what is added is who wanted it, and why.
const CLAIM: Step = Step {
    event: None,
    from: &[State::Closed],
    ..CLOSE
};

/// Freeze a wallet: nothing new leaves or enters it. For ops_user, finance and admin.
#[utoipa::path(post, path = "/v1/wallets/{id}/freeze", tag = "states", request_body = ReasonRequest,
    params(("id" = String, Path), ("Idempotency-Key" = String, Header, description = "Unique to this decision")),
    responses((status = 200, body = WalletView), (status = 403, description = "insufficient_scope"),
              (status = 404, description = "wallet_not_found"), (status = 409, description = "invalid_state: it is not active")))]
pub async fn freeze(cx: Cx, Path(id): Path<String>, body: Body<ReasonRequest>) -> Result<Answer> {
    decide(&cx, &id, &body, &FREEZE).await
}

/// Unfreeze a wallet. For ops_user, finance and admin.
#[utoipa::path(post, path = "/v1/wallets/{id}/unfreeze", tag = "states", request_body = ReasonRequest,
    params(("id" = String, Path), ("Idempotency-Key" = String, Header, description = "Unique to this decision")),
    responses((status = 200, body = WalletView), (status = 403, description = "insufficient_scope"),
              (status = 404, description = "wallet_not_found"), (status = 409, description = "invalid_state: it is not frozen")))]
pub async fn unfreeze(cx: Cx, Path(id): Path<String>, body: Body<ReasonRequest>) -> Result<Answer> {
    decide(&cx, &id, &body, &UNFREEZE).await
}

async fn decide(cx: &Cx, id: &str, body: &Body<ReasonRequest>, step: &Step) -> Result<Answer> {
    let decided_by = operator(cx)?;
    let key = cx.require_idempotency(&body.fields)?;
    let reason = line(&body.value.reason, "/reason")?;
    if reason.trim().is_empty() {
        return Err(Failure::new(Code::InvalidRequest, "say why").param("/reason"));
    }
    with_retries(async || {
        let mut db = Db::open().await?;
        if let Some(answer) = key.replay(&db).await? {
            return Ok(answer);
        }
        let wallet = existing(&db, id).await?;
        may(&wallet, step)?;
        commit(cx, &mut db, &key, &wallet, step, &reason, &decided_by).await
    })
    .await
}

/// Close a wallet for good. Its owner does while it is active, or the house. It must hold nothing,
/// reserve nothing and be promised nothing by a hold.
#[utoipa::path(post, path = "/v1/wallets/{id}/close", tag = "states", request_body = CloseRequest,
    params(("id" = String, Path), ("Idempotency-Key" = String, Header, description = "Unique to this decision")),
    responses((status = 200, body = WalletView), (status = 403, description = "not_owner"),
              (status = 404, description = "wallet_not_found"),
              (status = 409, description = "invalid_state: it is closed, holds something, or is frozen and the caller is its owner")))]
pub async fn close(cx: Cx, Path(id): Path<String>, body: Body<CloseRequest>) -> Result<Answer> {
    cx.require(WRITE)?;
    let key = cx.require_idempotency(&body.fields)?;
    let reason = line(&body.value.reason, "/reason")?;
    let db = Db::open().await?;
    if let Some(answer) = key.replay(&db).await? {
        return Ok(answer);
    }
    let wallet = existing(&db, &id).await?;
    cx.require_actor_for(&wallet.owner)?;
    if wallet.state != State::Closed {
        close_in_ledger(&cx, db, &wallet).await?;
    }
    let decided_by = who(&cx)?.to_owned();
    with_retries(async || {
        let mut db = Db::open().await?;
        if let Some(answer) = key.replay(&db).await? {
            return Ok(answer);
        }
        let wallet = existing(&db, &id).await?;
        let step = if awaits_its_closer(&db, &wallet).await? {
            &CLAIM
        } else {
            &CLOSE
        };
        may(&wallet, step)?;
        commit(&cx, &mut db, &key, &wallet, step, &reason, &decided_by).await
    })
    .await
}

/// The ledger first: it alone knows that nothing is left. A crash in between leaves a wallet whose
/// account takes nothing more, and the same request, or a rebuild, closes it too.
async fn close_in_ledger(cx: &Cx, db: Db, wallet: &Wallet) -> Result<()> {
    if wallet.state == State::Frozen && !cx.acts_for_house()? {
        return Err(state_refused("it is frozen; only the house closes it"));
    }
    if movements::open_count(&db, &wallet.id).await? > 0 {
        return Err(state_refused(
            "there are holds or transfers of it that are not settled; settle them first",
        ));
    }
    // No connection is held while the ledger works.
    drop(db);
    ledger::close_account(cx, wallet)
        .await
        .map_err(|failure| match failure.code() {
            Code::InvalidState => state_refused("it still holds something; withdraw it first"),
            _ => failure,
        })
}

/// A rebuild has closed it for whoever asked and was not answered; the next one to ask is taken for him.
async fn awaits_its_closer(db: &Db, wallet: &Wallet) -> Result<bool> {
    Ok(wallet.state == State::Closed && decisions::closed_by(db, &wallet.id).await? == [ITSELF])
}

fn state_refused(what: &str) -> Failure {
    Failure::new(Code::InvalidState, what)
}

fn may(wallet: &Wallet, step: &Step) -> Result<()> {
    if step.from.contains(&wallet.state) {
        return Ok(());
    }
    Err(state_refused(&format!(
        "the wallet is {}, so there is nothing to {}",
        wallet.state.as_str(),
        step.action
    )))
}

async fn commit(
    cx: &Cx,
    db: &mut Db,
    key: &IdempotencyKey,
    before: &Wallet,
    step: &Step,
    reason: &str,
    decided_by: &str,
) -> Result<Answer> {
    let wallet = Wallet {
        state: step.to,
        version: before.version + 1,
        ..before.clone()
    };
    let decision = Decision {
        id: ids::new_id("dec"),
        wallet_id: wallet.id.clone(),
        action: step.action.into(),
        reason: reason.into(),
        decided_by: decided_by.into(),
        decided_at: ids::now_us(),
    };
    let mut batch = Batch::new();
    store::change_state(&mut batch, &wallet);
    decisions::insert(&mut batch, std::slice::from_ref(&decision));
    if let Some(event) = step.event {
        batch.emit(events::decided(event, &wallet, &decision, Cause::from(cx)));
    }
    let answer = Answer::json(200, &WalletView::from(&wallet))?;
    Ok(idempotency::commit(db, batch, Some(key), answer).await?)
}

/// The decisions on a wallet, oldest first. For those who may read everyone's wallets, not for its
/// owner: a reason may be one that must not be told.
#[utoipa::path(get, path = "/v1/wallets/{id}/decisions", tag = "states", params(("id" = String, Path), PageQuery),
    responses((status = 200, body = Page<DecisionView>), (status = 403, description = "not_owner"),
              (status = 404, description = "wallet_not_found")))]
pub async fn decisions(
    cx: Cx,
    Path(id): Path<String>,
    Query(page): Query<PageQuery>,
) -> Result<Answer> {
    cx.require(READ)?;
    // Nobody's subject is empty, so only those who read everyone's things pass.
    cx.require_reader_of("")?;
    let (limit, after) = (page.limit()?, page.after()?);
    let db = Db::open().await?;
    let wallet = existing(&db, &id).await?;
    let rows = decisions::of_wallet(&db, &wallet.id, &after, i64::from(limit) + 1).await?;
    let views = rows.iter().map(DecisionView::from).collect();
    Answer::json(
        200,
        &Page::new(views, limit, |view: &DecisionView| &view.id),
    )
}
