//! The HTTP surface: score a case, read its scores, ask what the model takes.

use axum::extract::{Path, Query, rejection::PathRejection, rejection::QueryRejection};
use innover_kit::{
    Answer, Batch, Body, Cause, Code, Cx, Db, Emit, Failure, Result, batch,
    contract::time::rfc3339,
    idempotency, ids, log,
    page::{Page, PageQuery},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use utoipa::{OpenApi, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    features::{self, FeatureError},
    limits::{CASE_ID_BYTES_MAX, TITLE_BYTES_MAX},
    model::{Reason, Score, is_case_id},
    scorer,
    store::{self, Scoring},
};

const READ: &str = "scoring:read";
const WRITE: &str = "scoring:write";
/// The service that has cases scored, on whoever's behalf.
const CASES: &str = "cases";

#[derive(OpenApi)]
#[openapi(
    info(title = "scoring", description = "Fraud scores of cases"),
    servers((url = "/api/scoring"))
)]
struct Doc;

/// The routes and their document.
pub fn routes() -> OpenApiRouter {
    OpenApiRouter::with_openapi(Doc::openapi())
        .routes(routes!(score_case))
        .routes(routes!(get_scorings))
        .routes(routes!(list_features))
}

/// A case to score.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ScoreRequest {
    #[schema(example = "cas_0192f3c4")]
    case_id: String,
    /// Kept with the score, for people.
    #[serde(default)]
    title: String,
    /// What is known of the case (`GET /v1/features`). What the model does not take is ignored, null
    /// means absent. No floats: money is minor units.
    #[schema(value_type = Object, example = json!({
        "amount_eur_minor": 300000, "new_payee": true, "payments_24h": 9, "reason_codes": []
    }))]
    features: Map<String, Value>,
}

/// A score.
#[derive(Debug, Serialize, ToSchema)]
struct ScoreView {
    case_id: String,
    /// 0, nothing suspicious, to 1000, certainly fraud.
    score: i64,
    /// Why, largest effect first.
    reasons: Vec<Reason>,
    /// Name and version of the model.
    #[schema(example = "shipped/1")]
    model: String,
    scored_at: String,
}

/// A score with all that is kept of it.
#[derive(Debug, Serialize, ToSchema)]
struct ScoringView {
    #[serde(flatten)]
    score: ScoreView,
    /// Counts the scorings of the case.
    version: i64,
    title: String,
    /// What the model was given.
    #[schema(value_type = Object)]
    features: Value,
    scored_by: String,
}

fn stored<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text)
        .map_err(|e| Failure::new(Code::Internal, format!("a stored scoring is damaged: {e}")))
}

impl ScoreView {
    fn new(scoring: &Scoring) -> Result<ScoreView> {
        Ok(ScoreView {
            case_id: scoring.case_id.clone(),
            score: scoring.score,
            reasons: stored(&scoring.reasons)?,
            model: scoring.model.clone(),
            scored_at: rfc3339(scoring.scored_at),
        })
    }
}

impl ScoringView {
    fn new(scoring: Scoring) -> Result<ScoringView> {
        Ok(ScoringView {
            score: ScoreView::new(&scoring)?,
            version: scoring.seq,
            title: scoring.title,
            features: stored(&scoring.features)?,
            scored_by: scoring.scored_by,
        })
    }
}

impl From<FeatureError> for Failure {
    fn from(error: FeatureError) -> Failure {
        let detail = error.to_string();
        match error {
            FeatureError::Malformed { name, .. } if name.is_empty() => {
                Failure::new(Code::InvalidRequest, detail).param("/features")
            }
            FeatureError::Malformed { name, .. } => {
                Failure::new(Code::InvalidRequest, detail).param(format!("/features/{name}"))
            }
            FeatureError::NotTaken { name, .. } => {
                Failure::new(Code::InvalidFeatures, detail).param(format!("/features/{name}"))
            }
            FeatureError::Scorer { .. } => Failure::new(Code::ScorerFailed, detail),
        }
    }
}

/// What the model refuses.
fn refused(error: scorer::Error) -> Failure {
    // A plug-in's own words, of any length.
    let short = |text: String| text.chars().take(200).collect::<String>();
    let detail = match error {
        scorer::Error::MissingFeature(what) => format!("the model needs `{}`", short(what)),
        scorer::Error::WrongType(what) => {
            format!("the model takes `{}` as another type", short(what))
        }
        scorer::Error::LimitExceeded(what) => {
            format!("more than the model takes: {}", short(what))
        }
    };
    Failure::new(Code::InvalidFeatures, detail)
}

/// Scores a case by the plugged model. Every scoring is kept and announced as `score_updated`.
#[utoipa::path(post, path = "/v1/scoring", request_body = ScoreRequest, tag = "scoring",
    responses((status = 200, body = ScoreView), (status = 400), (status = 403), (status = 422),
        (status = 502), (status = 504)))]
