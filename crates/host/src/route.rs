//! From an HTTP request to the component that answers it: Spin's routes, Spin's headers.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use innover_failpoint::Step;
use innover_manifest::routes::{RESERVED_PREFIX, RouteMatch, Router};
use innover_manifest::{Manifest, StaticResponse};
use wasmtime_wasi_http::{Error, WasiBody};

use crate::limits;
use crate::problem::{Problem, empty, full};
use crate::service::{Service, Via};
use crate::shared::Shared;

static PATH_INFO: HeaderName = HeaderName::from_static("spin-path-info");
static FULL_URL: HeaderName = HeaderName::from_static("spin-full-url");
static MATCHED_ROUTE: HeaderName = HeaderName::from_static("spin-matched-route");
static BASE_PATH: HeaderName = HeaderName::from_static("spin-base-path");
static RAW_COMPONENT_ROUTE: HeaderName = HeaderName::from_static("spin-raw-component-route");
static COMPONENT_ROUTE: HeaderName = HeaderName::from_static("spin-component-route");
static CLIENT_ADDR: HeaderName = HeaderName::from_static("spin-client-addr");
static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The public face of the application.
pub(crate) struct Entrance {
    shared: Arc<Shared>,
    router: Router,
    /// One per trigger of the manifest, in its order.
    doors: Vec<Door>,
    /// The answer to `/.well-known/spin/info`.
    info: Bytes,
}

/// What is the same for every request of a trigger.
struct Door {
    service: Option<Arc<Service>>,
    /// `spin-matched-route` and `spin-raw-component-route`.
    route: HeaderValue,
    /// `spin-component-route`.
    prefix: HeaderValue,
}

/// The connection a request came over.
pub(crate) struct Client {
    address: HeaderValue,
}

impl Client {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self {
            address: header_value(&address.to_string()),
        }
    }
}

impl Entrance {
    pub(crate) fn new(shared: &Arc<Shared>, manifest: &Manifest) -> anyhow::Result<Self> {
        let router = Router::new(&manifest.http_triggers)?;
        let doors = manifest
            .http_triggers
            .iter()
            .map(|trigger| {
                let route = match &trigger.route {
                    innover_manifest::HttpRoute::Path(path) => path.as_str(),
                    innover_manifest::HttpRoute::Private => "",
                };
                let component = trigger.component.as_deref();
                Door {
                    service: component.and_then(|id| shared.service(id)).cloned(),
                    route: header_value(route),
                    prefix: header_value(route.strip_suffix("/...").unwrap_or(route)),
                }
            })
            .collect();
        let info = serde_json::json!({
            "name": manifest.application.name,
            "version": manifest.application.version,
        });
        let info = Bytes::from(info.to_string());
        Ok(Self {
            shared: Arc::clone(shared),
            router,
            doors,
            info,
        })
    }

    /// Answers one request from outside.
    pub(crate) async fn answer(
        &self,
        request: Request<Incoming>,
        client: &Client,
    ) -> Response<WasiBody> {
        if request.uri().path().starts_with(RESERVED_PREFIX) {
            return self.well_known(request.uri().path());
        }
        let id = request.headers().get(&REQUEST_ID).cloned();
        let step = step_of(&request);
        let response = match self.forward(request, client).await {
            Ok(response) => response,
            Err(problem) => problem.response(id.as_ref().and_then(|id| id.to_str().ok())),
        };
        if let Some((step, at)) = step {
            innover_failpoint::hold(step, &at).await;
        }
        response
    }

    fn well_known(&self, path: &str) -> Response<WasiBody> {
        match path.strip_prefix(RESERVED_PREFIX) {
            Some("health") => Response::new(full("OK")),
            Some("info") => {
                let mut response = Response::new(full(self.info.clone()));
                let json = HeaderValue::from_static("application/json");
                response.headers_mut().insert(CONTENT_TYPE, json);
                response
            }
            _ => Problem::NotFound.response(None),
        }
    }

    async fn forward(
        &self,
        request: Request<Incoming>,
        client: &Client,
    ) -> Result<Response<WasiBody>, Problem> {
        if self.shared.is_stopping() {
            return Err(Problem::Stopping);
        }
        let (mut parts, body) = request.into_parts();
        let declared = content_length(&parts.headers);
        let body = Upload::new(body, &parts);
        if header_bytes(&parts.uri, &parts.headers) > limits::HEADER_BYTES_MAX {
            return Err(Problem::HeadersTooLarge);
        }
        let path = parts.uri.clone();
        let found = self
            .router
            .match_path(path.path())
            .ok_or(Problem::NotFound)?;
        if let Some(answer) = found.static_response {
            return Ok(static_response(answer));
        }
        let door = self.doors.get(found.trigger).ok_or(Problem::NotFound)?;
        let service = door.service.as_ref().ok_or(Problem::NotFound)?;
        parts.uri = absolute(&parts.uri, &parts.headers)?;
        if declared.is_some_and(|bytes| bytes > limits::BODY_BYTES_MAX) {
            return Err(Problem::BodyTooLarge);
        }
        door.describe(&mut parts.headers, &parts.uri, &found, client);
        let too_large = Arc::clone(&body.too_large);
        let body = match body.is_end_stream() {
            true => empty(),
            false => body.boxed_unsync(),
        };
        let request = Request::from_parts(parts, body);
        let result = service
            .call(request, service.app.deadline, Via::Http, found.route)
            .await;
        // The guest saw a broken body and answered whatever it makes of that.
        if too_large.load(Ordering::Relaxed) {
            return Err(Problem::BodyTooLarge);
        }
        result
    }
}

