//! The HTTP surface: evaluate facts, read and change rule sets.

use axum::extract::{Path, Query, rejection::PathRejection, rejection::QueryRejection};
use innover_kit::{
    Answer, Batch, Body, Cause, Code, Cx, Db, Emit, Failure, Result, batch,
    contract::time::rfc3339,
    idempotency, ids,
    page::{Page, PageQuery},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::{OpenApi, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    active,
    facts::{FACTS, Facts},
    limits::DESCRIPTION_BYTES_MAX,
    model::{Decision, Outcome, Rule, RuleSet},
    shadow,
    store::{self, Active, SetRow, Shadow},
    velocity::Velocity,
};

const READ: &str = "rules:read";
const WRITE: &str = "rules:write";
/// Activations are one sequence, so their events are in one order.
const EVENT_KEY: &str = "rules";
/// What runs in shadow is another.
const SHADOW_EVENT_KEY: &str = "rules-shadow";

#[derive(OpenApi)]
#[openapi(
    info(title = "rules", description = "Ordered rules over typed facts"),
    servers((url = "/api/rules"))
)]
struct Doc;

/// The routes and their document.
pub fn routes() -> OpenApiRouter {
    OpenApiRouter::with_openapi(Doc::openapi())
        .routes(routes!(evaluate))
        .routes(routes!(list_facts))
        .routes(routes!(list_rule_sets, create_rule_set))
        .routes(routes!(get_active))
        .routes(routes!(get_rule_set))
        .routes(routes!(activate_rule_set))
        .routes(routes!(start_shadow, stop_shadow, get_shadow))
        .routes(routes!(list_shadow_differences))
}

/// Facts to decide on.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct EvaluateRequest {
    /// A value for every fact that is neither optional nor added by this service (`GET /v1/facts`),
    /// and no unknown ones.
    #[schema(value_type = Object, example = json!({
        "amount_minor": 600000000, "amount_major": 6000000, "currency": "EUR", "target_currency": "EUR",
        "cross_currency": false, "amount_eur_minor": 600000000, "payer_owner": "usr_a",
        "payee_owner": "usr_b", "same_owner": false
    }))]
    facts: Map<String, Value>,
    /// The payment that is decided on, where it is known already: it is left out of what its payer
    /// did before.
    #[serde(default)]
    payment_id: Option<String>,
    /// Another version than the active one, to try it before it decides.
    #[serde(default)]
    version: Option<i64>,
}

/// A decision and the version that made it.
#[derive(Debug, Serialize, ToSchema)]
struct EvaluateView {
    #[serde(flatten)]
    decision: Decision,
    version: i64,
}

/// Decides on facts; what the payer did before is added to them. The decision is not stored, only how
/// a version in shadow differs from it. A rule that cannot be computed is 422 `evaluation_failed`
/// naming it: the others do not decide without it, and payment sends the payment to review.
#[utoipa::path(post, path = "/v1/evaluate", request_body = EvaluateRequest, tag = "rules",
    responses((status = 200, body = EvaluateView), (status = 400), (status = 403), (status = 422)))]
async fn evaluate(cx: Cx, body: Body<EvaluateRequest>) -> Result<Answer> {
    let is_payment = cx.claims().is_some_and(|claims| claims.caller == "payment");
    if !is_payment {
        cx.require(READ)?;
    }
    let mut db = Db::open().await?;
    let velocity = match body.value.facts.get("payer_owner").and_then(Value::as_str) {
        Some(payer) => before(&db, payer, body.value.payment_id.as_deref()).await?,
        None => Velocity::default(),
    };
    let facts = Facts::read(&body.value.facts, &velocity).map_err(|e| {
        Failure::new(Code::InvalidRequest, e.fault).param(format!("/facts/{}", e.name))
    })?;
    let version = match body.value.version {
        Some(version) => version,
        None => active::active(&mut db).await?.version,
    };
    let decision = active::compiled(&db, version)
        .await?
        .decide(&facts)
        .map_err(|e| Failure::new(Code::EvaluationFailed, format!("version {version}, {e}")))?;
    // Only what decides on a payment is compared: not what somebody tries.
    if is_payment && body.value.version.is_none() {
        shadow::compare(&cx, &mut db, &facts, version, &decision).await;
    }
    Answer::json(200, &EvaluateView { decision, version })
}

