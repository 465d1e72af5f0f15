//! The request a handler works for: who asked, under which request id and trace, with which key.

use std::sync::Arc;

use axum::{extract::FromRequestParts, http::request::Parts};
use innover_contract::{
    Code, Event, Identity, Job, ServiceClaims, TraceParent,
    limits::{IDEMPOTENCY_KEY_BYTES_MAX, REQUEST_ID_BYTES_MAX},
};

use crate::{Failure, Result, idempotency::IdempotencyKey, ids};

/// What an event, a job or a log line inherits from the request that caused it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cause {
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// The request id.
    pub correlation_id: Option<String>,
    /// The caller's Idempotency-Key.
    pub idempotency_key: Option<String>,
    /// The subject on whose request it happens: a user or a client; `None` when nobody asked.
    pub actor: Option<String>,
}

impl Cause {
    /// The 32 hex digits of the trace, empty when there is none.
    pub fn trace_id(&self) -> String {
        let trace = self.traceparent.as_deref().and_then(TraceParent::parse);
        trace.map(|t| t.trace_id().to_owned()).unwrap_or_default()
    }
}

impl From<&Event> for Cause {
    fn from(event: &Event) -> Cause {
        Cause {
            traceparent: event.traceparent.clone(),
            correlation_id: event.correlationid.clone(),
            idempotency_key: event.idempotencykey.clone(),
            actor: event.authid.clone(),
        }
    }
}

impl From<&Job> for Cause {
    fn from(job: &Job) -> Cause {
        Cause {
            traceparent: job.traceparent.clone(),
            correlation_id: job.correlationid.clone(),
            idempotency_key: None,
            actor: None,
        }
    }
}

impl From<&Cx> for Cause {
    fn from(cx: &Cx) -> Cause {
        Cause {
            traceparent: Some(cx.0.trace.to_string()),
            correlation_id: Some(cx.0.request_id.clone()),
            idempotency_key: cx.0.idempotency_key.clone(),
            actor: cx.actor(),
        }
    }
}

/// The context of one request; cheap to clone. As an axum extractor it is always there.
#[derive(Clone, Debug)]
pub struct Cx(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    service: &'static str,
    method: String,
    path: String,
    request_id: String,
    trace: TraceParent,
    claims: Option<Arc<ServiceClaims>>,
    idempotency_key: Option<String>,
}

