//! Documents: submitted, read and withdrawn by their owner, read and decided on by operations.

use axum::extract::{
    Path, Query,
    rejection::{PathRejection, QueryRejection},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use innover_kit::{
    Answer, Batch, Body, Cause, Code, Cx, Db, Failure, Result, batch,
    contract::time::rfc3339,
    idempotency::CommitError,
    ids,
    page::{Page, PageQuery},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{READ, WRITE, check_reason, decider, living, person};
use crate::{
    jobs,
    model::documents::{
        CONTENT_BYTES_PER_PERSON_MAX, DOCUMENTS_PER_PERSON_MAX, Finding, Kind, Standing, Submission,
    },
    once::Once,
    seal::{DataKey, Keks, keks},
    store::{
        self, Decision, Writer,
        documents::{Document, Opened, QUOTA, Stored},
    },
};

pub(super) fn routes() -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(submit, list_own))
        .routes(routes!(get_own))
        .routes(routes!(own_content))
        .routes(routes!(withdraw))
        .routes(routes!(list_all))
        .routes(routes!(get_one))
        .routes(routes!(one_content))
        .routes(routes!(decide))
}

/// A document.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DocumentView {
    id: String,
    profile_id: String,
    #[serde(rename = "type")]
    kind: Kind,
    /// Who issued it, ISO 3166-1 alpha-2; empty once it is withdrawn.
    country: String,
    /// Without spaces and hyphens, in capitals.
    number: Option<String>,
    /// `YYYY-MM-DD`, its last day.
    expires_on: Option<String>,
    /// What the file is, by its first bytes; null without a file.
    media_type: Option<String>,
    content_bytes: i64,
    state: Standing,
    /// Whether a person has to decide.
    manual_review: bool,
    /// What the check found.
    findings: Vec<Finding>,
    version: i64,
    created_at: String,
    updated_at: String,
}

/// A document with its file.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ExportedDocument {
    #[serde(flatten)]
    document: DocumentView,
    /// The file; null without one.
    content_base64: Option<String>,
}

/// What operations see, and what the owner is told.
fn view(opened: Opened, for_operations: bool) -> DocumentView {
    let Opened {
        document: d,
        country,
        number,
    } = opened;
    DocumentView {
        id: d.id,
        profile_id: d.profile_id,
        kind: d.kind,
        country,
        number,
        expires_on: d.expires_on,
        media_type: d.media_type,
        content_bytes: d.content_bytes,
        state: d.standing,
        manual_review: d.standing == Standing::Verifying,
        findings: d
            .findings
            .into_iter()
            .filter(|finding| for_operations || finding.is_told())
            .collect(),
        version: d.version,
        created_at: rfc3339(d.created_at),
        updated_at: rfc3339(d.updated_at),
    }
}

fn not_found() -> Failure {
    Failure::new(Code::DocumentNotFound, "there is no such document")
}

fn document_id(path: Result<Path<String>, PathRejection>) -> Result<String> {
    path.map(|Path(id)| id).map_err(|_| not_found())
}

/// One of the owner's documents; someone else's does not exist for them.
async fn owned(db: &Db, id: &str, owner: &str) -> Result<Stored> {
    let stored = store::documents::find(db, id).await?;
    stored
        .filter(|stored| stored.document.profile_id == owner)
        .ok_or_else(not_found)
}

/// A document as its owner submits it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SubmitRequest {
    #[serde(rename = "type")]
    kind: Kind,
    /// Who issued it, ISO 3166-1 alpha-2.
    #[schema(example = "DE")]
    country: String,
    /// As printed. Passports, identity cards and driver's licences need one.
    #[serde(default)]
    #[schema(example = "C01X00T47")]
    number: Option<String>,
    /// `YYYY-MM-DD`, its last day. Passports, identity cards and driver's licences need one.
    #[serde(default)]
    #[schema(example = "2031-05-31")]
    expires_on: Option<String>,
    /// The file in base64: JPEG, PNG or PDF, at most 737280 bytes. A proof of address and a selfie
    /// need one; another document without one waits for a person.
    #[serde(default)]
    content_base64: Option<String>,
}

