//! Calls from service to service: a service token, a deadline, at most two retries with full
//! jitter on idempotent calls, a circuit breaker and a bulkhead per callee.

use std::{collections::BTreeMap, sync::Mutex};

use bytes::Bytes;
use http::Method;
use innover_contract::{Code, Identity, Keyring, Problem};
use serde::{Serialize, de::DeserializeOwned};

use crate::{Cx, Failure, Result, config, ids};

/// A callee answers within this time; two retries still fit the 10 s of a request.
pub const TIMEOUT_MS_DEFAULT: u64 = 3_000;
/// Attempts of an idempotent call.
const ATTEMPTS: u32 = 3;
/// First wait before a retry; it doubles, and the actual wait is random below it (full jitter).
const BACKOFF_MS: u64 = 50;
/// Failures in a row that open the breaker.
const BREAKER_FAILURES: u32 = 5;
/// How long an open breaker refuses before it lets one call through.
const BREAKER_OPEN_US: i64 = 5_000_000;
/// Calls of one instance to one callee at once. An instance serves 16 requests, so this bounds
/// a handler that fans out, not ordinary traffic.
const BULKHEAD: u32 = 32;

#[derive(Default)]
struct Breaker {
    failures: u32,
    open_until_us: i64,
    in_flight: u32,
}

static BREAKERS: Mutex<BTreeMap<String, Breaker>> = Mutex::new(BTreeMap::new());

/// This component's keyring, from its one secret variable.
///
/// # Errors
/// 503 when the variable is missing or malformed.
pub async fn keyring() -> Result<&'static Keyring> {
    static KEYRING: std::sync::OnceLock<Keyring> = std::sync::OnceLock::new();
    if let Some(ring) = KEYRING.get() {
        return Ok(ring);
    }
    let text = config::get("keyring").await?;
    let ring = Keyring::parse(&text).map_err(|e| Failure::new(Code::NotReady, e.to_string()))?;
    Ok(KEYRING.get_or_init(|| ring))
}

/// On whose behalf a call is made and under which key, where neither is this request's own: a job
/// goes on with what a person asked for earlier, or a service asks for itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// On whose behalf; this request's caller when `None`.
    pub identity: Option<Identity>,
    /// The Idempotency-Key the callee is sent.
    pub idempotency_key: Option<String>,
}

impl Terms {
    /// A call of `service` for itself, with these scopes.
    pub fn itself(service: &str, scope: &str) -> Terms {
        let identity = Identity {
            sub: service.into(),
            client_id: service.into(),
            scope: scope.into(),
            ..Identity::default()
        };
        Terms::of(identity)
    }

    /// A call on behalf of a person who asked earlier.
    pub fn of(identity: Identity) -> Terms {
        Terms {
            identity: Some(identity),
            idempotency_key: None,
        }
    }

    /// The same with an Idempotency-Key.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Terms {
        self.idempotency_key = Some(key.into());
        self
    }
}

/// Calls another service on behalf of this request's caller and reads its JSON answer.
/// GET, PUT and DELETE are retried; a POST only when the caller says it is safe by `retry`.
///
/// # Errors
/// The callee's own problem for its 4xx; `upstream_timeout`, `upstream_open`, `upstream_error`
/// otherwise, naming the callee.
pub async fn json<T: DeserializeOwned>(
    cx: &Cx,
    method: Method,
    callee: &'static str,
    path: &str,
    body: Option<&impl Serialize>,
    retry: bool,
) -> Result<T> {
    json_on(cx, &Terms::default(), method, callee, path, body, retry).await
}