/// What the payer did before the payment.
async fn before(db: &Db, payer: &str, payment_id: Option<&str>) -> Result<Velocity> {
    let now = ids::now_us();
    let velocity = store::velocity(db, payer, now).await?;
    let counted = match payment_id {
        Some(id) => store::counted(db, id).await?,
        None => None,
    };
    Ok(match counted {
        Some(payment) => velocity.without(&payment, payer, now),
        None => velocity,
    })
}

/// A fact rules may name.
#[derive(Debug, Serialize, ToSchema)]
struct FactView {
    #[schema(example = "amount_eur_minor")]
    name: &'static str,
    /// `int`, `string`, `bool`, `list of strings` or `list of ints`.
    #[serde(rename = "type")]
    kind: &'static str,
    /// Whether it may be absent; then a rule tests it with `has()` first.
    optional: bool,
    /// Whether this service adds it where the request does not bring it.
    added: bool,
    description: &'static str,
}

/// The facts.
#[derive(Debug, Serialize, ToSchema)]
struct FactsView {
    data: Vec<FactView>,
}

/// The facts rules may name.
#[utoipa::path(get, path = "/v1/facts", tag = "rules", responses((status = 200, body = FactsView)))]
async fn list_facts(cx: Cx) -> Result<Answer> {
    cx.require(READ)?;
    let data = FACTS
        .iter()
        .map(|fact| FactView {
            name: fact.name,
            kind: fact.kind.name(),
            optional: fact.optional,
            added: fact.added,
            description: fact.about,
        })
        .collect();
    Answer::json(200, &FactsView { data })
}

/// A version of the rules.
#[derive(Debug, Serialize, ToSchema)]
struct RuleSetView {
    version: i64,
    description: String,
    /// Whether it decides now.
    active: bool,
    rules: Vec<Rule>,
    created_at: String,
    created_by: String,
}

impl RuleSetView {
    fn new(row: SetRow, active: bool) -> Result<RuleSetView> {
        Ok(RuleSetView {
            version: row.version,
            active,
            rules: active::rules(&row)?,
            description: row.description,
            created_at: rfc3339(row.created_at),
            created_by: row.created_by,
        })
    }
}

/// All versions, newest first.
#[utoipa::path(get, path = "/v1/rule-sets", params(PageQuery), tag = "rules",
    responses((status = 200, body = Page<RuleSetView>), (status = 400)))]
async fn list_rule_sets(cx: Cx, page: Result<Query<PageQuery>, QueryRejection>) -> Result<Answer> {
    cx.require(READ)?;
    let Query(page) = page.map_err(|e| Failure::new(Code::InvalidRequest, e.body_text()))?;
    let limit = page.limit()?;
    let before = match page.after()?.as_str() {
        "" => i64::MAX,
        version => version
            .parse()
            .map_err(|_| Failure::from(Code::InvalidCursor).param("cursor"))?,
    };
    let mut db = Db::open().await?;
    let active = active::active(&mut db).await?.version;
    let rows = store::page(&db, before, i64::from(limit) + 1).await?;
    // The page's cursor is text; a version is a number.
    let views = rows
        .into_iter()
        .map(|row| Ok((row.version.to_string(), RuleSetView::new(row, false)?)))
        .collect::<Result<Vec<_>>>()?;
    let Page { data, next_cursor } = Page::new(views, limit, |(version, _)| version.as_str());
    let data: Vec<RuleSetView> = data
        .into_iter()
        .map(|(_, view)| RuleSetView {
            active: view.version == active,
            ..view
        })
        .collect();
    Answer::json(200, &Page { data, next_cursor })
}

/// The version that decides.
#[utoipa::path(get, path = "/v1/rule-sets/active", tag = "rules",
    responses((status = 200, body = RuleSetView)))]
async fn get_active(cx: Cx) -> Result<Answer> {
    cx.require(READ)?;
    let mut db = Db::open().await?;
    let active = active::active(&mut db).await?;
    Answer::json(
        200,
        &RuleSetView::new(active::find(&db, active.version).await?, true)?,
    )
}