impl SubmitRequest {
    fn read(&self) -> Result<Submission> {
        let refused = |param: &str, why: &str| Failure::new(Code::InvalidRequest, why).param(param);
        let content = match &self.content_base64 {
            Some(text) => Some(
                STANDARD
                    .decode(text)
                    .map_err(|_| refused("/content_base64", "the file is not base64"))?,
            ),
            None => None,
        };
        let day = |text: &String| {
            text.parse::<jiff::civil::Date>()
                .ok()
                .filter(|day| day.to_string() == *text)
        };
        if self
            .expires_on
            .as_ref()
            .is_some_and(|text| day(text).is_none())
        {
            return Err(refused("/expires_on", "a day is YYYY-MM-DD"));
        }
        Ok(Submission {
            kind: self.kind,
            country: self.country.clone(),
            number: self.number.clone(),
            expires_on: self.expires_on.clone(),
            content,
        }
        .check()?)
    }
}

/// Submits a document of the caller. It is checked at once, by a job.
#[utoipa::path(post, path = "/v1/profiles/me/documents", request_body = SubmitRequest, tag = "documents",
    responses((status = 202, body = DocumentView), (status = 400), (status = 404), (status = 409),
              (status = 410), (status = 413)))]
async fn submit(cx: Cx, body: Body<SubmitRequest>) -> Result<Answer> {
    let owner = person(&cx, WRITE)?;
    let submission = body.value.read()?;
    let keks = keks().await?;
    let mut db = Db::open().await?;
    let profile = living(&db, &owner).await?;
    let key = profile.key(&keks)?;
    let once = Once::new(&cx, &body.fields, &key)?;
    if let Some(answer) = once.replay(&db).await? {
        return Ok(answer);
    }
    profile.profile.may_act()?;
    let digest = match submission.number {
        Some(_) => {
            let numbers = store::keys::numbers(&mut db, &keks).await?;
            store::documents::digest(&numbers, &submission)
        }
        None => None,
    };
    let document = store::documents::new(ids::new_id("doc"), &owner, &submission, ids::now_us());
    let cause = Cause::from(&cx);
    let mut batch = Batch::new();
    store::documents::insert(&mut batch, &key, &document, &submission, digest)?;
    let (queue, job) = jobs::verification(&document.id);
    batch.enqueue(queue, job, cause.clone());
    let mut writer = Writer::after(batch);
    writer.announce(&document, &cause);
    let opened = Opened {
        document,
        country: submission.country,
        number: submission.number,
    };
    let answer = Answer::json(202, &view(opened, false))?;
    match once.commit(&mut db, writer.finish(), answer).await {
        Err(CommitError::Batch(error)) if error.step() == Some(QUOTA) => {
            living(&db, &owner).await?.profile.may_act()?;
            Err(Failure::new(
                Code::InvalidState,
                format!(
                    "at most {DOCUMENTS_PER_PERSON_MAX} documents and {CONTENT_BYTES_PER_PERSON_MAX} bytes of files are held of one person; withdraw a document with a file"
                ),
            ))
        }
        done => Ok(done?),
    }
}

/// The caller's documents.
#[utoipa::path(get, path = "/v1/profiles/me/documents", params(PageQuery), tag = "documents",
    responses((status = 200, body = Page<DocumentView>), (status = 404), (status = 410)))]
async fn list_own(cx: Cx, page: Result<Query<PageQuery>, QueryRejection>) -> Result<Answer> {
    let owner = person(&cx, READ)?;
    let Query(page) = page.map_err(|e| Failure::new(Code::InvalidRequest, e.body_text()))?;
    let db = Db::open().await?;
    living(&db, &owner).await?;
    list(&db, &owner, "", &page, false).await
}

async fn list(
    db: &Db,
    owner: &str,
    state: &str,
    page: &PageQuery,
    for_operations: bool,
) -> Result<Answer> {
    let (limit, after) = (page.limit()?, page.after()?);
    let stored = store::documents::page(db, owner, state, &after, i64::from(limit) + 1).await?;
    let keks = keks().await?;
    let views = stored
        .into_iter()
        .map(|stored| Ok(view(stored.open(&keks)?, for_operations)))
        .collect::<Result<Vec<DocumentView>>>()?;
    Answer::json(200, &Page::new(views, limit, |view| view.id.as_str()))
}

/// One of the caller's documents.
#[utoipa::path(get, path = "/v1/profiles/me/documents/{id}", params(("id" = String, Path)),
    tag = "documents",
    responses((status = 200, body = DocumentView), (status = 404), (status = 410)))]
async fn get_own(cx: Cx, path: Result<Path<String>, PathRejection>) -> Result<Answer> {
    let owner = person(&cx, READ)?;
    let id = document_id(path)?;
    let db = Db::open().await?;
    living(&db, &owner).await?;
    let opened = owned(&db, &id, &owner).await?.open(&*keks().await?)?;
    Answer::json(200, &view(opened, false))
}