/// As [`json`], on `terms`.
///
/// # Errors
/// As [`json`].
pub async fn json_on<T: DeserializeOwned>(
    cx: &Cx,
    terms: &Terms,
    method: Method,
    callee: &'static str,
    path: &str,
    body: Option<&impl Serialize>,
    retry: bool,
) -> Result<T> {
    let body = match body {
        Some(body) => serde_json::to_vec(body)
            .map_err(|e| Failure::new(Code::Internal, e.to_string()))?
            .into(),
        None => Bytes::new(),
    };
    let attempts = if retry || method != Method::POST {
        ATTEMPTS
    } else {
        1
    };
    let mut last = upstream(Code::UpstreamError, callee, "it was not called");
    for attempt in 0..attempts {
        if attempt > 0 {
            sleep_ms(jitter_ms(BACKOFF_MS << attempt)).await;
        }
        let _slot = enter(callee)?;
        match send(cx, terms, &method, callee, path, body.clone()).await {
            Ok((status, bytes)) if status < 500 => {
                settle(callee, true);
                return read(callee, status, &bytes);
            }
            Ok((status, bytes)) => {
                last = match serde_json::from_slice::<Problem>(&bytes) {
                    Ok(p) => upstream(Code::UpstreamError, callee, &format!("{status} {}", p.code)),
                    Err(_) => upstream(Code::UpstreamError, callee, &status.to_string()),
                };
            }
            Err(failure) => last = failure,
        }
        settle(callee, false);
    }
    Err(last)
}

fn read<T: DeserializeOwned>(callee: &str, status: u16, bytes: &[u8]) -> Result<T> {
    if status < 400 {
        return serde_json::from_slice(bytes).map_err(|e| {
            upstream(
                Code::UpstreamError,
                callee,
                &format!("its answer does not fit: {e}"),
            )
        });
    }
    match serde_json::from_slice::<Problem>(bytes) {
        Ok(problem) => Err(Problem {
            instance: None,
            request_id: None,
            ..problem
        }
        .into()),
        Err(_) => Err(upstream(
            Code::UpstreamError,
            callee,
            &format!("status {status}"),
        )),
    }
}

fn upstream(code: Code, callee: &str, what: &str) -> Failure {
    Failure::new(code, format!("`{callee}`: {what}"))
}

