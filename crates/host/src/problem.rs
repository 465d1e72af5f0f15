//! Answers the host gives by itself, as RFC 9457 `application/problem+json`.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use wasmtime_wasi_http::WasiBody;

use crate::limits;

/// Why the host answered in place of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// No route matches.
    NotFound,
    /// The body is over the hard cap.
    BodyTooLarge,
    /// The request line and headers are over theirs.
    HeadersTooLarge,
    /// The request has neither an authority nor a `Host`.
    NoHost,
    /// The component has no free place.
    Saturated,
    /// The deadline passed; the guest may still finish its work.
    Deadline,
    /// The guest trapped.
    Trapped,
    /// The host stops.
    Stopping,
}

impl Problem {
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Problem::NotFound => StatusCode::NOT_FOUND,
            Problem::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Problem::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Problem::NoHost => StatusCode::BAD_REQUEST,
            Problem::Saturated | Problem::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            Problem::Deadline => StatusCode::GATEWAY_TIMEOUT,
            Problem::Trapped => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// `code`, `title` and `detail`. What went wrong inside a guest goes to the log, not here.
    fn text(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Problem::NotFound => ("not_found", "Not found", "No route matches this path."),
            Problem::BodyTooLarge => (
                "payload_too_large",
                "Payload too large",
                "The request body is larger than 4 MiB.",
            ),
            Problem::HeadersTooLarge => (
                "headers_too_large",
                "Request header fields too large",
                "The request line and headers are larger than 16 kB.",
            ),
            Problem::NoHost => ("bad_request", "Bad request", "The request names no host."),
            Problem::Saturated => (
                "overloaded",
                "Service unavailable",
                "The service is at its limit of concurrent requests; try again.",
            ),
            Problem::Stopping => (
                "stopping",
                "Service unavailable",
                "The service is stopping.",
            ),
            Problem::Deadline => (
                "deadline_exceeded",
                "Gateway timeout",
                "No answer within the deadline. The outcome is unknown: ask again with the same key.",
            ),
            Problem::Trapped => (
                "internal_error",
                "Internal server error",
                "The service failed.",
            ),
        }
    }

    /// The answer. `request_id` is echoed when it is safe to (1–128 of `[A-Za-z0-9._-]`).
    pub(crate) fn response(self, request_id: Option<&str>) -> Response<WasiBody> {
        let (code, title, detail) = self.text();
        let status = self.status().as_u16();
        let mut body = format!(
            r#"{{"type":"about:blank","title":"{title}","status":{status},"detail":"{detail}","code":"{code}""#
        );
        if let Some(id) = request_id.filter(|id| is_request_id(id)) {
            body.push_str(r#","request_id":""#);
            body.push_str(id);
            body.push('"');
        }
        body.push('}');
        let mut response = Response::new(full(body));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if matches!(self, Problem::Saturated | Problem::Stopping) {
            headers.insert(
                RETRY_AFTER,
                HeaderValue::from_static(limits::RETRY_AFTER_SECONDS),
            );
        }
        response
    }
}

/// 1–128 of `[A-Za-z0-9._-]`, the ids the platform keeps.
pub(crate) fn is_request_id(id: &str) -> bool {
    (1..=128).contains(&id.len())
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

pub(crate) fn full(body: impl Into<Bytes>) -> WasiBody {
    Full::new(body.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

pub(crate) fn empty() -> WasiBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_problem_is_json_with_its_status_and_code() {
        for problem in [
            Problem::NotFound,
            Problem::BodyTooLarge,
            Problem::HeadersTooLarge,
            Problem::NoHost,
            Problem::Saturated,
            Problem::Deadline,
            Problem::Trapped,
            Problem::Stopping,
        ] {
            let response = problem.response(Some("abc-1"));
            assert_eq!(response.status(), problem.status());
            let retry = response.headers().contains_key(RETRY_AFTER);
            assert_eq!(retry, problem.status() == StatusCode::SERVICE_UNAVAILABLE);
            let body = response.into_body().collect().await.unwrap().to_bytes();
            let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(json["status"], problem.status().as_u16());
            assert_eq!(json["request_id"], "abc-1");
            assert!(json["code"].is_string());
        }
    }

    #[tokio::test]
    async fn a_request_id_that_could_break_the_json_is_left_out() {
        let body = Problem::NotFound.response(Some("a\"b")).into_body();
        let json: serde_json::Value =
            serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap();
        assert_eq!(json.get("request_id"), None);
    }
}