/// A file.
#[derive(Debug, Serialize, ToSchema)]
struct ContentView {
    id: String,
    media_type: String,
    content_base64: String,
}

async fn content(db: &Db, document: &Document, key: &DataKey) -> Result<Answer> {
    let file = store::documents::content(db, key, &document.id).await?;
    let (Some(file), Some(media_type)) = (file, &document.media_type) else {
        let none = "the document has no file, or it was withdrawn";
        return Err(Failure::new(Code::DocumentNotFound, none));
    };
    Answer::json(
        200,
        &ContentView {
            id: document.id.clone(),
            media_type: media_type.clone(),
            content_base64: STANDARD.encode(file),
        },
    )
}

/// The file of one of the caller's documents.
#[utoipa::path(get, path = "/v1/profiles/me/documents/{id}/content", params(("id" = String, Path)),
    tag = "documents",
    responses((status = 200, body = ContentView), (status = 404), (status = 410)))]
async fn own_content(cx: Cx, path: Result<Path<String>, PathRejection>) -> Result<Answer> {
    let owner = person(&cx, READ)?;
    let id = document_id(path)?;
    let db = Db::open().await?;
    living(&db, &owner).await?;
    let stored = owned(&db, &id, &owner).await?;
    let key = stored.key(&*keks().await?)?;
    content(&db, &stored.document, &key).await
}

/// Nothing to say.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct WithdrawRequest {}

/// Takes a document back: its file, number and last day are deleted, and it does not count for the
/// tier any more.
#[utoipa::path(post, path = "/v1/profiles/me/documents/{id}/withdraw", params(("id" = String, Path)),
    request_body = WithdrawRequest, tag = "documents",
    responses((status = 200, body = DocumentView), (status = 404), (status = 409), (status = 410)))]
async fn withdraw(
    cx: Cx,
    path: Result<Path<String>, PathRejection>,
    body: Body<WithdrawRequest>,
) -> Result<Answer> {
    let WithdrawRequest {} = body.value;
    let owner = person(&cx, WRITE)?;
    let id = document_id(path)?;
    let keks = keks().await?;
    batch::with_retries(|| async {
        let mut db = Db::open().await?;
        let profile = living(&db, &owner).await?;
        let key = profile.key(&keks)?;
        let once = Once::new(&cx, &body.fields, &key)?;
        if let Some(answer) = once.replay(&db).await? {
            return Ok(answer);
        }
        profile.profile.may_act()?;
        let stored = owned(&db, &id, &owner).await?;
        let mut writer = Writer::default();
        let findings = stored.document.findings.clone();
        let document = writer.go(
            &stored.document,
            &profile.profile,
            Standing::Withdrawn,
            &findings,
            &Cause::from(&cx),
        )?;
        let opened = Opened {
            document,
            country: String::new(),
            number: None,
        };
        let answer = Answer::json(200, &view(opened, false))?;
        Ok(once.commit(&mut db, writer.finish(), answer).await?)
    })
    .await
}

/// Which documents.
#[derive(Debug, Deserialize, IntoParams)]
struct DocumentsQuery {
    /// In one state, e.g. `verifying`: those that wait for a decision.
    state: Option<String>,
    /// Of one person.
    profile_id: Option<String>,
    /// Items per page, 1 to 200.
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Everyone's documents, for the roles admin and ops_user.
#[utoipa::path(get, path = "/v1/documents", params(DocumentsQuery), tag = "documents",
    responses((status = 200, body = Page<DocumentView>), (status = 403)))]
async fn list_all(cx: Cx, query: Result<Query<DocumentsQuery>, QueryRejection>) -> Result<Answer> {
    decider(&cx)?;
    let Query(query) = query.map_err(|e| Failure::new(Code::InvalidRequest, e.body_text()))?;
    let state = query.state.unwrap_or_default();
    if !state.is_empty() && Standing::parse(&state).is_none() {
        let known: Vec<&str> = Standing::ALL.iter().map(|s| s.as_str()).collect();
        let why = format!("a state is one of {}", known.join(", "));
        return Err(Failure::new(Code::InvalidRequest, why).param("state"));
    }
    let page = PageQuery {
        limit: query.limit,
        cursor: query.cursor,
    };
    let db = Db::open().await?;
    let owner = query.profile_id.unwrap_or_default();
    list(&db, &owner, &state, &page, true).await
}

/// A document, for the roles admin and ops_user.
#[utoipa::path(get, path = "/v1/documents/{id}", params(("id" = String, Path)), tag = "documents",
    responses((status = 200, body = DocumentView), (status = 403), (status = 404)))]
