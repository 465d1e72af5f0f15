//! The jobs of a service over HTTP, in its OpenAPI document. They are the same for every service and
//! the gateway asks the bridge for them; here they are only described.

use serde_json::Value;
use utoipa::{OpenApi, ToSchema, openapi};

#[derive(OpenApi)]
#[openapi(paths(enqueue_job, show_job))]
struct Document;

/// The paths and schemas that are added to a service's own.
pub(crate) fn document() -> openapi::OpenApi {
    Document::openapi()
}

/// A job to run.
#[derive(ToSchema)]
#[allow(dead_code, reason = "the bridge reads it")]
struct JobRequest {
    /// The task's name, with or without the service's.
    #[schema(example = "add")]
    task: String,
    /// Arguments by position.
    #[schema(example = json!([10, 20]), required = false)]
    args: Vec<Value>,
    /// Arguments by name.
    #[schema(required = false, value_type = Object)]
    kwargs: Value,
    /// The job's id: it runs once per id. A new one when it is left out.
    id: Option<String>,
    /// 0 is first, 9 last.
    #[schema(minimum = 0, maximum = 9)]
    priority: Option<u8>,
    /// Not before this time, RFC 3339.
    eta: Option<String>,
    /// Not before so many seconds from now.
    #[schema(minimum = 0)]
    countdown: Option<f64>,
    /// Not after this time, RFC 3339.
    expires: Option<String>,
}

/// Run a job.
///
/// It is put into the service's queue. An Idempotency-Key makes a repeated request the same job.
#[utoipa::path(post, path = "/v1/jobs", tag = "jobs", request_body = JobRequest,
    responses((status = 202, description = "In the queue"),
              (status = 400, description = "invalid_request"),
              (status = 422, description = "unknown_task")))]
#[allow(dead_code, reason = "the bridge answers it")]
fn enqueue_job() {}

/// What became of a job.
#[utoipa::path(get, path = "/v1/jobs/{id}", tag = "jobs",
    params(("id" = String, Path, description = "The job's id")),
    responses((status = 200, description = "Its state, and its result or error"),
              (status = 404, description = "not_found")))]
#[allow(dead_code, reason = "the bridge answers it")]
fn show_job() {}
