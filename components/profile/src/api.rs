//! The HTTP surface: one's own profile, everyone's for those who may read them, decisions of
//! operations, export and erasure.

mod documents;

use axum::extract::{
    Path, Query,
    rejection::{PathRejection, QueryRejection},
};
use innover_kit::{
    Answer, Batch, Body, Cause, Code, Cx, Db, Emit, Failure, Result, batch,
    context::insufficient_scope,
    contract::time::rfc3339,
    idempotency, ids,
    page::{Page, PageQuery},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::{OpenApi, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    jobs,
    model::{self, Change, Details, Need, REASON_BYTES_MAX, Refusal, State},
    once::Once,
    seal::{DataKey, keks},
    store::{self, Decision, Known, Stored, Writer},
};

const READ: &str = "profile:read";
const WRITE: &str = "profile:write";
/// Who decides on documents, tiers and states, and sees what is needed for it.
const DECIDING_ROLES: [&str; 2] = ["admin", "ops_user"];
/// One's own subject in a path.
const ME: &str = "me";

#[derive(OpenApi)]
#[openapi(
    info(title = "profile", description = "Profiles, their documents and KYC tiers"),
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
        .routes(routes!(export_own))
        .routes(routes!(export))
        .routes(routes!(erase))
        .routes(routes!(key_counts))
        .routes(routes!(rotate))
        .merge(documents::routes())
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        let text = refusal.to_string();
        match refusal {
            Refusal::Field { param, .. } => Failure::new(Code::InvalidRequest, text).param(param),
            Refusal::Suspended | Refusal::Transition { .. } => {
                Failure::new(Code::InvalidState, text)
            }
            Refusal::Erased => Failure::new(Code::ProfileErased, text),
        }
    }
}

/// Where a tier comes from.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum TierSource {
    Documents,
    Operations,
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
    /// Whether the tier follows from the documents or was decided by operations.
    tier_source: TierSource,
    /// What is missing for the next tier; null at the top.
    next_tier_needs: Option<Need>,
    state: State,
    /// Grows by one with every change.
    version: i64,
    created_at: String,
    updated_at: String,
}

impl From<Known> for ProfileView {
    fn from(known: Known) -> ProfileView {
        let Known {
            profile: p,
            details,
        } = known;
        ProfileView {
            id: p.id,
            username: details.username,
            email: details.email,
            display_name: details.display_name,
            country: details.country,
            kyc_tier: p.kyc_tier,
            tier_source: match p.tier_override {
                Some(_) => TierSource::Operations,
                None => TierSource::Documents,
            },
            next_tier_needs: p.evidence.next(),
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

/// The profile of a subject that was not erased.
async fn living(db: &Db, id: &str) -> Result<Stored> {
    let stored = store::find(db, id).await?.ok_or_else(|| not_found(id))?;
    match stored.profile.state {
        State::Erased => Err(Refusal::Erased.into()),
        _ => Ok(stored),
    }
}

/// A subject in a path; one that is no text names nobody.
fn subject(path: Result<Path<String>, PathRejection>) -> Result<String> {
    path.map(|Path(sub)| sub)
        .map_err(|e| Failure::new(Code::ProfileNotFound, e.body_text()))
}

/// The caller's own profile.
#[utoipa::path(get, path = "/v1/profiles/me", tag = "profiles",
    responses((status = 200, body = ProfileView), (status = 404), (status = 410)))]
async fn get_own(cx: Cx) -> Result<Answer> {
    let id = person(&cx, READ)?;
    let db = Db::open().await?;
    let known = living(&db, &id).await?.open(&*keks().await?)?;
    Answer::json(200, &ProfileView::from(known))
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

/// Makes or replaces the caller's own profile.
#[utoipa::path(put, path = "/v1/profiles/me", request_body = OwnRequest, tag = "profiles",
    responses((status = 200, body = ProfileView), (status = 201, body = ProfileView),
              (status = 400), (status = 409), (status = 410)))]
