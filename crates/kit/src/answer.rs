//! An answer that can be stored with an idempotency key and sent again, byte for byte.

use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;

use crate::{Failure, Result};

/// Marks an answer that was stored earlier.
pub const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// A status and a JSON body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The JSON text.
    pub body: String,
    /// Whether it was stored by an earlier request with the same key.
    pub replayed: bool,
}

impl Answer {
    /// An answer with this status and body.
    ///
    /// # Errors
    /// 500 when the value cannot be written as JSON, which is a defect of the type.
    pub fn json(status: u16, body: &impl Serialize) -> Result<Answer> {
        let body = serde_json::to_string(body)
            .map_err(|e| Failure::new(crate::Code::Internal, e.to_string()))?;
        Ok(Answer {
            status,
            body,
            replayed: false,
        })
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let kind = if status.is_client_error() || status.is_server_error() {
            innover_contract::problem::PROBLEM_JSON
        } else {
            "application/json"
        };
        let mut response = (status, self.body).into_response();
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        if self.replayed {
            response
                .headers_mut()
                .insert(REPLAYED, HeaderValue::from_static("true"));
        }
        response
    }
}