impl Cx {
    /// The context of a request with these parts; `claims` are those of a verified service token.
    pub fn new(service: &'static str, parts: &Parts, claims: Option<Arc<ServiceClaims>>) -> Cx {
        let header = |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok());
        let request_id = header("x-request-id")
            .filter(|id| is_request_id(id))
            .map_or_else(ids::new_uuid, str::to_owned);
        let trace = header("traceparent")
            .and_then(TraceParent::parse)
            .map_or_else(ids::new_trace, |t| ids::new_span(&t));
        Cx(Arc::new(Inner {
            service,
            method: parts.method.to_string(),
            path: parts.uri.path().into(),
            request_id,
            trace,
            claims,
            idempotency_key: header("idempotency-key").map(str::to_owned),
        }))
    }

    /// A context of no request: for work a schedule or a Redis message starts.
    pub fn detached(service: &'static str) -> Cx {
        Cx(Arc::new(Inner {
            service,
            method: String::new(),
            path: String::new(),
            request_id: ids::new_uuid(),
            trace: ids::new_trace(),
            claims: None,
            idempotency_key: None,
        }))
    }

    /// This service's name.
    pub fn service(&self) -> &'static str {
        self.0.service
    }

    /// The path this service was asked for.
    pub fn path(&self) -> &str {
        &self.0.path
    }

    /// The request's id.
    pub fn request_id(&self) -> &str {
        &self.0.request_id
    }

    /// The request's trace.
    pub fn trace(&self) -> &TraceParent {
        &self.0.trace
    }

    /// The verified service token, where one was sent.
    pub fn claims(&self) -> Option<&ServiceClaims> {
        self.0.claims.as_deref()
    }

    /// The subject of the caller's token, or its client where it has none; `None` for the bridge,
    /// which asks on nobody's behalf.
    fn actor(&self) -> Option<String> {
        let identity = &self.claims()?.identity;
        [&identity.sub, &identity.client_id]
            .into_iter()
            .find(|name| !name.is_empty())
            .filter(|_| !self.is_delivery())
            .cloned()
    }

    /// On whose behalf the request is made.
    ///
    /// # Errors
    /// 401 when no valid service token came with it.
    pub fn identity(&self) -> Result<&Identity> {
        self.claims().map(|c| &c.identity).ok_or_else(|| {
            Failure::new(
                Code::InvalidToken,
                "call through the gateway with an access token (POST /oauth2/token)",
            )
        })
    }

    /// Requires a scope and returns the identity.
    ///
    /// # Errors
    /// 401 without a token, 403 `insufficient_scope` naming the scope.
    pub fn require(&self, scope: &str) -> Result<&Identity> {
        let identity = self.identity()?;
        if identity.has_scope(scope) {
            return Ok(identity);
        }
        Err(insufficient_scope(scope))
    }

    /// Requires that the caller owns `owner`'s things or may read everyone's: any role but `user`
    /// does, and so does a client without a person.
    ///
    /// # Errors
    /// 403 `not_owner`.
    pub fn require_reader_of(&self, owner: &str) -> Result<()> {
        let identity = self.identity()?;
        let reads_all = identity.roles.iter().any(|r| r != "user") || is_client(identity);
        if identity.sub == owner || reads_all {
            Ok(())
        } else {
            Err(not_owner())
        }
    }

    /// Requires that the caller owns `owner`'s things or acts for the house (admin, finance, or a
    /// client without a person).
    ///
    /// # Errors
    /// 403 `not_owner`.
    pub fn require_actor_for(&self, owner: &str) -> Result<()> {
        let identity = self.identity()?;
        if identity.sub == owner || self.acts_for_house()? {
            Ok(())
        } else {
            Err(not_owner())
        }
    }

    /// Whether the caller acts for the house: admin, finance, or a client without a person.
    ///
    /// # Errors
    /// 401 without a token.
    pub fn acts_for_house(&self) -> Result<bool> {
        let identity = self.identity()?;
        Ok(identity.has_role("admin") || identity.has_role("finance") || is_client(identity))
    }

    /// The Idempotency-Key of this request together with its scope and the body's fields; `None`
    /// when the caller sent none.
    ///
    /// # Errors
    /// 400 when the key is empty, too long, or not printable ASCII.
    pub fn idempotency(
        &self,
        fields: &serde_json::Map<String, serde_json::Value>,
    ) -> Result<Option<IdempotencyKey>> {
        self.0
            .idempotency_key
            .as_ref()
            .map(|key| self.idempotency_under(key, fields))
            .transpose()
    }

    /// As [`Cx::idempotency`] for a key that is part of the body, as an order's number is: whatever
    /// the header says.
    ///
    /// # Errors
    /// 400 when the key is empty, too long, or not printable ASCII.
    pub fn idempotency_under(
        &self,
        key: &str,
        fields: &serde_json::Map<String, serde_json::Value>,
    ) -> Result<IdempotencyKey> {
        let printable = key.bytes().all(|b| (0x20..0x7f).contains(&b));
        if key.is_empty() || key.len() > IDEMPOTENCY_KEY_BYTES_MAX || !printable {
            return Err(Failure::new(
                Code::InvalidIdempotencyKey,
                format!(
                    "an Idempotency-Key is 1 to {IDEMPOTENCY_KEY_BYTES_MAX} printable ASCII characters"
                ),
            ));
        }
        let identity = self.identity()?;
        let caller = if identity.sub.is_empty() {
            &identity.client_id
        } else {
            &identity.sub
        };
        Ok(IdempotencyKey::new(
            caller,
            &self.0.method,
            &self.0.path,
            key,
            fields,
        ))
    }

    /// As [`Cx::idempotency`] where the key is required.
    ///
    /// # Errors
    /// 400 `idempotency_key_required` when there is none.
    pub fn require_idempotency(
        &self,
        fields: &serde_json::Map<String, serde_json::Value>,
    ) -> Result<IdempotencyKey> {
        self.idempotency(fields)?.ok_or_else(|| {
            Failure::new(
                Code::IdempotencyKeyRequired,
                "send an `Idempotency-Key` header, unique to this operation; repeat it when you retry",
            )
        })
    }

    /// The context's service token claims were made by the bridge, or by the gateway on its behalf.
    pub(crate) fn is_delivery(&self) -> bool {
        self.claims().is_some_and(|c| {
            matches!(c.caller.as_str(), "bridge" | "gateway")
                && c.identity
                    .has_scope(innover_contract::service_token::SCOPE_DELIVER)
        })
    }
}

/// 403 `insufficient_scope` naming the scope that was needed.
pub fn insufficient_scope(scope: &str) -> Failure {
    let mut failure = Failure::new(
        Code::InsufficientScope,
        format!("the token lacks the scope `{scope}`"),
    );
    failure.0.scope = Some(scope.into());
    failure
}

fn not_owner() -> Failure {
    Failure::new(Code::NotOwner, "this belongs to someone else")
}

/// A client's own token (client credentials) has no user name.
fn is_client(identity: &Identity) -> bool {
    identity.preferred_username.is_empty() && !identity.client_id.is_empty()
}

/// Whether a caller's request id is kept: 1–128 of `[A-Za-z0-9._-]`.
pub fn is_request_id(id: &str) -> bool {
    (1..=REQUEST_ID_BYTES_MAX).contains(&id.len())
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

impl<S: Send + Sync> FromRequestParts<S> for Cx {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Cx> {
        parts.extensions.get::<Cx>().cloned().ok_or_else(|| {
            Failure::new(
                Code::Internal,
                "the request was not served through `innover_kit::serve`",
            )
        })
    }
}