async fn put_own(cx: Cx, body: Body<OwnRequest>) -> Result<Answer> {
    let id = person(&cx, WRITE)?;
    let who = cx.identity()?;
    let details = Details {
        username: who.preferred_username.clone(),
        email: who.email.clone(),
        display_name: body.value.display_name,
        country: body.value.country,
    }
    .check()?;
    let keks = keks().await?;
    batch::with_retries(|| async {
        let mut db = Db::open().await?;
        let key = store::keys::person(&mut db, &keks, &id).await?;
        let once = Once::new(&cx, &body.fields, &key)?;
        if let Some(answer) = once.replay(&db).await? {
            return Ok(answer);
        }
        let before = match store::find(&db, &id).await? {
            Some(stored) => Some(stored.open(&keks)?),
            None => None,
        };
        let read = before.as_ref().map(|b| (&b.profile, &b.details));
        let after = model::write(read, &id, &details, ids::now_us())?;
        let mut batch = Batch::new();
        let status = match &before {
            None => {
                store::insert(&mut batch, &key, &after, &details)?;
                201
            }
            Some(before) => {
                if before.profile.version != after.version {
                    store::update(&mut batch, &key, &after, &details)?;
                }
                200
            }
        };
        if !batch.is_empty() {
            store::emit_updated(&mut batch, &after, &Cause::from(&cx));
        }
        let known = Known {
            profile: after,
            details: details.clone(),
        };
        let answer = Answer::json(status, &ProfileView::from(known))?;
        Ok(once.commit(&mut db, batch, answer).await?)
    })
    .await
}

/// Everyone's profiles, for those who may read them. Of those that were erased the id and the times
/// are left.
#[utoipa::path(get, path = "/v1/profiles", params(PageQuery), tag = "profiles",
    responses((status = 200, body = Page<ProfileView>), (status = 403)))]
async fn list_profiles(cx: Cx, page: Result<Query<PageQuery>, QueryRejection>) -> Result<Answer> {
    cx.require(READ)?;
    cx.require_reader_of("")?;
    let Query(page) = page.map_err(|e| Failure::new(Code::InvalidRequest, e.body_text()))?;
    let (limit, after) = (page.limit()?, page.after()?);
    let db = Db::open().await?;
    let stored = store::page(&db, &after, i64::from(limit) + 1).await?;
    let keks = keks().await?;
    let views = stored
        .into_iter()
        .map(|stored| Ok(ProfileView::from(stored.open(&keks)?)))
        .collect::<Result<Vec<ProfileView>>>()?;
    Answer::json(200, &Page::new(views, limit, |view| view.id.as_str()))
}

/// A profile, by its owner or anyone who may read everyone's.
#[utoipa::path(get, path = "/v1/profiles/{sub}", params(("sub" = String, Path)), tag = "profiles",
    responses((status = 200, body = ProfileView), (status = 403), (status = 404), (status = 410)))]
async fn get_profile(cx: Cx, path: Result<Path<String>, PathRejection>) -> Result<Answer> {
    cx.require(READ)?;
    let sub = subject(path)?;
    cx.require_reader_of(&sub)?;
    let db = Db::open().await?;
    let known = living(&db, &sub).await?.open(&*keks().await?)?;
    Answer::json(200, &ProfileView::from(known))
}

/// How far the subject is known.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TierRequest {
    /// 0 to 3 whatever the documents say, or null to let the tier follow the documents again.
    #[schema(example = 2)]
    #[serde(deserialize_with = "Option::deserialize")]
    tier: Option<i64>,
    /// Why, for the record.
    #[schema(example = "known from another branch")]
    reason: String,
}

/// Sets the KYC tier. Needs the role admin or ops_user and an Idempotency-Key.
#[utoipa::path(post, path = "/v1/profiles/{sub}/tier", params(("sub" = String, Path)),
    request_body = TierRequest, tag = "decisions",
    responses((status = 200, body = ProfileView), (status = 400), (status = 403), (status = 404),
              (status = 410)))]
async fn set_tier(
    cx: Cx,
    path: Result<Path<String>, PathRejection>,
    body: Body<TierRequest>,
) -> Result<Answer> {
    let sub = subject(path)?;
    let change = Change::Tier(body.value.tier);
    decide(&cx, &sub, change, &body.value.reason, &body.fields).await
}