fn version(path: Result<Path<i64>, PathRejection>) -> Result<i64> {
    path.map(|Path(version)| version)
        .map_err(|_| Failure::new(Code::NotFound, "a version is a whole number, 1 and up"))
}

/// One version.
#[utoipa::path(get, path = "/v1/rule-sets/{version}", params(("version" = i64, Path)), tag = "rules",
    responses((status = 200, body = RuleSetView), (status = 404)))]
async fn get_rule_set(cx: Cx, path: Result<Path<i64>, PathRejection>) -> Result<Answer> {
    cx.require(READ)?;
    let version = version(path)?;
    let mut db = Db::open().await?;
    let active = active::active(&mut db).await?;
    Answer::json(
        200,
        &RuleSetView::new(active::find(&db, version).await?, version == active.version)?,
    )
}

/// Rules that become the next version.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RuleSetRequest {
    /// What changed and why.
    #[serde(default)]
    description: String,
    rules: Vec<Rule>,
    /// Whether it decides from now on; otherwise it waits to be activated.
    #[serde(default)]
    activate: bool,
}

/// Stores the next version. It is refused as a whole when a rule does not compile, names a fact that
/// does not exist, or mixes types.
#[utoipa::path(post, path = "/v1/rule-sets", request_body = RuleSetRequest, tag = "rules",
    responses((status = 201, body = RuleSetView), (status = 400), (status = 403), (status = 422)))]
async fn create_rule_set(cx: Cx, body: Body<RuleSetRequest>) -> Result<Answer> {
    let by = author(&cx)?;
    let key = cx.idempotency(&body.fields)?;
    let request = &body.value;
    if request.description.len() > DESCRIPTION_BYTES_MAX {
        let why = format!("a description has at most {DESCRIPTION_BYTES_MAX} bytes");
        return Err(Failure::new(Code::InvalidRequest, why).param("/description"));
    }
    let set = RuleSet::compile(request.rules.clone())
        .map_err(|e| Failure::new(Code::InvalidRule, e.fault).param(e.param))?;
    let rules = serde_json::to_string(set.rules())
        .map_err(|e| Failure::new(Code::Internal, e.to_string()))?;
    batch::with_retries(|| async {
        let mut db = Db::open().await?;
        if let Some(key) = &key
            && let Some(answer) = key.replay(&db).await?
        {
            return Ok(answer);
        }
        let active = active::active(&mut db).await?;
        let row = SetRow {
            version: store::newest(&db).await? + 1,
            description: request.description.clone(),
            rules: rules.clone(),
            compiled: set.stored().into(),
            created_at: ids::now_us(),
            created_by: by.clone(),
        };
        let mut batch = Batch::new();
        store::insert(&mut batch, &row);
        // A version that does not exist yet is not in shadow.
        if request.activate {
            activate(&mut batch, &cx, active, row.version, &by);
        }
        let answer = Answer::json(201, &RuleSetView::new(row, request.activate)?)?;
        Ok(idempotency::commit(&mut db, batch, key.as_ref(), answer).await?)
    })
    .await
}

/// Who changes the rules.
fn author(cx: &Cx) -> Result<String> {
    let who = cx.require(WRITE)?;
    Ok(if who.sub.is_empty() {
        who.client_id.clone()
    } else {
        who.sub.clone()
    })
}

/// The steps of an activation after `current`, and its event.
fn activate(batch: &mut Batch, cx: &Cx, current: Active, version: i64, by: &str) -> Active {
    let next = Active {
        seq: current.seq + 1,
        version,
        activated_at: ids::now_us(),
    };
    store::activate(batch, &next, by);
    batch.emit(Emit {
        kind: "rules.activated",
        key: EVENT_KEY.into(),
        key_version: next.seq,
        data: json!({
            "version": version,
            "previous_version": current.version,
            "activated_at": rfc3339(next.activated_at),
            "activated_by": by,
        }),
        cause: Cause::from(cx),
    });
    next
}

/// An activation.
#[derive(Debug, Serialize, ToSchema)]
struct ActivationView {
    /// The version that decides now.
    version: i64,
    activated_at: String,
}