async fn score_case(cx: Cx, body: Body<ScoreRequest>) -> Result<Answer> {
    let by = author(&cx)?;
    let key = cx.idempotency(&body.fields)?;
    let request = &body.value;
    check(request)?;
    if let Some(key) = &key
        && let Some(answer) = key.replay(&Db::open().await?).await?
    {
        return Ok(answer);
    }
    let facts = features::read(&request.features, scorer::features())?;
    let score = Score::accept(scorer::score(&facts).map_err(refused)?).map_err(|e| {
        let detail = e.to_string();
        log::error(&cx, "no score", &[("error", detail.as_str().into())]);
        Failure::new(Code::ScorerFailed, detail)
    })?;
    let reasons = text(&score.reasons)?;
    let features = features::json(&facts).to_string();
    batch::with_retries(|| async {
        let mut db = Db::open().await?;
        let scoring = Scoring {
            case_id: request.case_id.clone(),
            seq: store::newest(&db, &request.case_id).await? + 1,
            title: request.title.clone(),
            score: score.score.into(),
            model: score.model.clone(),
            reasons: reasons.clone(),
            features: features.clone(),
            scored_at: ids::now_us(),
            scored_by: by.clone(),
        };
        let mut batch = Batch::new();
        store::insert(&mut batch, &scoring);
        let view = ScoreView::new(&scoring)?;
        batch.emit(Emit {
            kind: "score_updated",
            key: scoring.case_id.clone(),
            key_version: scoring.seq,
            data: json!({
                "case_id": view.case_id, "version": scoring.seq, "score": view.score,
                "model": view.model, "reasons": view.reasons, "scored_at": view.scored_at,
            }),
            cause: Cause::from(&cx),
        });
        let answer = Answer::json(200, &view)?;
        Ok(idempotency::commit(&mut db, batch, key.as_ref(), answer).await?)
    })
    .await
}

fn text(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Failure::new(Code::Internal, e.to_string()))
}

/// Who has a case scored.
fn author(cx: &Cx) -> Result<String> {
    let is_cases = cx.claims().is_some_and(|claims| claims.caller == CASES);
    let who = match is_cases {
        true => cx.identity()?,
        false => cx.require(WRITE)?,
    };
    let named = [&who.sub, &who.client_id]
        .into_iter()
        .find(|name| !name.is_empty());
    // A job of the service works for nobody.
    Ok(named.map_or_else(|| CASES.into(), String::clone))
}

fn check(request: &ScoreRequest) -> Result<()> {
    if !is_case_id(&request.case_id) {
        let what = format!("a case's id is 1 to {CASE_ID_BYTES_MAX} letters, digits, `_` and `-`");
        return Err(Failure::new(Code::InvalidRequest, what).param("/case_id"));
    }
    if request.title.len() > TITLE_BYTES_MAX {
        let what = format!("a title has at most {TITLE_BYTES_MAX} bytes");
        return Err(Failure::new(Code::InvalidRequest, what).param("/title"));
    }
    Ok(())
}

/// Every scoring of a case, newest first; none when it was never scored.
#[utoipa::path(get, path = "/v1/scoring/{case_id}", params(("case_id" = String, Path), PageQuery),
    tag = "scoring", responses((status = 200, body = Page<ScoringView>), (status = 400), (status = 403)))]
async fn get_scorings(
    cx: Cx,
    path: Result<Path<String>, PathRejection>,
    page: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Answer> {
    cx.require(READ)?;
    let Path(case_id) = path.map_err(|e| Failure::new(Code::NotFound, e.body_text()))?;
    let Query(page) = page.map_err(|e| Failure::new(Code::InvalidRequest, e.body_text()))?;
    let limit = page.limit()?;
    let before = match page.after()?.as_str() {
        "" => i64::MAX,
        seq => seq
            .parse()
            .map_err(|_| Failure::from(Code::InvalidCursor).param("cursor"))?,
    };
    let db = Db::open().await?;
    let rows = store::page(&db, &case_id, before, i64::from(limit) + 1).await?;
    // The page's cursor is text; a number is not.
    let views = rows
        .into_iter()
        .map(|row| Ok((row.seq.to_string(), ScoringView::new(row)?)))
        .collect::<Result<Vec<_>>>()?;
    let Page { data, next_cursor } = Page::new(views, limit, |(seq, _)| seq.as_str());
    let data: Vec<ScoringView> = data.into_iter().map(|(_, view)| view).collect();
    Answer::json(200, &Page { data, next_cursor })
}

/// A feature the model takes.
#[derive(Debug, Serialize, ToSchema)]
struct FeatureView {
    #[schema(example = "amount_eur_minor")]
    name: String,
    /// `integer`, `boolean`, `text`, `integers` or `texts`.
    #[serde(rename = "type")]
    kind: String,
    /// Whether a case is refused without it.
    required: bool,
}

/// The features.
#[derive(Debug, Serialize, ToSchema)]
struct FeaturesView {
    data: Vec<FeatureView>,
}

/// What the plugged model takes.
#[utoipa::path(get, path = "/v1/features", tag = "scoring", responses((status = 200, body = FeaturesView)))]
async fn list_features(cx: Cx) -> Result<Answer> {
    if cx.claims().is_none_or(|claims| claims.caller != CASES) {
        cx.require(READ)?;
    }
    let data = scorer::features()
        .iter()
        .map(|feature| FeatureView {
            name: feature.name.clone(),
            kind: feature.kind.clone(),
            required: feature.required,
        })
        .collect();
    Answer::json(200, &FeaturesView { data })
}