/// Whether the subject may act.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct StateRequest {
    /// `active` or `suspended`.
    state: State,
    /// Why, for the record.
    #[schema(example = "asked by the customer")]
    reason: String,
}

/// Suspends a profile or makes it active again. Needs the role admin or ops_user and an
/// Idempotency-Key.
#[utoipa::path(post, path = "/v1/profiles/{sub}/state", params(("sub" = String, Path)),
    request_body = StateRequest, tag = "decisions",
    responses((status = 200, body = ProfileView), (status = 400), (status = 403), (status = 404),
              (status = 410)))]
async fn set_state(
    cx: Cx,
    path: Result<Path<String>, PathRejection>,
    body: Body<StateRequest>,
) -> Result<Answer> {
    let sub = subject(path)?;
    let change = Change::State(body.value.state);
    decide(&cx, &sub, change, &body.value.reason, &body.fields).await
}

/// The subject of a caller who decides. The role says so, not a scope: everyone has the scope for
/// their own, and operations have no scope to write.
fn decider(cx: &Cx) -> Result<String> {
    let who = cx.require(READ)?;
    if DECIDING_ROLES.iter().any(|role| who.has_role(role)) {
        return Ok(who.sub.clone());
    }
    let mut failure = insufficient_scope(WRITE);
    failure.0.detail = "this is for the roles admin and ops_user".into();
    Err(failure)
}

fn check_reason(reason: &str) -> Result<()> {
    if reason.trim().is_empty() || reason.len() > REASON_BYTES_MAX {
        let why = format!("say why, in at most {REASON_BYTES_MAX} bytes");
        return Err(Failure::new(Code::InvalidRequest, why).param("/reason"));
    }
    Ok(())
}

async fn decide(
    cx: &Cx,
    sub: &str,
    change: Change,
    reason: &str,
    fields: &Map<String, Value>,
) -> Result<Answer> {
    let by = decider(cx)?;
    cx.require_idempotency(fields)?;
    check_reason(reason)?;
    let keks = keks().await?;
    batch::with_retries(|| async {
        let mut db = Db::open().await?;
        let stored = living(&db, sub).await?;
        let key = stored.key(&keks)?;
        let once = Once::new(cx, fields, &key)?;
        if let Some(answer) = once.replay(&db).await? {
            return Ok(answer);
        }
        let before = stored.open(&keks)?;
        let (after, was, is) = model::decide(&before.profile, change, ids::now_us())?;
        let mut writer = Writer::default();
        if after.version != before.profile.version {
            let decision = Decision::sealed(&key, change.field(), [&was, &is], reason, &by)?;
            writer.record(sub, sub, decision);
            writer.replace(&before.profile, after.clone(), &Cause::from(cx));
        }
        let known = Known {
            profile: after,
            details: before.details,
        };
        let answer = Answer::json(200, &ProfileView::from(known))?;
        Ok(once.commit(&mut db, writer.finish(), answer).await?)
    })
    .await
}

/// Everything that is held about a person.
#[derive(Debug, Serialize, ToSchema)]
struct ExportView {
    exported_at: String,
    profile: ProfileView,
    documents: Vec<documents::ExportedDocument>,
    decisions: Vec<DecisionView>,
}

/// A decision on a person, or a look at what is held.
#[derive(Debug, Serialize, ToSchema)]
struct DecisionView {
    at: String,
    /// The profile or a document.
    target: String,
    /// What was decided on: `kyc_tier`, `state`, `document`; or `export`, `content_read`.
    field: String,
    before: String,
    after: String,
    reason: String,
    /// A subject, or `rules`.
    by: String,
}

/// Everything that is held about the caller.
#[utoipa::path(get, path = "/v1/profiles/me/export", tag = "privacy",
    responses((status = 200, body = ExportView), (status = 404), (status = 410)))]
