//! The HTTP surface of cases: `/v1`, and `/v2`, which adds the priority. Both are over one store and
//! have the same paths.

use axum::extract::{Path, Query, rejection::QueryRejection};
use innover_kit::{
    Answer, Batch, Body, Cause, Code, Cx, Db, Failure, Result, batch,
    context::insufficient_scope,
    contract::time::rfc3339,
    idempotency::{self, IdempotencyKey},
    ids,
    page::{Page, PageQuery},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, OpenApi, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    jobs,
    model::{self, Case, PaymentFollows, Priority, Refusal, ScoreState, State, Verdict},
    payment, scoring,
    store::{self, Comment, Filter, Writer},
};

const READ: &str = "case:read";
const WRITE: &str = "case:write";
/// Who decides. The scope alone says that somebody works on cases.
const DECIDING_ROLES: [&str; 2] = ["admin", "analyst"];

#[derive(OpenApi)]
#[openapi(
    info(title = "Cases", description = "What a person decides on: payments under review, and what is opened by hand. `/v2` adds the priority."),
    servers((url = "/api/cases"))
)]
struct Document;

/// The routes and their document.
pub fn routes() -> OpenApiRouter {
    let common = || {
        OpenApiRouter::new()
            .routes(routes!(create, list))
            .routes(routes!(assign))
            .routes(routes!(start))
            .routes(routes!(comment, comments))
            .routes(routes!(decide))
            .routes(routes!(score))
    };
    let first = common().routes(routes!(get));
    let second = common().routes(routes!(get, prioritise));
    let mut all = OpenApiRouter::with_openapi(Document::openapi())
        .nest("/v1", first)
        .nest("/v2", second);
    for (path, item) in &mut all.get_openapi_mut().paths.paths {
        let version = path.split('/').nth(1).unwrap_or_default();
        let operations = [&mut item.get, &mut item.post, &mut item.patch];
        for operation in operations.into_iter().flatten() {
            // An operation's id is unique in a document (OpenAPI §4.8.10).
            let name = operation.operation_id.take().unwrap_or_default();
            operation.operation_id = Some(format!("{name}_{version}"));
        }
    }
    all
}

/// Whether a request came by the version that knows priorities.
fn has_priority(cx: &Cx) -> bool {
    cx.path().starts_with("/v2/")
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        let text = refusal.to_string();
        match refusal {
            Refusal::Field { param, .. } => Failure::new(Code::InvalidRequest, text).param(param),
            Refusal::Decided(_) | Refusal::Started(_) => Failure::new(Code::InvalidState, text),
        }
    }
}

/// A case.
#[derive(Debug, Serialize, ToSchema)]
struct CaseView {
    #[schema(example = "case_0192f3c2a0f47b1e8d5c6f7a8b9c0d1e")]
    id: String,
    title: String,
    /// Whose desk it is on; null while it is nobody's.
    owner_id: Option<String>,
    /// Since `/v2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<Priority>,
    state: State,
    score_state: ScoreState,
    /// 0 to 1000; null until it is scored.
    score: Option<i64>,
    /// `{code, feature, points}` each, as the scoring service gave them.
    #[schema(value_type = Vec<Object>)]
    score_reasons: Value,
    score_model: Option<String>,
    scored_at: Option<String>,
    /// The payment that waits for the decision; null when it was opened by hand.
    payment_id: Option<String>,
    /// Whether the payment has done what was decided.
    payment_follows: PaymentFollows,
    /// Null when it is not decided, or the payment was decided elsewhere.
    decided_by: Option<String>,
    decision_reason: String,
    /// RFC 3339.
    decided_at: Option<String>,
    /// Grows by one with every change.
    version: i64,
    /// Null when the platform opened it.
    created_by: Option<String>,
    /// RFC 3339.
    created_at: String,
    /// RFC 3339.
    updated_at: String,
}

impl CaseView {
    fn new(cx: &Cx, case: &Case) -> CaseView {
        CaseView {
            id: case.id.clone(),
            title: case.title.clone(),
            owner_id: case.owner_id.clone(),
            priority: has_priority(cx).then_some(case.priority),
            state: case.state,
            score_state: case.score_state,
            score: case.score,
            score_reasons: serde_json::from_str(&case.score_reasons).unwrap_or_default(),
            score_model: case.score_model.clone(),
            scored_at: case.scored_at.clone(),
            payment_id: case.payment_id.clone(),
            payment_follows: case.payment_follows,
            decided_by: case.decided_by.clone(),
            decision_reason: case.decision_reason.clone(),
            decided_at: case.decided_at.map(rfc3339),
            version: case.version,
            created_by: case.created_by.clone(),
            created_at: rfc3339(case.created_at),
            updated_at: rfc3339(case.updated_at),
        }
    }
}