/// Lets a version decide from now on; an older one too. A version that decides already stays as it is.
#[utoipa::path(post, path = "/v1/rule-sets/{version}/activate", params(("version" = i64, Path)), tag = "rules",
    responses((status = 200, body = ActivationView), (status = 403), (status = 404), (status = 422)))]
async fn activate_rule_set(cx: Cx, path: Result<Path<i64>, PathRejection>) -> Result<Answer> {
    let by = author(&cx)?;
    let version = version(path)?;
    let key = cx.idempotency(&Map::new())?;
    batch::with_retries(|| async {
        let mut db = Db::open().await?;
        if let Some(key) = &key
            && let Some(answer) = key.replay(&db).await?
        {
            return Ok(answer);
        }
        let current = active::active(&mut db).await?;
        // Compiled again: a version an older release accepted must not stop payments now.
        active::load(&db, version).await?;
        let mut batch = Batch::new();
        let active = match current.version == version {
            true => current,
            false => activate(&mut batch, &cx, current, version, &by),
        };
        // What decides is not compared with itself.
        let shadow = store::shadow(&db).await?;
        if shadow.version == Some(version) {
            change_shadow(&mut batch, &cx, shadow, None, &by);
        }
        let view = ActivationView {
            version,
            activated_at: rfc3339(active.activated_at),
        };
        Ok(idempotency::commit(&mut db, batch, key.as_ref(), Answer::json(200, &view)?).await?)
    })
    .await
}

/// The steps that put `version` in shadow after `current`, or none, and their event.
fn change_shadow(
    batch: &mut Batch,
    cx: &Cx,
    current: Shadow,
    version: Option<i64>,
    by: &str,
) -> Shadow {
    let next = Shadow {
        seq: current.seq + 1,
        version,
        changed_at: ids::now_us(),
    };
    store::change_shadow(batch, &next, by);
    batch.emit(Emit {
        kind: "rules.shadow_changed",
        key: SHADOW_EVENT_KEY.into(),
        key_version: next.seq,
        data: json!({
            "version": version,
            "previous_version": current.version,
            "changed_at": rfc3339(next.changed_at),
            "changed_by": by,
        }),
        cause: Cause::from(cx),
    });
    next
}

/// How a version does in shadow, over all the times it ran there; what is older than thirty days is
/// forgotten.
#[derive(Debug, Serialize, ToSchema)]
struct ShadowView {
    version: i64,
    /// Whether it is evaluated beside the active version now.
    running: bool,
    /// Payments it was evaluated for.
    evaluated: i64,
    /// Those it would have decided otherwise: another outcome or other reasons.
    differing: i64,
    /// Of these, those it could not decide at all.
    failed: i64,
}

async fn shadow_view(db: &Db, version: i64, running: bool) -> Result<ShadowView> {
    let counts = store::shadow_counts(db, version).await?;
    Ok(ShadowView {
        version,
        running,
        evaluated: counts.evaluated,
        differing: counts.differing,
        failed: counts.failed,
    })
}

/// Evaluates a version beside the active one from now on, in place of any other: it decides nothing,
/// and where it would have decided otherwise is counted and listed.
#[utoipa::path(post, path = "/v1/rule-sets/{version}/shadow", params(("version" = i64, Path)), tag = "rules",
    responses((status = 200, body = ShadowView), (status = 403), (status = 404), (status = 409), (status = 422)))]
async fn start_shadow(cx: Cx, path: Result<Path<i64>, PathRejection>) -> Result<Answer> {
    set_shadow(cx, version(path)?, true).await
}

/// Ends it; its counts stay.
#[utoipa::path(delete, path = "/v1/rule-sets/{version}/shadow", params(("version" = i64, Path)), tag = "rules",
    responses((status = 200, body = ShadowView), (status = 403), (status = 404)))]
async fn stop_shadow(cx: Cx, path: Result<Path<i64>, PathRejection>) -> Result<Answer> {
    set_shadow(cx, version(path)?, false).await
}

