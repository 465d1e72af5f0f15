//! A request body as JSON or as a form, for the paths people call by hand: `curl -d "a=1&b=2"`.

use axum::{extract::FromRequest, http::Request};
use bytes::Bytes;
use http::header;
use innover_contract::{Code, limits::BODY_BYTES_MAX};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{Body, Failure, Result};

/// Fields of a form; far more than any of ours has.
const FIELDS_MAX: usize = 64;

/// A body whose fields came as JSON or as a form. In a form every value is a text, and a field left
/// blank is one that was not sent. No body at all is one without fields.
#[derive(Clone, Debug)]
pub struct FormOrJson<T>(pub Body<T>);

impl<T: DeserializeOwned> FormOrJson<T> {
    /// Reads a body of `limit` bytes at most.
    ///
    /// # Errors
    /// As [`Body::parse`]; 400 `duplicate_key` for a field that is sent twice.
    pub fn parse(content_type: Option<&str>, bytes: &Bytes, limit: usize) -> Result<Self> {
        let media = content_type
            .unwrap_or_default()
            .split(';')
            .next()
            .unwrap_or_default()
            .trim();
        let is_form = media.eq_ignore_ascii_case("application/x-www-form-urlencoded");
        if !is_form && !bytes.is_empty() {
            return Body::parse(content_type, bytes, limit).map(FormOrJson);
        }
        if bytes.len() > limit {
            let what = format!("the body has {} bytes, {limit} are allowed", bytes.len());
            return Err(Failure::new(Code::BodyTooLarge, what));
        }
        let json = serde_json::to_vec(&fields(bytes)?)
            .map_err(|e| Failure::new(Code::Internal, e.to_string()))?;
        Body::parse(Some("application/json"), &json.into(), usize::MAX).map(FormOrJson)
    }
}

fn fields(bytes: &Bytes) -> Result<Map<String, Value>> {
    let mut fields = Map::new();
    for (name, value) in form_urlencoded::parse(bytes) {
        // What is not UTF-8 was replaced on the way.
        if [&name, &value].iter().any(|text| text.contains('\u{fffd}')) {
            return Err(Failure::new(Code::InvalidRequest, "the form is not UTF-8"));
        }
        if value.is_empty() {
            continue;
        }
        if fields.len() == FIELDS_MAX {
            let what = format!("the form has more than {FIELDS_MAX} fields");
            return Err(Failure::new(Code::InvalidRequest, what));
        }
        if fields.contains_key(&*name) {
            let what = format!("the form names `{name}` twice");
            return Err(Failure::new(Code::DuplicateKey, what).param(format!("/{name}")));
        }
        fields.insert(name.into_owned(), value.into_owned().into());
    }
    Ok(fields)
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for FormOrJson<T> {
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
        FormOrJson::parse(content_type.as_deref(), &bytes, BODY_BYTES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::amount::Amount;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Order {
        order_id: Option<String>,
        amount: Option<Amount>,
    }

    fn read(media: Option<&str>, body: &str) -> Result<(Order, usize), (Code, Option<String>)> {
        let bytes = Bytes::copy_from_slice(body.as_bytes());
        FormOrJson::<Order>::parse(media, &bytes, 64)
            .map(|FormOrJson(body)| (body.value, body.fields.len()))
            .map_err(|failure| (failure.code(), failure.0.param))
    }

    #[test]
    fn a_form_and_json_say_the_same() {
        let form = Some("application/x-www-form-urlencoded; charset=utf-8");
        let json = Some("application/json");
        for (media, body) in [
            (form, "order_id=a+b%2F1&amount=100"),
            (form, "order_id=a%20b/1&amount=100&"),
            (json, r#"{"order_id": "a b/1", "amount": 100}"#),
            (json, r#"{"order_id": "a b/1", "amount": "100"}"#),
        ] {
            let (order, fields) = read(media, body).expect(body);
            assert_eq!(order.order_id.as_deref(), Some("a b/1"), "{body}");
            assert_eq!(order.amount, Some(Amount::Decimal("100".into())), "{body}");
            assert_eq!(fields, 2, "{body}");
        }
        for (media, body) in [(form, "order_id=&amount="), (form, ""), (None, "")] {
            let (order, fields) = read(media, body).expect(body);
            assert!(order.order_id.is_none() && order.amount.is_none() && fields == 0);
        }
    }

    #[test]
    fn what_a_form_cannot_say_is_refused_with_its_field() {
        let form = Some("application/x-www-form-urlencoded");
        let long = format!("order_id={}", "x".repeat(64));
        for (media, body, code, param) in [
            (
                form,
                "amount=1&amount=2",
                Code::DuplicateKey,
                Some("/amount"),
            ),
            (form, "colour=red", Code::InvalidRequest, Some("/colour")),
            (form, "order_id=%ff", Code::InvalidRequest, None),
            (form, &long, Code::BodyTooLarge, None),
            (None, "order_id=1", Code::UnsupportedMediaType, None),
            (Some("text/plain"), "{}", Code::UnsupportedMediaType, None),
        ] {
            let refused = read(media, body).expect_err(body);
            assert_eq!(refused, (code, param.map(str::to_owned)), "{body}");
        }
    }
}