fn not_found() -> Failure {
    Failure::new(Code::CaseNotFound, "there is no case with this id")
}

/// A case the caller may see: the owner's, or any for those who read everyone's.
async fn load(cx: &Cx, db: &Db, id: &str) -> Result<Case> {
    let case = store::by_id(db, id).await?.ok_or_else(not_found)?;
    cx.require_reader_of(case.owner_id.as_deref().unwrap_or_default())?;
    Ok(case)
}

/// Loads a case, lets `change` change it, and commits that with its event and its key; from the read
/// again when somebody else was faster.
async fn alter(
    cx: &Cx,
    id: &str,
    key: Option<&IdempotencyKey>,
    change: impl Fn(&mut Writer, &Case, &Cause) -> Result<Case>,
) -> Result<Answer> {
    batch::with_retries(|| async {
        let mut db = Db::open().await?;
        if let Some(key) = key
            && let Some(answer) = key.replay(&db).await?
        {
            return Ok(answer);
        }
        let case = load(cx, &db, id).await?;
        let mut writer = Writer::default();
        let after = change(&mut writer, &case, &Cause::from(cx))?;
        let answer = Answer::json(200, &CaseView::new(cx, &after))?;
        Ok(idempotency::commit(&mut db, writer.finish(), key, answer).await?)
    })
    .await
}

/// A case to be opened.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewCase {
    /// 1 to 200 characters.
    #[schema(example = "Three cards, one address")]
    title: String,
    /// Whose desk it is put on; the caller's when absent.
    owner_id: Option<String>,
    /// `/v2` only; `normal` when absent.
    priority: Option<Priority>,
}

/// Open a case. It is scored at once, and later when that fails.
#[utoipa::path(post, path = "/cases", tag = "cases", request_body = NewCase,
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes a repeated request one case")),
    responses((status = 201, description = "Opened", body = CaseView),
              (status = 400, description = "invalid_request, naming the field")))]
async fn create(cx: Cx, body: Body<NewCase>) -> Result<Answer> {
    let who = cx.require(WRITE)?;
    if body.value.priority.is_some() && !has_priority(&cx) {
        let what = "unknown in /v1; /v2/cases has priorities";
        return Err(Failure::new(Code::InvalidRequest, what).param("/priority"));
    }
    model::check_title(&body.value.title)?;
    let owner = body.value.owner_id.unwrap_or_else(|| who.sub.clone());
    model::check_owner(&owner)?;
    let key = cx.idempotency(&body.fields)?;
    let mut db = Db::open().await?;
    if let Some(key) = &key
        && let Some(answer) = key.replay(&db).await?
    {
        return Ok(answer);
    }
    let cause = Cause::from(&cx);
    let mut case = Case::opened(ids::new_id("case"), body.value.title, ids::now_us());
    case.owner_id = Some(owner);
    case.priority = body.value.priority.unwrap_or(Priority::Normal);
    case.created_by = Some(who.sub.clone());
    case.traceparent = cause.traceparent.clone().unwrap_or_default();
    case.correlation_id = cause.correlation_id.clone().unwrap_or_default();
    let mut writer = Writer::default();
    writer.open(&case, &cause);
    let answer = Answer::json(201, &CaseView::new(&cx, &case))?;
    Ok(idempotency::commit(&mut db, writer.finish(), key.as_ref(), answer).await?)
}

/// Which cases are listed.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Which {
    state: Option<State>,
    /// Whose desk they are on.
    owner: Option<String>,
    score_state: Option<ScoreState>,
    /// The case of this payment.
    payment_id: Option<String>,
}

/// List cases, newest first: everyone's for those who read them, else one's own.
#[utoipa::path(get, path = "/cases", tag = "cases", params(Which, PageQuery),
    responses((status = 200, description = "A page", body = Page<CaseView>)))]
async fn list(
    cx: Cx,
    which: Result<Query<Which>, QueryRejection>,
    Query(page): Query<PageQuery>,
) -> Result<Answer> {
    let who = cx.require(READ)?;
    let Query(which) = which.map_err(|e| Failure::new(Code::InvalidRequest, e.body_text()))?;
    let (limit, after) = (page.limit()?, page.after()?);
    let asked = which.owner.as_deref().unwrap_or_default();
    let owner = match cx.require_reader_of(asked) {
        Ok(()) => asked,
        Err(_) if asked.is_empty() => who.sub.as_str(),
        Err(failure) => return Err(failure),
    };
    let filter = Filter {
        state: which.state.map_or("", State::as_str),
        owner,
        score_state: which.score_state.map_or("", ScoreState::as_str),
        payment: which.payment_id.as_deref().unwrap_or_default(),
    };
    let db = Db::open().await?;
    let cases = store::page(&db, filter, &after, i64::from(limit) + 1).await?;
    let views = cases.iter().map(|case| CaseView::new(&cx, case)).collect();
    Answer::json(200, &Page::new(views, limit, |v: &CaseView| &v.id))
}