async fn set_shadow(cx: Cx, version: i64, runs: bool) -> Result<Answer> {
    let by = author(&cx)?;
    let key = cx.idempotency(&Map::new())?;
    batch::with_retries(|| async {
        let mut db = Db::open().await?;
        if let Some(key) = &key
            && let Some(answer) = key.replay(&db).await?
        {
            return Ok(answer);
        }
        let active = active::active(&mut db).await?;
        // A version that this release does not accept any more would only fail.
        active::load(&db, version).await?;
        if runs && active.version == version {
            let what = format!("version {version} decides already; what runs in shadow is another");
            return Err(Failure::new(Code::InvalidState, what));
        }
        let current = store::shadow(&db).await?;
        let is_running = current.version == Some(version);
        let mut batch = Batch::new();
        if runs != is_running {
            let next = runs.then_some(version);
            change_shadow(&mut batch, &cx, current, next, &by);
        }
        let view = shadow_view(&db, version, runs).await?;
        Ok(idempotency::commit(&mut db, batch, key.as_ref(), Answer::json(200, &view)?).await?)
    })
    .await
}

/// How a version does, or did, in shadow.
#[utoipa::path(get, path = "/v1/rule-sets/{version}/shadow", params(("version" = i64, Path)), tag = "rules",
    responses((status = 200, body = ShadowView), (status = 404)))]
async fn get_shadow(cx: Cx, path: Result<Path<i64>, PathRejection>) -> Result<Answer> {
    cx.require(READ)?;
    let version = version(path)?;
    let db = Db::open().await?;
    active::find(&db, version).await?;
    let running = store::shadow(&db).await?.version == Some(version);
    Answer::json(200, &shadow_view(&db, version, running).await?)
}

/// A payment that a version in shadow would have decided otherwise.
#[derive(Debug, Serialize, ToSchema)]
struct DifferenceView {
    id: String,
    decided_at: String,
    /// The version that decided.
    active_version: i64,
    active_outcome: Outcome,
    active_reason_codes: Vec<String>,
    /// Null when the version could not decide.
    outcome: Option<Outcome>,
    reason_codes: Vec<String>,
    /// Why it could not; null when it could.
    error: Option<String>,
    /// What both were given.
    #[schema(value_type = Object)]
    facts: Value,
}

impl DifferenceView {
    fn new(row: store::Difference) -> Result<DifferenceView> {
        fn read<T: serde::de::DeserializeOwned>(json: &str) -> Result<T> {
            serde_json::from_str(json).map_err(|e| {
                Failure::new(Code::Internal, format!("a stored decision is damaged: {e}"))
            })
        }
        let outcome = |name: &str| {
            Outcome::parse(name)
                .ok_or_else(|| Failure::new(Code::Internal, "a stored outcome is damaged"))
        };
        Ok(DifferenceView {
            decided_at: rfc3339(row.decided_at),
            active_version: row.active_version,
            active_outcome: outcome(&row.active_outcome)?,
            active_reason_codes: read(&row.active_reasons)?,
            outcome: Some(row.outcome.as_str())
                .filter(|name| !name.is_empty())
                .map(outcome)
                .transpose()?,
            reason_codes: read(&row.reasons)?,
            error: Some(row.error).filter(|error| !error.is_empty()),
            facts: read(&row.facts)?,
            id: row.id,
        })
    }
}

/// The payments a version in shadow would have decided otherwise, newest first.
#[utoipa::path(get, path = "/v1/rule-sets/{version}/shadow/differences",
    params(("version" = i64, Path), PageQuery), tag = "rules",
    responses((status = 200, body = Page<DifferenceView>), (status = 400), (status = 404)))]
async fn list_shadow_differences(
    cx: Cx,
    path: Result<Path<i64>, PathRejection>,
    page: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Answer> {
    cx.require(READ)?;
    let version = version(path)?;
    let Query(page) = page.map_err(|e| Failure::new(Code::InvalidRequest, e.body_text()))?;
    let (limit, after) = (page.limit()?, page.after()?);
    let db = Db::open().await?;
    active::find(&db, version).await?;
    let rows = store::differences(&db, version, &after, i64::from(limit) + 1).await?;
    let views = rows
        .into_iter()
        .map(DifferenceView::new)
        .collect::<Result<Vec<_>>>()?;
    Answer::json(200, &Page::new(views, limit, |view| view.id.as_str()))
}