async fn export_own(cx: Cx) -> Result<Answer> {
    let id = person(&cx, READ)?;
    let db = Db::open().await?;
    let stored = living(&db, &id).await?;
    let key = stored.key(&*keks().await?)?;
    Answer::json(200, &everything(&db, stored, &key, false).await?)
}

/// Why someone looks.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ReasonRequest {
    /// Why, for the record.
    #[schema(example = "request of the customer, ticket 4711")]
    reason: String,
}

/// Everything that is held about a person, for the roles admin and ops_user. Needs an
/// Idempotency-Key: who asked, when and why is recorded, once per key. A repeated request gets what
/// is held by then.
#[utoipa::path(post, path = "/v1/profiles/{sub}/export", params(("sub" = String, Path)),
    request_body = ReasonRequest, tag = "privacy",
    responses((status = 200, body = ExportView), (status = 400), (status = 403), (status = 404),
              (status = 410)))]
async fn export(
    cx: Cx,
    path: Result<Path<String>, PathRejection>,
    body: Body<ReasonRequest>,
) -> Result<Answer> {
    let by = decider(&cx)?;
    cx.require_idempotency(&body.fields)?;
    check_reason(&body.value.reason)?;
    let sub = subject(path)?;
    let keks = keks().await?;
    let mut db = Db::open().await?;
    let stored = living(&db, &sub).await?;
    let key = stored.key(&keks)?;
    let once = Once::new(&cx, &body.fields, &key)?;
    let mut replayed = once.replay(&db).await?.is_some();
    if !replayed {
        let mut writer = Writer::default();
        let decision = Decision::sealed(&key, "export", ["", ""], &body.value.reason, &by)?;
        writer.record(&sub, &sub, decision);
        // The record says that it was answered; the answer is rendered from what is held, which is
        // too much to keep a second time.
        let rendered = Answer::json(200, &json!({ "rendered": sub }))?;
        let done = once.commit(&mut db, writer.finish(), rendered).await?;
        replayed = done.replayed;
    }
    let mut answer = Answer::json(200, &everything(&db, stored, &key, true).await?)?;
    answer.replayed = replayed;
    Ok(answer)
}

async fn everything(
    db: &Db,
    stored: Stored,
    key: &DataKey,
    for_operations: bool,
) -> Result<ExportView> {
    let keks = keks().await?;
    let id = stored.profile.id.clone();
    let documents = documents::exported(db, &keks, key, &id, for_operations).await?;
    let decisions = store::decisions(db, key, &id).await?;
    Ok(ExportView {
        exported_at: rfc3339(ids::now_us()),
        profile: ProfileView::from(stored.open(&keks)?),
        documents,
        decisions: decisions
            .into_iter()
            .map(|d| DecisionView {
                at: rfc3339(d.at),
                target: d.target,
                field: d.field,
                before: d.before,
                after: d.after,
                reason: d.reason,
                by: d.by,
            })
            .collect(),
    })
}

/// What is left of an erased profile.
#[derive(Debug, Serialize, ToSchema)]
struct ErasedView {
    id: String,
    state: State,
    version: i64,
    erased_at: String,
}

/// Erases a person: destroys the key of everything personal. By the person (`me`), or by the roles
/// admin and ops_user. It cannot be undone, and the subject never gets a profile again. The reason
/// is kept as it is written: it names nobody. Needs an Idempotency-Key.
#[utoipa::path(post, path = "/v1/profiles/{sub}/erase", params(("sub" = String, Path)),
    request_body = ReasonRequest, tag = "privacy",
    responses((status = 200, body = ErasedView), (status = 400), (status = 403), (status = 404)))]