/// Read a case.
#[utoipa::path(get, path = "/cases/{id}", tag = "cases",
    params(("id" = String, Path, description = "case_…")),
    responses((status = 200, description = "The case", body = CaseView),
              (status = 404, description = "case_not_found")))]
async fn get(cx: Cx, Path(id): Path<String>) -> Result<Answer> {
    cx.require(READ)?;
    let db = Db::open().await?;
    let case = load(&cx, &db, &id).await?;
    Answer::json(200, &CaseView::new(&cx, &case))
}

/// How urgent it is.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PriorityRequest {
    priority: Priority,
}

/// Change the priority of a case that is not decided.
#[utoipa::path(patch, path = "/cases/{id}", tag = "cases", request_body = PriorityRequest,
    params(("id" = String, Path, description = "case_…")),
    responses((status = 200, description = "The case", body = CaseView),
              (status = 409, description = "invalid_state: decided")))]
async fn prioritise(cx: Cx, Path(id): Path<String>, body: Body<PriorityRequest>) -> Result<Answer> {
    cx.require(WRITE)?;
    let key = cx.idempotency(&body.fields)?;
    alter(&cx, &id, key.as_ref(), |writer, case, cause| {
        let after = case.prioritise(body.value.priority, ids::now_us())?;
        writer.update(&after, "priority", cause);
        Ok(after)
    })
    .await
}

/// Who works on it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AssignRequest {
    /// The subject of a person's tokens.
    #[schema(example = "usr_analyst")]
    owner_id: String,
}

/// Put a case on somebody's desk.
#[utoipa::path(post, path = "/cases/{id}/assign", tag = "cases", request_body = AssignRequest,
    params(("id" = String, Path, description = "case_…")),
    responses((status = 200, description = "The case", body = CaseView),
              (status = 409, description = "invalid_state: decided")))]
async fn assign(cx: Cx, Path(id): Path<String>, body: Body<AssignRequest>) -> Result<Answer> {
    cx.require(WRITE)?;
    let key = cx.idempotency(&body.fields)?;
    alter(&cx, &id, key.as_ref(), |writer, case, cause| {
        let after = case.assign(&body.value.owner_id, ids::now_us())?;
        writer.update(&after, "assigned", cause);
        Ok(after)
    })
    .await
}

/// Start to work on an open case; one that is nobody's becomes the caller's.
#[utoipa::path(post, path = "/cases/{id}/start", tag = "cases",
    params(("id" = String, Path, description = "case_…")),
    responses((status = 200, description = "The case", body = CaseView),
              (status = 409, description = "invalid_state: not open")))]
async fn start(cx: Cx, Path(id): Path<String>) -> Result<Answer> {
    let who = cx.require(WRITE)?;
    let key = cx.idempotency(&Map::new())?;
    alter(&cx, &id, key.as_ref(), |writer, case, cause| {
        let after = case.start(&who.sub, ids::now_us())?;
        writer.update(&after, "started", cause);
        Ok(after)
    })
    .await
}

/// A comment to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CommentRequest {
    /// 1 to 4000 characters.
    body: String,
}

/// A comment.
#[derive(Debug, Serialize, ToSchema)]
struct CommentView {
    id: String,
    author: String,
    body: String,
    /// RFC 3339.
    created_at: String,
}

impl From<&Comment> for CommentView {
    fn from(comment: &Comment) -> CommentView {
        CommentView {
            id: comment.id.clone(),
            author: comment.author.clone(),
            body: comment.body.clone(),
            created_at: rfc3339(comment.created_at),
        }
    }
}

/// Comment on a case, decided or not.
#[utoipa::path(post, path = "/cases/{id}/comments", tag = "comments", request_body = CommentRequest,
    params(("id" = String, Path, description = "case_…")),
    responses((status = 201, description = "The comment", body = CommentView),
              (status = 404, description = "case_not_found")))]
