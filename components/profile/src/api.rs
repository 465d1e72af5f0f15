//! The HTTP surface: one's own profile, everyone's for those who may read, decisions of operations.

use axum::extract::{
    Path, Query,
    rejection::{PathRejection, QueryRejection},
};
use innover_kit::{
    Answer, Batch, Body, Cause, Code, Cx, Db, Emit, Failure, Result, batch,
    context::insufficient_scope,
    contract::time::rfc3339,
    idempotency::{self, IdempotencyKey},
    ids,
    page::{Page, PageQuery},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{OpenApi, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    model::{self, Change, Details, Profile, REASON_BYTES_MAX, Refusal, State},
    store::{self, Decision},
};

const READ: &str = "profile:read";
const WRITE: &str = "profile:write";
/// Who decides on tiers and states. The scope alone is not enough: everyone has it for their own.
const DECIDING_ROLES: [&str; 2] = ["admin", "ops_user"];

#[derive(OpenApi)]
#[openapi(
    info(title = "profile", description = "Profiles and KYC tiers"),
    servers((url = "/api/profile"))
)]
struct Doc;

/// The routes and their document.
pub fn routes() -> OpenApiRouter {
    OpenApiRouter::with_openapi(Doc::openapi())
        .routes(routes!(get_own, put_own))
        .routes(routes!(list_profiles))
        .routes(routes!(get_profile))
        .routes(routes!(set_tier))
        .routes(routes!(set_state))
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        let text = refusal.to_string();
        match refusal {
            Refusal::Field { param, .. } => Failure::new(Code::InvalidRequest, text).param(param),
            Refusal::Suspended => Failure::new(Code::InvalidState, text),
        }
    }
}

/// A profile.
#[derive(Debug, Serialize, ToSchema)]
struct ProfileView {
    /// The subject of its tokens.
    id: String,
    username: String,
    email: String,
    display_name: String,
    /// ISO 3166-1 alpha-2.
    #[schema(example = "DE")]
    country: Option<String>,
    /// 0 (unknown) to 3.
    kyc_tier: i64,
    state: State,
    /// Grows by one with every change.
    version: i64,
    created_at: String,
    updated_at: String,
}

impl From<Profile> for ProfileView {
    fn from(p: Profile) -> ProfileView {
        ProfileView {
            id: p.id,
            username: p.username,
            email: p.email,
            display_name: p.display_name,
            country: p.country,
            kyc_tier: p.kyc_tier,
            state: p.state,
            version: p.version,
            created_at: rfc3339(p.created_at),
            updated_at: rfc3339(p.updated_at),
        }
    }
}

fn not_found(id: &str) -> Failure {
    Failure::new(
        Code::ProfileNotFound,
        format!("`{id}` has no profile; its owner makes one with PUT /v1/profiles/me"),
    )
}

/// `profile.updated`: what changed, without personal data, since events are kept for good.
fn emit(batch: &mut Batch, cx: &Cx, profile: &Profile) {
    batch.emit(Emit {
        kind: "profile.updated",
        key: profile.id.clone(),
        key_version: profile.version,
        data: json!({
            "profile_id": profile.id,
            "version": profile.version,
            "kyc_tier": profile.kyc_tier,
            "state": profile.state,
        }),
        cause: Cause::from(cx),
    });
}

/// A subject in a path; one that is no text names nobody.
fn subject(path: Result<Path<String>, PathRejection>) -> Result<String> {
    path.map(|Path(sub)| sub)
        .map_err(|e| Failure::new(Code::ProfileNotFound, e.body_text()))
}

/// The caller's own profile.
#[utoipa::path(get, path = "/v1/profiles/me", tag = "profiles",
    responses((status = 200, body = ProfileView), (status = 404)))]
async fn get_own(cx: Cx) -> Result<Answer> {
    let id = person(&cx, READ)?;
    let db = Db::open().await?;
    let profile = store::find(&db, &id).await?.ok_or_else(|| not_found(&id))?;
    Answer::json(200, &ProfileView::from(profile))
}

/// The subject of a caller who is a person.
fn person(cx: &Cx, scope: &str) -> Result<String> {
    let who = cx.require(scope)?;
    if who.sub.is_empty() || who.preferred_username.is_empty() {
        return Err(Failure::new(
            Code::ProfileNotFound,
            "a client is no person and has no profile",
        ));
    }
    Ok(who.sub.clone())
}

/// What people say about themselves; name and address come from their token.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct OwnRequest {
    /// 1–100 characters.
    #[schema(example = "Ada L.")]
    display_name: String,
    /// ISO 3166-1 alpha-2.
    #[serde(default)]
    #[schema(example = "DE")]
    country: Option<String>,
}

/// Makes or replaces the caller's own profile. A new one has tier 0.
#[utoipa::path(put, path = "/v1/profiles/me", request_body = OwnRequest, tag = "profiles",
    responses((status = 200, body = ProfileView), (status = 201, body = ProfileView),
              (status = 400), (status = 409)))]
async fn put_own(cx: Cx, body: Body<OwnRequest>) -> Result<Answer> {
    let id = person(&cx, WRITE)?;
    let key = cx.idempotency(&body.fields)?;
    let who = cx.identity()?;
    let details = Details {
        username: who.preferred_username.clone(),
        email: who.email.clone(),
        display_name: body.value.display_name,
        country: body.value.country,
    }
    .check()?;
    batch::with_retries(|| async {
        let mut db = Db::open().await?;
        if let Some(key) = &key
            && let Some(answer) = key.replay(&db).await?
        {
            return Ok(answer);
        }
        let before = store::find(&db, &id).await?;
        let after = model::write(before.as_ref(), &id, details.clone(), ids::now_us())?;
        let mut batch = Batch::new();
        let status = match &before {
            None => {
                store::insert(&mut batch, &after);
                201
            }
            Some(before) => {
                if before.version != after.version {
                    store::update(&mut batch, &after);
                }
                200
            }
        };
        if !batch.is_empty() {
            emit(&mut batch, &cx, &after);
        }
        let answer = Answer::json(status, &ProfileView::from(after))?;
        Ok(idempotency::commit(&mut db, batch, key.as_ref(), answer).await?)
    })
    .await
}