/// A place in the bulkhead, given back when dropped.
struct Slot(&'static str);

impl Drop for Slot {
    fn drop(&mut self) {
        if let Ok(mut all) = BREAKERS.lock()
            && let Some(breaker) = all.get_mut(self.0)
        {
            breaker.in_flight = breaker.in_flight.saturating_sub(1);
        }
    }
}

fn enter(callee: &'static str) -> Result<Slot> {
    let Ok(mut all) = BREAKERS.lock() else {
        return Ok(Slot(callee));
    };
    let breaker = all.entry(callee.to_owned()).or_default();
    let now = ids::now_us();
    if breaker.failures >= BREAKER_FAILURES {
        if now < breaker.open_until_us {
            return Err(upstream(
                Code::UpstreamOpen,
                callee,
                "it keeps failing; try again in 5 s",
            ));
        }
        // Half open: this call may pass, the next ones wait for its outcome.
        breaker.open_until_us = now + BREAKER_OPEN_US;
    }
    if breaker.in_flight >= BULKHEAD {
        return Err(upstream(
            Code::Overloaded,
            callee,
            "too many calls to it at once",
        ));
    }
    breaker.in_flight += 1;
    Ok(Slot(callee))
}

fn settle(callee: &str, ok: bool) {
    if let Ok(mut all) = BREAKERS.lock()
        && let Some(breaker) = all.get_mut(callee)
    {
        breaker.failures = if ok {
            0
        } else {
            breaker.failures.saturating_add(1)
        };
        if breaker.failures == BREAKER_FAILURES {
            breaker.open_until_us = ids::now_us() + BREAKER_OPEN_US;
        }
    }
}

pub(crate) fn jitter_ms(bound: u64) -> u64 {
    ids::random() % bound.max(1)
}

/// The identity a call carries.
fn identity_of(cx: &Cx, terms: &Terms) -> Identity {
    let own = || cx.claims().map(|claims| claims.identity.clone());
    terms.identity.clone().or_else(own).unwrap_or_default()
}

#[cfg(target_family = "wasm")]
async fn send(
    cx: &Cx,
    terms: &Terms,
    method: &Method,
    callee: &str,
    path: &str,
    body: Bytes,
) -> Result<(u16, Bytes)> {
    use http_body_util::{BodyExt, Full};
    use innover_contract::service_token;
    use spin_sdk::http::{self as spin, StatusCode};

    let token = service_token::mint(
        keyring().await?,
        cx.service(),
        callee,
        &identity_of(cx, terms),
        cx.request_id(),
    )
    .map_err(|e| Failure::new(Code::NotReady, e.to_string()))?;
    let mut request = http::Request::builder()
        .method(method)
        .uri(format!("http://{callee}.spin.internal{path}"))
        .header("authorization", format!("Bearer {token}"))
        .header("content-type", "application/json")
        .header("x-request-id", cx.request_id())
        .header("traceparent", cx.trace().to_string());
    if let Some(key) = &terms.idempotency_key {
        request = request.header("idempotency-key", key);
    }
    let request = request
        .body(Full::new(body))
        .map_err(|e| Failure::new(Code::Internal, e.to_string()))?;
    let exchange = async {
        let response = spin::send(request)
            .await
            .map_err(|e| upstream(Code::UpstreamError, callee, &e.to_string()))?;
        let status: StatusCode = response.status();
        let bytes = response
            .into_body()
            .collect()
            .await
            .map_err(|e| upstream(Code::UpstreamError, callee, &e.to_string()))?
            .to_bytes();
        Ok((status.as_u16(), bytes))
    };
    match within(TIMEOUT_MS_DEFAULT, exchange).await {
        Some(done) => done,
        None => Err(upstream(
            Code::UpstreamTimeout,
            callee,
            &format!("no answer within {TIMEOUT_MS_DEFAULT} ms"),
        )),
    }
}

/// Natively nothing is there to call, unless a test answers in its place
/// ([`crate::testing::answer_calls`]).
#[cfg(not(target_family = "wasm"))]
async fn send(
    cx: &Cx,
    terms: &Terms,
    method: &Method,
    callee: &str,
    path: &str,
    body: Bytes,
) -> Result<(u16, Bytes)> {
    let outgoing = crate::testing::Outgoing {
        callee,
        method,
        path,
        body: serde_json::from_slice(&body).unwrap_or_default(),
        identity: identity_of(cx, terms),
        idempotency_key: terms.idempotency_key.as_deref(),
    };
    crate::testing::answer(&outgoing)
        .ok_or_else(|| upstream(Code::UpstreamError, callee, "calls need the platform"))
}

/// Waits.
pub async fn sleep_ms(ms: u64) {
    sleep_us(ms.saturating_mul(1_000)).await;
}

async fn sleep_us(us: u64) {
    #[cfg(target_family = "wasm")]
    send_wrapper::SendWrapper::new(spin_sdk::wasip3::clocks::monotonic_clock::wait_for(
        us.saturating_mul(1_000),
    ))
    .await;
    #[cfg(not(target_family = "wasm"))]
    crate::testing::sleep(std::time::Duration::from_micros(us)).await;
}

/// Runs `work` for at most `ms`; `None` when the time ran out first, and then it is dropped.
pub(crate) async fn within<T>(ms: u64, work: impl Future<Output = T>) -> Option<T> {
    // One thread: what is not Send is never sent anywhere.
    within_us(
        ms.saturating_mul(1_000),
        send_wrapper::SendWrapper::new(work),
    )
    .await
}

/// The same in microseconds.
pub(crate) async fn within_us<T>(us: u64, work: impl Future<Output = T>) -> Option<T> {
    use std::{future::poll_fn, pin::pin, task::Poll};
    let mut work = pin!(work);
    let mut timer = None;
    poll_fn(move |poll| {
        if let Poll::Ready(done) = work.as_mut().poll(poll) {
            return Poll::Ready(Some(done));
        }
        // The timer is a call of the host: made only when the work did not end at once.
        let timer = timer.get_or_insert_with(|| Box::pin(sleep_us(us)));
        timer.as_mut().poll(poll).map(|()| None)
    })
    .await
}