async fn comment(cx: Cx, Path(id): Path<String>, body: Body<CommentRequest>) -> Result<Answer> {
    let who = cx.require(WRITE)?;
    model::check_comment(&body.value.body)?;
    let key = cx.idempotency(&body.fields)?;
    let comment = store::new_comment(&who.sub, body.value.body.clone());
    batch::with_retries(|| async {
        let mut db = Db::open().await?;
        if let Some(key) = &key
            && let Some(answer) = key.replay(&db).await?
        {
            return Ok(answer);
        }
        let case = load(&cx, &db, &id).await?;
        let mut writer = Writer::default();
        writer.comment(&case.id, &comment);
        let after = case.commented(ids::now_us());
        writer.update(&after, "commented", &Cause::from(&cx));
        let answer = Answer::json(201, &CommentView::from(&comment))?;
        Ok(idempotency::commit(&mut db, writer.finish(), key.as_ref(), answer).await?)
    })
    .await
}

/// List the comments on a case, oldest first.
#[utoipa::path(get, path = "/cases/{id}/comments", tag = "comments",
    params(("id" = String, Path, description = "case_…"), PageQuery),
    responses((status = 200, description = "A page", body = Page<CommentView>)))]
async fn comments(cx: Cx, Path(id): Path<String>, Query(page): Query<PageQuery>) -> Result<Answer> {
    cx.require(READ)?;
    let (limit, after) = (page.limit()?, page.after()?);
    let db = Db::open().await?;
    let case = load(&cx, &db, &id).await?;
    let comments = store::comments(&db, &case.id, &after, i64::from(limit) + 1).await?;
    let views = comments.iter().map(CommentView::from).collect();
    Answer::json(200, &Page::new(views, limit, |v: &CommentView| &v.id))
}

/// What is decided.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct DecisionRequest {
    decision: Verdict,
    /// Why: 1 to 500 characters.
    #[schema(example = "called the customer")]
    reason: String,
}

/// Decide on a case.
///
/// The payment of a case is told by a job: `payment_follows` goes from `asked` to `followed`, or to
/// `overruled` when somebody had decided on the payment itself before; the case then says what the
/// payment does. Needs the role admin or analyst.
#[utoipa::path(post, path = "/cases/{id}/decision", tag = "cases", request_body = DecisionRequest,
    params(("id" = String, Path, description = "case_…"),
           ("Idempotency-Key" = String, Header, description = "Unique to this decision")),
    responses((status = 200, description = "Decided", body = CaseView),
              (status = 409, description = "invalid_state: decided already")))]
async fn decide(cx: Cx, Path(id): Path<String>, body: Body<DecisionRequest>) -> Result<Answer> {
    let who = cx.require(WRITE)?;
    if !DECIDING_ROLES.iter().any(|role| who.has_role(role)) {
        let mut failure = insufficient_scope(WRITE);
        failure.0.detail = "cases are decided by the roles admin and analyst".into();
        return Err(failure);
    }
    let key = cx.require_idempotency(&body.fields)?;
    alter(&cx, &id, Some(&key), |writer, case, cause| {
        let after = case.decide(
            body.value.decision,
            &body.value.reason,
            &who.sub,
            payment::decider(who),
            ids::now_us(),
        )?;
        writer.decide(&after, cause);
        Ok(after)
    })
    .await
}

/// Score a case now.
///
/// 200 with the score, or 202 with `PENDING_SCORE` when the scoring service failed: it is asked again
/// later.
#[utoipa::path(post, path = "/cases/{id}/score", tag = "cases",
    params(("id" = String, Path, description = "case_…")),
    responses((status = 200, description = "Scored", body = CaseView),
              (status = 202, description = "To be scored later", body = CaseView),
              (status = 409, description = "invalid_state: decided")))]
async fn score(cx: Cx, Path(id): Path<String>) -> Result<Answer> {
    cx.require(WRITE)?;
    let key = cx.idempotency(&Map::new())?;
    batch::with_retries(|| async {
        let case = {
            let db = Db::open().await?;
            if let Some(key) = &key
                && let Some(answer) = key.replay(&db).await?
            {
                return Ok(answer);
            }
            load(&cx, &db, &id).await?
        };
        if case.state.is_final() {
            return Err(Refusal::Decided(case.state).into());
        }
        let asked = scoring::ask(&cx, &case).await;
        let mut writer = Writer::default();
        let after = jobs::note_score(&mut writer, &cx, &case, asked, &Cause::from(&cx));
        let status = match after.score_state {
            ScoreState::Scored => 200,
            // Its payment's review is over.
            _ if after.state.is_final() => 200,
            _ => 202,
        };
        let batch: Batch = writer.finish();
        let answer = Answer::json(status, &CaseView::new(&cx, &after))?;
        let mut db = Db::open().await?;
        Ok(idempotency::commit(&mut db, batch, key.as_ref(), answer).await?)
    })
    .await
}
