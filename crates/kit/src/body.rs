//! A JSON request body, checked before a handler sees it.

use axum::{extract::FromRequest, http::Request};
use bytes::Bytes;
use http::header;
use innover_contract::{Code, limits::BODY_BYTES_MAX};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{Failure, Result, strict_json};

/// The body as the handler's type, and its top-level fields as sent, which an idempotency key is
/// compared by.
#[derive(Clone, Debug)]
pub struct Body<T> {
    /// The typed body.
    pub value: T,
    /// The top-level fields as they were sent.
    pub fields: Map<String, Value>,
}

impl<T: DeserializeOwned> Body<T> {
    /// Reads a body of `limit` bytes at most.
    ///
    /// # Errors
    /// 413, 415, or 400 with the JSON pointer of the field at fault.
    pub fn parse(content_type: Option<&str>, bytes: &Bytes, limit: usize) -> Result<Body<T>> {
        let value = Body::typed(content_type, bytes, limit)?;
        let fields: Map<String, Value> = serde_json::from_slice(bytes).map_err(|_| {
            Failure::new(Code::InvalidRequest, "the body must be a JSON object").param("")
        })?;
        Ok(Body { value, fields })
    }

    /// The same without the fields, for bodies that no idempotency key is compared by.
    ///
    /// # Errors
    /// As [`Body::parse`].
    pub fn typed(content_type: Option<&str>, bytes: &Bytes, limit: usize) -> Result<T> {
        if bytes.len() > limit {
            return Err(Failure::new(
                Code::BodyTooLarge,
                format!("the body has {} bytes, {limit} are allowed", bytes.len()),
            ));
        }
        let media = content_type
            .unwrap_or_default()
            .split(';')
            .next()
            .unwrap_or_default()
            .trim();
        if !(media.eq_ignore_ascii_case("application/json") || media.ends_with("+json")) {
            return Err(Failure::new(
                Code::UnsupportedMediaType,
                "send JSON with `Content-Type: application/json`",
            ));
        }
        strict_json::check(bytes)?;
        // Keeping the path costs a third, so it is looked for only when there is a fault to name.
        serde_json::from_slice(bytes).or_else(|_| {
            let mut json = serde_json::Deserializer::from_slice(bytes);
            serde_path_to_error::deserialize(&mut json).map_err(|e| {
                let pointer = pointer(e.path());
                let said = e.into_inner().to_string();
                // serde_json ends its text with a position that the pointer says better.
                let said = said.split(" at line ").next().unwrap_or(&said).to_owned();
                Failure::new(Code::InvalidRequest, said).param(pointer)
            })
        })
    }
}

/// `a.b[2]` as the JSON pointer `/a/b/2` (RFC 6901).
fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    path.iter()
        .map(|segment| match segment {
            Segment::Seq { index } => format!("/{index}"),
            Segment::Map { key } => format!("/{}", key.replace('~', "~0").replace('/', "~1")),
            Segment::Enum { variant } => format!("/{variant}"),
            Segment::Unknown => String::new(),
        })
        .collect()
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Failure;

    async fn from_request(req: Request<axum::body::Body>, state: &S) -> Result<Self> {
        let content_type = req
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|v| v.to_str().ok())
            .map(str::to_owned);
        // The service has read the body within its bound already, so this cannot be long or slow.
        let bytes = Bytes::from_request(req, state)
            .await
            .map_err(|e| Failure::new(Code::MalformedJson, e.to_string()))?;
        Body::parse(content_type.as_deref(), &bytes, BODY_BYTES_MAX)
    }
}
