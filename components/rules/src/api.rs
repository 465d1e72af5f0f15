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
    model::{Decision, Rule, RuleSet},
    store::{self, Active, SetRow},
};

const READ: &str = "rules:read";
const WRITE: &str = "rules:write";
/// Activations are one sequence, so their events are in one order.
const EVENT_KEY: &str = "rules";

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
}

/// Facts to decide on.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct EvaluateRequest {
    /// A value for every fact that is not optional (`GET /v1/facts`), and no others.
    #[schema(value_type = Object, example = json!({
        "amount_minor": 600000000, "amount_major": 6000000, "currency": "EUR", "target_currency": "EUR",
        "cross_currency": false, "amount_eur_minor": 600000000, "payer_owner": "usr_a",
        "payee_owner": "usr_b", "same_owner": false
    }))]
    facts: Map<String, Value>,
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

/// Decides on facts. Nothing is stored. A rule that cannot be computed is 422 `evaluation_failed`
/// naming it: the others do not decide without it, and payment sends the payment to review.
#[utoipa::path(post, path = "/v1/evaluate", request_body = EvaluateRequest, tag = "rules",
    responses((status = 200, body = EvaluateView), (status = 400), (status = 403), (status = 422)))]
async fn evaluate(cx: Cx, body: Body<EvaluateRequest>) -> Result<Answer> {
    if cx.claims().is_none_or(|claims| claims.caller != "payment") {
        cx.require(READ)?;
    }
    let facts = Facts::read(&body.value.facts).map_err(|e| {
        Failure::new(Code::InvalidRequest, e.fault).param(format!("/facts/{}", e.name))
    })?;
    let mut db = Db::open().await?;
    let (version, rules) = match body.value.version {
        None => active::compiled(&mut db).await?,
        Some(version) => (version, active::load(&db, version).await?.into()),
    };
    let decision = rules
        .decide(&facts)
        .map_err(|e| Failure::new(Code::EvaluationFailed, format!("version {version}, {e}")))?;
    Answer::json(200, &EvaluateView { decision, version })
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
        let view = ActivationView {
            version,
            activated_at: rfc3339(active.activated_at),
        };
        Ok(idempotency::commit(&mut db, batch, key.as_ref(), Answer::json(200, &view)?).await?)
    })
    .await
}