/// Everyone's profiles, for those who may read them.
#[utoipa::path(get, path = "/v1/profiles", params(PageQuery), tag = "profiles",
    responses((status = 200, body = Page<ProfileView>), (status = 403)))]
async fn list_profiles(cx: Cx, page: Result<Query<PageQuery>, QueryRejection>) -> Result<Answer> {
    cx.require(READ)?;
    cx.require_reader_of("")?;
    let Query(page) = page.map_err(|e| Failure::new(Code::InvalidRequest, e.body_text()))?;
    let (limit, after) = (page.limit()?, page.after()?);
    let db = Db::open().await?;
    let profiles = store::page(&db, &after, i64::from(limit) + 1).await?;
    let views: Vec<ProfileView> = profiles.into_iter().map(ProfileView::from).collect();
    Answer::json(200, &Page::new(views, limit, |view| view.id.as_str()))
}

/// A profile, by its owner or anyone who may read everyone's.
#[utoipa::path(get, path = "/v1/profiles/{sub}", params(("sub" = String, Path)), tag = "profiles",
    responses((status = 200, body = ProfileView), (status = 403), (status = 404)))]
async fn get_profile(cx: Cx, path: Result<Path<String>, PathRejection>) -> Result<Answer> {
    cx.require(READ)?;
    let sub = subject(path)?;
    cx.require_reader_of(&sub)?;
    let db = Db::open().await?;
    let profile = store::find(&db, &sub)
        .await?
        .ok_or_else(|| not_found(&sub))?;
    Answer::json(200, &ProfileView::from(profile))
}

/// How far the subject is known.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TierRequest {
    /// 0 to 3.
    #[schema(example = 2)]
    tier: i64,
    /// Why, for the record.
    #[schema(example = "passport checked")]
    reason: String,
}

/// Sets the KYC tier. Needs the role admin or ops_user and an Idempotency-Key.
#[utoipa::path(post, path = "/v1/profiles/{sub}/tier", params(("sub" = String, Path)),
    request_body = TierRequest, tag = "decisions",
    responses((status = 200, body = ProfileView), (status = 400), (status = 403), (status = 404)))]
async fn set_tier(
    cx: Cx,
    path: Result<Path<String>, PathRejection>,
    body: Body<TierRequest>,
) -> Result<Answer> {
    let by = decider(&cx)?;
    let sub = subject(path)?;
    let key = cx.require_idempotency(&body.fields)?;
    decide(
        &cx,
        &sub,
        Change::Tier(body.value.tier),
        &body.value.reason,
        &by,
        &key,
    )
    .await
}

/// Whether the subject may act.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct StateRequest {
    state: State,
    /// Why, for the record.
    #[schema(example = "asked by the customer")]
    reason: String,
}

/// Suspends a profile or makes it active again. Needs the role admin or ops_user and an
/// Idempotency-Key.
#[utoipa::path(post, path = "/v1/profiles/{sub}/state", params(("sub" = String, Path)),
    request_body = StateRequest, tag = "decisions",
    responses((status = 200, body = ProfileView), (status = 400), (status = 403), (status = 404)))]
async fn set_state(
    cx: Cx,
    path: Result<Path<String>, PathRejection>,
    body: Body<StateRequest>,
) -> Result<Answer> {
    let by = decider(&cx)?;
    let sub = subject(path)?;
    let key = cx.require_idempotency(&body.fields)?;
    decide(
        &cx,
        &sub,
        Change::State(body.value.state),
        &body.value.reason,
        &by,
        &key,
    )
    .await
}

fn decider(cx: &Cx) -> Result<String> {
    let who = cx.require(WRITE)?;
    if DECIDING_ROLES.iter().any(|role| who.has_role(role)) {
        return Ok(who.sub.clone());
    }
    let mut failure = insufficient_scope(WRITE);
    failure.0.detail = "tiers and states are decided by the roles admin and ops_user".into();
    Err(failure)
}

async fn decide(
    cx: &Cx,
    sub: &str,
    change: Change,
    reason: &str,
    by: &str,
    key: &IdempotencyKey,
) -> Result<Answer> {
    if reason.trim().is_empty() || reason.len() > REASON_BYTES_MAX {
        let why = format!("say why, in at most {REASON_BYTES_MAX} bytes");
        return Err(Failure::new(Code::InvalidRequest, why).param("/reason"));
    }
    batch::with_retries(|| async {
        let mut db = Db::open().await?;
        if let Some(answer) = key.replay(&db).await? {
            return Ok(answer);
        }
        let before = store::find(&db, sub).await?.ok_or_else(|| not_found(sub))?;
        let (after, was, is) = model::decide(&before, change, ids::now_us())?;
        let mut batch = Batch::new();
        if after.version != before.version {
            store::update(&mut batch, &after);
            let decision = Decision {
                field: change.field(),
                before: &was,
                after: &is,
                reason,
                by,
            };
            store::record(&mut batch, &after, &decision);
            emit(&mut batch, cx, &after);
        }
        let answer = Answer::json(200, &ProfileView::from(after))?;
        Ok(idempotency::commit(&mut db, batch, Some(key), answer).await?)
    })
    .await
}