async fn get_one(cx: Cx, path: Result<Path<String>, PathRejection>) -> Result<Answer> {
    decider(&cx)?;
    let id = document_id(path)?;
    let db = Db::open().await?;
    let stored = store::documents::find(&db, &id).await?;
    let opened = stored.ok_or_else(not_found)?.open(&*keks().await?)?;
    Answer::json(200, &view(opened, true))
}

/// The file of a document, for the roles admin and ops_user. Who looked and when is recorded.
#[utoipa::path(get, path = "/v1/documents/{id}/content", params(("id" = String, Path)),
    tag = "documents",
    responses((status = 200, body = ContentView), (status = 403), (status = 404), (status = 410)))]
async fn one_content(cx: Cx, path: Result<Path<String>, PathRejection>) -> Result<Answer> {
    let by = decider(&cx)?;
    let id = document_id(path)?;
    let mut db = Db::open().await?;
    let stored = store::documents::find(&db, &id).await?;
    let stored = stored.ok_or_else(not_found)?;
    let owner = &stored.document.profile_id;
    living(&db, owner).await?;
    let key = stored.key(&*keks().await?)?;
    let answer = content(&db, &stored.document, &key).await?;
    let mut writer = Writer::default();
    writer.record(
        owner,
        &id,
        Decision::plain("content_read", ["", ""], "", &by),
    );
    writer.finish().commit(&mut db).await?;
    Ok(answer)
}

/// What operations decide.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Verified,
    Rejected,
}

/// A decision on a document.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct DecisionRequest {
    decision: Verdict,
    /// Why, for the record.
    #[schema(example = "the picture and the holder agree")]
    reason: String,
}

/// Decides on a document, for the roles admin and ops_user; nobody decides on their own. Needs an
/// Idempotency-Key.
#[utoipa::path(post, path = "/v1/documents/{id}/decision", params(("id" = String, Path)),
    request_body = DecisionRequest, tag = "decisions",
    responses((status = 200, body = DocumentView), (status = 400), (status = 403), (status = 404),
              (status = 409), (status = 410)))]
async fn decide(
    cx: Cx,
    path: Result<Path<String>, PathRejection>,
    body: Body<DecisionRequest>,
) -> Result<Answer> {
    let by = decider(&cx)?;
    let id = document_id(path)?;
    cx.require_idempotency(&body.fields)?;
    let DecisionRequest { decision, reason } = &body.value;
    check_reason(reason)?;
    let to = match decision {
        Verdict::Verified => Standing::Verified,
        Verdict::Rejected => Standing::Rejected,
    };
    let keks = keks().await?;
    batch::with_retries(|| async {
        let mut db = Db::open().await?;
        let stored = store::documents::find(&db, &id).await?;
        let stored = stored.ok_or_else(not_found)?;
        let before = stored.document.clone();
        if before.profile_id == by {
            return Err(Failure::new(
                Code::InsufficientScope,
                "nobody decides on their own document",
            ));
        }
        let profile = living(&db, &before.profile_id).await?;
        let key = profile.key(&keks)?;
        let once = Once::new(&cx, &body.fields, &key)?;
        if let Some(answer) = once.replay(&db).await? {
            return Ok(answer);
        }
        let mut writer = Writer::default();
        let states = [before.standing.as_str(), to.as_str()];
        let decision = Decision::sealed(&key, "document", states, reason, &by)?;
        writer.record(&before.profile_id, &id, decision);
        let opened = stored.open(&keks)?;
        let document = writer.go(
            &before,
            &profile.profile,
            to,
            &before.findings,
            &Cause::from(&cx),
        )?;
        let answer = Answer::json(200, &view(Opened { document, ..opened }, true))?;
        Ok(once.commit(&mut db, writer.finish(), answer).await?)
    })
    .await
}

/// All documents of a person with their files, whose sizes together are bounded.
pub(super) async fn exported(
    db: &Db,
    keks: &Keks,
    key: &DataKey,
    owner: &str,
    for_operations: bool,
) -> Result<Vec<ExportedDocument>> {
    let stored = store::documents::page(db, owner, "", "", DOCUMENTS_PER_PERSON_MAX).await?;
    let mut all = Vec::with_capacity(stored.len());
    for stored in stored {
        let content = match stored.document.media_type {
            Some(_) => store::documents::content(db, key, &stored.document.id).await?,
            None => None,
        };
        all.push(ExportedDocument {
            document: view(stored.open(keks)?, for_operations),
            content_base64: content.map(|file| STANDARD.encode(file)),
        });
    }
    Ok(all)
}