async fn erase(
    cx: Cx,
    path: Result<Path<String>, PathRejection>,
    body: Body<ReasonRequest>,
) -> Result<Answer> {
    let sub = subject(path)?;
    let own = cx.identity()?.sub.clone();
    let (sub, by) = if sub == ME || sub == own {
        (person(&cx, WRITE)?, own)
    } else {
        (sub, decider(&cx)?)
    };
    // Its record outlives the key, and holds nothing personal.
    let key = cx.require_idempotency(&body.fields)?;
    check_reason(&body.value.reason)?;
    batch::with_retries(|| async {
        let mut db = Db::open().await?;
        if let Some(answer) = key.replay(&db).await? {
            return Ok(answer);
        }
        let before = store::find(&db, &sub)
            .await?
            .ok_or_else(|| not_found(&sub))?;
        let mut writer = Writer::default();
        let after = match before.profile.state {
            State::Erased => before.profile.clone(),
            _ => model::erase(&before.profile, writer.now_us()),
        };
        let answer = Answer::json(
            200,
            &ErasedView {
                id: after.id.clone(),
                state: after.state,
                version: after.version,
                erased_at: rfc3339(after.updated_at),
            },
        )?;
        if after.version != before.profile.version {
            let states = [before.profile.state.as_str(), after.state.as_str()];
            let decision = Decision::plain("state", states, &body.value.reason, &by);
            writer.record(&sub, &sub, decision);
        }
        let mut batch = writer.finish();
        if after.version != before.profile.version {
            store::erase(&mut batch, &before, &after);
            let cause = Cause::from(&cx);
            store::emit_updated(&mut batch, &after, &cause);
            batch.emit(Emit {
                kind: "profile.erased",
                key: after.id.clone(),
                key_version: after.version,
                data: json!({
                    "profile_id": after.id,
                    "version": after.version,
                    "erased_at": rfc3339(after.updated_at),
                }),
                cause,
            });
        }
        Ok(idempotency::commit(&mut db, batch, Some(&key), answer).await?)
    })
    .await
}

/// How many data keys are wrapped under a key of the environment.
#[derive(Debug, Serialize, ToSchema)]
struct KeyView {
    /// As in the variable `profile_keys`.
    id: String,
    /// Whether new data keys are wrapped under it.
    wraps: bool,
    /// Whether the variable names it.
    present: bool,
    data_keys: i64,
}

/// The keys of the environment.
#[derive(Debug, Serialize, ToSchema)]
struct KeysView {
    data: Vec<KeyView>,
}

/// Which keys of the environment are in use, for the roles admin and ops_user. One that wraps
/// nothing and is not the newest can be taken out of the variable.
#[utoipa::path(get, path = "/v1/keys", tag = "keys",
    responses((status = 200, body = KeysView), (status = 403)))]
async fn key_counts(cx: Cx) -> Result<Answer> {
    decider(&cx)?;
    let keks = keks().await?;
    let db = Db::open().await?;
    let mut counts = store::keys::counts(&db).await?;
    for id in keks.ids() {
        if counts.iter().all(|(known, _)| known != id) {
            counts.push((id.to_owned(), 0));
        }
    }
    let data = counts
        .into_iter()
        .map(|(id, data_keys)| KeyView {
            wraps: id == keks.newest(),
            present: keks.has(&id),
            id,
            data_keys,
        })
        .collect();
    Answer::json(200, &KeysView { data })
}

/// Nothing to say.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RotationRequest {}

/// A job that was enqueued.
#[derive(Debug, Serialize, ToSchema)]
struct RotationView {
    /// Its result says what is left under which key.
    job_id: String,
}

/// Wraps all data keys under the newest key of the environment, by the job `profile.rotate`, which
/// also runs every hour. For the roles admin and ops_user.
#[utoipa::path(post, path = "/v1/keys/rotation", request_body = RotationRequest, tag = "keys",
    responses((status = 202, body = RotationView), (status = 403)))]
async fn rotate(cx: Cx, body: Body<RotationRequest>) -> Result<Answer> {
    decider(&cx)?;
    let RotationRequest {} = body.value;
    let key = cx.idempotency(&body.fields)?;
    let mut db = Db::open().await?;
    if let Some(key) = &key
        && let Some(answer) = key.replay(&db).await?
    {
        return Ok(answer);
    }
    let (queue, job) = jobs::rotation();
    let job_id = job.id.clone();
    let mut batch = Batch::new();
    batch.enqueue(queue, job, Cause::from(&cx));
    let answer = Answer::json(202, &RotationView { job_id })?;
    Ok(idempotency::commit(&mut db, batch, key.as_ref(), answer).await?)
}