/// Where a test may hold the answer, and at which service: a bridge's delivery names one.
fn step_of(request: &Request<Incoming>) -> Option<(Step, String)> {
    if !innover_failpoint::is_armed() || request.method() != http::Method::POST {
        return None;
    }
    let delivered = request.uri().path().strip_prefix("/_deliver/");
    let service = delivered.and_then(|rest| rest.split('/').next());
    Some(match service {
        Some(service) => (Step::DeliveryUnanswered, service.to_owned()),
        None => (Step::AnswerUnsent, String::new()),
    })
}

impl Door {
    /// Sets the headers Spin sets, and takes away those a client made up.
    fn describe(
        &self,
        headers: &mut HeaderMap,
        uri: &Uri,
        found: &RouteMatch<'_, '_>,
        client: &Client,
    ) {
        let forged: Vec<HeaderName> = headers
            .keys()
            .filter(|name| name.as_str().starts_with("spin-"))
            .cloned()
            .collect();
        for name in forged {
            headers.remove(name);
        }
        headers.reserve(7 + found.params.len());
        headers.insert(&PATH_INFO, header_value(found.trailing));
        headers.insert(&FULL_URL, header_value(&uri.to_string()));
        headers.insert(&MATCHED_ROUTE, self.route.clone());
        headers.insert(&BASE_PATH, HeaderValue::from_static("/"));
        headers.insert(&RAW_COMPONENT_ROUTE, self.route.clone());
        headers.insert(&COMPONENT_ROUTE, self.prefix.clone());
        headers.insert(&CLIENT_ADDR, client.address.clone());
        for (name, value) in &found.params {
            let name = format!(
                "spin-path-match-{}",
                name.to_ascii_lowercase().replace('_', "-")
            );
            // A parameter name that is no header name is left out rather than refused.
            if let Ok(name) = HeaderName::try_from(name) {
                headers.insert(name, header_value(value));
            }
        }
    }
}

/// Text as a header; what cannot be one (control characters) is empty.
fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}

/// HTTP/1.1 requests name only a path; guests see the whole URL, with the authority from `Host`.
fn absolute(uri: &Uri, headers: &HeaderMap) -> Result<Uri, Problem> {
    let authority = match uri.authority() {
        Some(authority) => authority.clone(),
        None => {
            let host = headers.get(HOST).ok_or(Problem::NoHost)?;
            Authority::try_from(host.as_bytes()).map_err(|_| Problem::NoHost)?
        }
    };
    // A name of the inside must not be taken for the caller's: it is what chained requests carry.
    if authority.host().ends_with(".spin.internal") {
        return Err(Problem::NoHost);
    }
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(uri.scheme().cloned().unwrap_or(Scheme::HTTP));
    parts.authority = Some(authority);
    parts.path_and_query = uri.path_and_query().cloned();
    Uri::from_parts(parts).map_err(|_| Problem::NoHost)
}

/// The size of the request's head as HTTP/1.1 writes it.
fn header_bytes(uri: &Uri, headers: &HeaderMap) -> usize {
    let target = uri
        .path_and_query()
        .map_or(1, |target| target.as_str().len());
    let fields = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4);
    target + fields.sum::<usize>()
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn static_response(answer: &StaticResponse) -> Response<WasiBody> {
    let mut response = Response::new(full(answer.body.clone().unwrap_or_default()));
    *response.status_mut() = StatusCode::from_u16(answer.status_code).unwrap_or(StatusCode::OK);
    for (name, value) in &answer.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            response.headers_mut().append(name, value);
        }
    }
    response
}

/// A request's body: ends with an error at the cap, and when nobody wants the rest of it, reads that
/// and throws it away. A connection that is closed while the client still sends is reset, and the
/// client never sees why it was refused.
struct Upload {
    /// `None` once the cap is reached.
    body: Option<Incoming>,
    left: u64,
    too_large: Arc<AtomicBool>,
    /// The client waits for a `100 Continue` before it sends (RFC 9110, 10.1.1); asking for the body
    /// would send it.
    waits: bool,
}

impl Upload {
    fn new(body: Incoming, head: &http::request::Parts) -> Self {
        Self {
            body: Some(body),
            left: limits::BODY_BYTES_MAX,
            too_large: Arc::default(),
            waits: head.headers.contains_key(EXPECT),
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(rest) = self.body.take()
            && !self.waits
            && !rest.is_end_stream()
        {
            tokio::spawn(drain(rest));
        }
    }
}

async fn drain(mut body: Incoming) {
    let (mut left, patience) = limits::BODY_DRAIN;
    let reading = async {
        while let Some(Ok(frame)) = body.frame().await {
            let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
            match left.checked_sub(bytes) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    };
    // Whether it ended or not, the body is dropped here.
    let _ = tokio::time::timeout(patience, reading).await;
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.waits = false;
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let frame = match ready!(Pin::new(body).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            end => return Poll::Ready(end.map(|error| error.map_err(Error::from))),
        };
        let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
        match self.left.checked_sub(bytes) {
            Some(left) => self.left = left,
            None => {
                self.too_large.store(true, Ordering::Relaxed);
                if let Some(rest) = self.body.take() {
                    tokio::spawn(drain(rest));
                }
                return Poll::Ready(Some(Err(Error::HttpRequestBodySize(Some(
                    limits::BODY_BYTES_MAX,
                )))));
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map_or_else(SizeHint::default, Incoming::size_hint)
    }
}
