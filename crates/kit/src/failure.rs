//! The one error type of the HTTP surface: a problem on its way to the caller.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use innover_contract::{Code, Problem, problem::PROBLEM_JSON};

/// What handlers return.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// A problem (RFC 9457) that ends a request. `detail` is for the caller; whatever only an operator
/// may see goes to the log before the failure is made.
#[derive(Clone, Debug)]
pub struct Failure(pub Box<Problem>);

impl Failure {
    /// A failure with this code; `detail` says what happened and what to do.
    pub fn new(code: Code, detail: impl Into<String>) -> Failure {
        Failure(Box::new(Problem::new(code, detail)))
    }

    /// Names the field at fault by JSON pointer.
    #[must_use]
    pub fn param(mut self, pointer: impl Into<String>) -> Failure {
        self.0.param = Some(pointer.into());
        self
    }

    /// The code.
    pub fn code(&self) -> Code {
        self.0.code()
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        self.0.status
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Failure {
        Failure(Box::new(problem))
    }
}

impl From<Code> for Failure {
    fn from(code: Code) -> Failure {
        Failure::new(code, code.title())
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Failure {}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self.0).unwrap_or_default();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        // RFC 6750 §3: a 401 says how to authenticate, a 403 which scope was missing.
        match (status, &self.0.scope) {
            (StatusCode::UNAUTHORIZED, _) => {
                headers.insert(
                    header::WWW_AUTHENTICATE,
                    HeaderValue::from_static(r#"Bearer error="invalid_token""#),
                );
            }
            (StatusCode::FORBIDDEN, Some(scope)) => {
                let value = format!(r#"Bearer error="insufficient_scope", scope="{scope}""#);
                if let Ok(value) = HeaderValue::from_str(&value) {
                    headers.insert(header::WWW_AUTHENTICATE, value);
                }
            }
            (StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS, _) => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        // Lets the service add the request's id and path without parsing the body again.
        response.extensions_mut().insert(self);
        response
    }
}
