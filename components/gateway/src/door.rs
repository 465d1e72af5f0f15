//! One request, from its first byte to its answer's.

use std::sync::{Arc, Mutex, OnceLock};

use innover_kit::{
    Code, Failure, Result, call, config,
    context::insufficient_scope,
    contract::{Identity, TraceParent, service_token},
    ids,
};
use spin_sdk::wasip3::{
    http::types::{ErrorCode, Method, Request, Response},
    random::random::get_random_u64,
};

use crate::{
    catalogue, cors,
    headers::{Header, Inbound, goes_out},
    keys,
    limits::{HEALTH_FRESH_US, PREFLIGHT_SECONDS, READINESS_TIMEOUT_MS},
    names,
    problem::Own,
    settings::Settings,
    table::{Access, Callee, Door, Nowhere, Service, Table, Target},
    upstream::{self, Body},
    verified::{self, Caller},
};

/// What the answer needs of the request, whatever becomes of it.
struct Visit {
    inbound: Inbound,
    request_id: String,
    now_us: i64,
}

/// Answers a request.
pub async fn handle(request: Request) -> Result<Response, ErrorCode> {
    let path = request.get_path_with_query().unwrap_or_else(|| "/".into());
    let method = request.get_method();
    let mut inbound = Inbound::read(request.get_headers().copy_all());
    let now_us = ids::now_us();
    let request_id = inbound
        .request_id
        .take()
        .unwrap_or_else(|| names::with(seed, |names| names.uuid(now_us)));
    let mut visit = Visit {
        inbound,
        request_id,
        now_us,
    };
    let settings = Settings::get().await;
    let own = match &settings {
        Ok(settings) => match answer(request, &mut visit, settings, &method, &path).await {
            Ok(Answer::Theirs(response, target_route)) => {
                return theirs(response, &visit, settings, target_route, &path);
            }
            Ok(Answer::Own(own, route)) => (own, route),
            Err(failure) => (refused(failure, &visit, &path), ""),
        },
        Err(failure) => (refused(failure.clone(), &visit, &path), ""),
    };
    let mut headers = Vec::with_capacity(12);
    dress(&mut headers, &visit, settings.ok());
    if !own.1.is_empty() {
        headers.push(("x-route".into(), own.1.as_bytes().to_vec()));
    }
    upstream::own(own.0, headers)
}

fn seed() -> [u8; 16] {
    let (a, b) = (get_random_u64(), get_random_u64());
    (u128::from(a) << 64 | u128::from(b)).to_be_bytes()
}

fn refused(failure: Failure, visit: &Visit, path: &str) -> Own {
    let path = path.split('?').next().unwrap_or_default();
    Own::problem(failure, path, &visit.request_id)
}

/// Which public pattern an answer belongs to, for the metrics.
#[derive(Clone, Copy)]
struct RouteOf {
    service: &'static Service,
    callee: &'static str,
    pattern: &'static str,
    refined: bool,
}

enum Answer {
    Own(Own, &'static str),
    Theirs(Response, RouteOf),
}

async fn answer(
    request: Request,
    visit: &mut Visit,
    settings: &'static Settings,
    method: &Method,
    path: &str,
) -> Result<Answer> {
    visit.inbound.check()?;
    if matches!(method, Method::Options) && visit.inbound.preflight {
        return Ok(Answer::Own(preflight(&visit.inbound, settings), ""));
    }
    let table = Table::get();
    let target = match table.find(name_of(method), path) {
        Ok(target) => target,
        Err(nowhere) => return own(nowhere, method, path, visit).await,
    };
    let caller = admit(&target, visit, settings).await?;
    let callee = callee(&target, settings)?;
    let body = body(request, &visit.inbound, method, target.route.body_bytes_max).await?;
    let mut headers = onward(&target, callee.name, visit, &caller, path).await?;
    let length = match &body {
        Body::None => None,
        Body::Stream(..) => visit.inbound.content_length,
        Body::Bytes(bytes) => Some(bytes.len() as u64),
    };
    if length.is_some() || !matches!(method, Method::Get | Method::Head) {
        headers.push((
            "content-length".into(),
            length.unwrap_or(0).to_string().into_bytes(),
        ));
    }
    let response = upstream::call(
        callee,
        method,
        &target.upstream,
        &headers,
        body,
        target.route.timeout_ms,
    )
    .await?;
    let route = RouteOf {
        service: target.service,
        callee: callee.name,
        pattern: &target.route.public,
        refined: target.refined,
    };
    Ok(Answer::Theirs(response, route))
}

/// Who answers.
fn callee(target: &Target<'static, '_>, settings: &'static Settings) -> Result<Callee<'static>> {
    if target.door != Door::Bridge {
        return Ok(target.service.callee());
    }
    let bridge = settings.bridge.as_ref().ok_or_else(|| {
        let what =
            "`bridge_url` is no address like http://127.0.0.1:3001, so no jobs are taken here";
        Failure::new(Code::NotReady, what)
    })?;
    Ok(bridge.callee())
}

fn name_of(method: &Method) -> &str {
    match method {
        Method::Get => "GET",
        Method::Head => "HEAD",
        Method::Post => "POST",
        Method::Put => "PUT",
        Method::Delete => "DELETE",
        Method::Connect => "CONNECT",
        Method::Options => "OPTIONS",
        Method::Trace => "TRACE",
        Method::Patch => "PATCH",
        Method::Other(name) => name,
    }
}

/// What the gateway answers itself, and the answer for everything that leads nowhere.
async fn own(nowhere: Nowhere, method: &Method, path: &str, visit: &Visit) -> Result<Answer> {
    let path = path.split('?').next().unwrap_or_default();
    let is_get = matches!(method, Method::Get | Method::Head);
    match (path, nowhere) {
        ("/health", _) if is_get => Ok(Answer::Own(health(visit.now_us).await?, "/health")),
        ("/readiness", _) if is_get => Ok(Answer::Own(readiness().await?, "/readiness")),
        ("/api", _) if is_get => {
            static CATALOGUE: OnceLock<String> = OnceLock::new();
            let text = CATALOGUE.get_or_init(|| catalogue::render(Table::get()).to_string());
            Ok(Answer::Own(Own::json(200, text.as_bytes()), "/api"))
        }
        ("/health" | "/readiness" | "/api", _) => Ok(not_allowed("GET", path, visit)),
        (_, Nowhere::Method(allow)) => Ok(not_allowed(&allow, path, visit)),
        (_, Nowhere::NotFound) => Err(Failure::new(
            Code::NotFound,
            "no such path; GET /api lists what there is",
        )),
    }
}

fn not_allowed(allow: &str, path: &str, visit: &Visit) -> Answer {
    let failure = Failure::new(Code::MethodNotAllowed, format!("this path takes {allow}"));
    Answer::Own(
        Own::problem(failure, path, &visit.request_id).with("allow", allow),
        "",
    )
}

fn preflight(inbound: &Inbound, settings: &Settings) -> Own {
    let own = Own {
        status: 204,
        headers: Vec::new(),
        body: Vec::new(),
    };
    match inbound
        .origin
        .as_deref()
        .and_then(|origin| settings.origins.allow(origin))
    {
        // Without the headers the browser keeps the page from sending; they come with `dress`.
        None => own,
        Some(_) => own
            .with(
                "access-control-allow-methods",
                "GET, HEAD, POST, PUT, PATCH, DELETE",
            )
            .with("access-control-allow-headers", cors::ALLOW_HEADERS)
            .with("access-control-max-age", PREFLIGHT_SECONDS.to_string()),
    }
}

/// Who is calling, when they may.
async fn admit(
    target: &Target<'_, '_>,
    visit: &Visit,
    settings: &'static Settings,
) -> Result<Arc<Caller>> {
    if target.door == Door::Delivery {
        return deliverer(visit).await;
    }
    let scope = match target.access {
        Access::Public => return Ok(anonymous()),
        Access::Token => None,
        Access::Scope(scope) => Some(scope),
    };
    let token = visit.inbound.bearer()?;
    let caller = match verified::lookup(token, visit.now_us) {
        Some(caller) => caller,
        None => {
            let good = keys::check(token, &settings.issuer, &anonymous()).await?;
            verified::remember(token, good, visit.now_us)
        }
    };
    match scope {
        Some(scope) if !caller.identity.has_scope(scope) => Err(insufficient_scope(scope)),
        _ => Ok(caller),
    }
}

/// Someone without a token, on the paths that need none.
fn anonymous() -> Arc<Caller> {
    static ANONYMOUS: OnceLock<Arc<Caller>> = OnceLock::new();
    Arc::clone(ANONYMOUS.get_or_init(|| Arc::new(Caller::new(Identity::default(), i64::MAX))))
}

/// The bridge, with a token that lets it hand over events and jobs and nothing else.
async fn deliverer(visit: &Visit) -> Result<Arc<Caller>> {
    static BRIDGE: OnceLock<Arc<Caller>> = OnceLock::new();
    let token = visit.inbound.bearer()?;
    let claims = service_token::verify(call::keyring().await?, "gateway", token)
        .map_err(|_| Failure::new(Code::InvalidToken, "the deliver token was refused"))?;
    if claims.caller != "bridge" || !claims.identity.has_scope(service_token::SCOPE_DELIVER) {
        return Err(insufficient_scope(service_token::SCOPE_DELIVER));
    }
    let identity = || Identity {
        sub: "bridge".into(),
        scope: service_token::SCOPE_DELIVER.into(),
        ..Identity::default()
    };
    Ok(Arc::clone(BRIDGE.get_or_init(|| {
        Arc::new(Caller::new(identity(), i64::MAX))
    })))
}

/// The caller's body: handed on unread when its length is known and allowed, else read up to the
/// limit first. A GET has none.
async fn body(request: Request, inbound: &Inbound, method: &Method, limit: usize) -> Result<Body> {
    let too_large = || {
        Failure::new(
            Code::BodyTooLarge,
            format!("the body is larger than {limit} bytes"),
        )
    };
    if matches!(method, Method::Get | Method::Head) {
        return Ok(Body::None);
    }
    match inbound.content_length {
        Some(0) => Ok(Body::None),
        Some(length) if length > limit as u64 => Err(too_large()),
        // The server that read the request holds the body to its stated length.
        Some(_) => {
            let (stream, trailers) = upstream::body_of(request);
            Ok(Body::Stream(stream, trailers))
        }
        None => {
            let (stream, _trailers) = upstream::body_of(request);
            match upstream::read(stream, limit).await {
                Ok(bytes) if bytes.is_empty() => Ok(Body::None),
                Ok(bytes) => Ok(Body::Bytes(bytes)),
                Err(rest) => {
                    upstream::drain(rest).await;
                    Err(too_large())
                }
            }
        }
    }
}

/// The headers the service gets.
async fn onward(
    target: &Target<'_, '_>,
    callee: &str,
    visit: &mut Visit,
    caller: &Caller,
    path: &str,
) -> Result<Vec<Header>> {
    let bearer = caller
        .bearer(call::keyring().await?, callee, target.index, visit.now_us)
        .map_err(|e| Failure::new(Code::NotReady, e.to_string()))?;
    let trace = visit
        .inbound
        .traceparent
        .as_deref()
        .and_then(TraceParent::parse);
    let trace = names::with(seed, |names| match trace {
        Some(trace) => trace.child(names.span()),
        None => TraceParent::start(names.trace()),
    });
    let mut headers = std::mem::take(&mut visit.inbound.pass);
    let mut push = |name: &str, value: Vec<u8>| headers.push((name.to_owned(), value));
    // S1's services read the caller from this header; it is the same token.
    push("x-jwt-assertion", bearer["Bearer ".len()..].to_vec());
    push("authorization", bearer.to_vec());
    push("x-request-id", visit.request_id.clone().into_bytes());
    push("traceparent", trace.to_string().into_bytes());
    push(
        "x-forwarded-path",
        path.split('?')
            .next()
            .unwrap_or_default()
            .as_bytes()
            .to_vec(),
    );
    if let Some(sub) = &caller.sub {
        push("x-sub", sub.clone());
    }
    if let Some(username) = &caller.username {
        push("x-username", username.clone());
    }
    if let (Access::Public, Some(basic)) = (target.access, visit.inbound.basic()) {
        push("x-client-authorization", basic.to_vec());
    }
    Ok(headers)
}

/// A service's answer under the gateway's headers.
fn theirs(
    response: Response,
    visit: &Visit,
    settings: &Settings,
    route: RouteOf,
    path: &str,
) -> Result<Response, ErrorCode> {
    let status = response.get_status_code();
    let all = response.get_headers().copy_all();
    let mut headers = Vec::with_capacity(all.len() + 8);
    let mut reported = None;
    let mut from_service = false;
    for (name, value) in all {
        match name.as_str() {
            "x-route" => reported = Some(value),
            "x-request-id" => from_service = true,
            name if !goes_out(name) => {}
            _ => headers.push((name, value)),
        }
    }
    // A service's every answer names its request. Without that it is the platform's, which knows
    // neither the public path nor the codes a caller reads.
    if status >= 500 && !from_service {
        let name = route.callee;
        let failure = match status {
            504 => upstream::late(name),
            503 => Failure::new(
                Code::Overloaded,
                format!("`{name}` takes no more requests now"),
            ),
            _ => Failure::new(Code::UpstreamError, format!("`{name}` failed")),
        };
        headers.clear();
        dress(&mut headers, visit, Some(settings));
        return upstream::own(refused(failure, visit, path), headers);
    }
    dress(&mut headers, visit, Some(settings));
    let pattern = match (route.refined, reported) {
        (true, Some(mut inner)) => {
            let mut whole = route.service.prefix.as_bytes().to_vec();
            whole.append(&mut inner);
            whole
        }
        _ => route.pattern.as_bytes().to_vec(),
    };
    headers.push(("x-route".into(), pattern));
    upstream::pass(response, status, &headers)
}

/// What every answer carries.
fn dress(headers: &mut Vec<Header>, visit: &Visit, settings: Option<&Settings>) {
    let mut push =
        |name: &str, value: &str| headers.push((name.to_owned(), value.as_bytes().to_vec()));
    push("x-request-id", &visit.request_id);
    push("x-content-type-options", "nosniff");
    push("x-frame-options", "DENY");
    push("referrer-policy", "no-referrer");
    let Some(settings) = settings else { return };
    if settings.https {
        push(
            "strict-transport-security",
            "max-age=31536000; includeSubDomains",
        );
    }
    if settings.origins.is_empty() {
        return;
    }
    // The answer depends on who asks, allowed or not: caches must know.
    push("vary", "Origin");
    let Some(origin) = visit.inbound.origin.as_deref() else {
        return;
    };
    if let Some(allowed) = settings.origins.allow(origin) {
        push("access-control-allow-origin", allowed.origin);
        push("access-control-expose-headers", cors::EXPOSE_HEADERS);
        if allowed.credentials {
            push("access-control-allow-credentials", "true");
        }
    }
}

/// The platform's health: every service's readiness, asked at most once a second. 200 whatever they
/// say: the gateway lives, and taking it out of rotation would take the services that work along.
async fn health(now_us: i64) -> Result<Own> {
    static LAST: Mutex<Option<(i64, String)>> = Mutex::new(None);
    let last = LAST.lock().ok().and_then(|last| last.clone());
    if let Some((_, body)) = last.filter(|(at, _)| now_us - at < HEALTH_FRESH_US) {
        return Ok(own_health(body));
    }
    let keyring = call::keyring().await?;
    let (mut services, mut ready) = (serde_json::Map::new(), true);
    for (index, service) in Table::get().services.iter().enumerate() {
        let state = match anonymous().bearer(keyring, &service.name, index, now_us) {
            Ok(bearer) => {
                let asked = upstream::get(
                    service.callee(),
                    "/readiness",
                    &bearer,
                    READINESS_TIMEOUT_MS,
                    64 << 10,
                );
                match asked.await {
                    Ok((200, _)) => "ready",
                    Ok(_) => "not_ready",
                    Err(_) => "unreachable",
                }
            }
            Err(_) => "no_key",
        };
        ready &= state == "ready";
        services.insert(service.name.clone(), state.into());
    }
    let body = serde_json::json!({
        "status": if ready { "ok" } else { "degraded" },
        "service": "svc-gateway",
        "version": env!("CARGO_PKG_VERSION"),
        "profile": config::get("profile").await?,
        "services": services,
    })
    .to_string();
    if let Ok(mut last) = LAST.lock() {
        *last = Some((now_us, body.clone()));
    }
    Ok(own_health(body))
}

/// Whether the gateway itself can work: its variables are there. Its platform asks for this; people
/// and balancers ask for `/health`.
async fn readiness() -> Result<Own> {
    call::keyring().await?;
    Ok(Own::json(
        200,
        r#"{"status":"ready","service":"svc-gateway"}"#,
    ))
}

fn own_health(body: String) -> Own {
    Own::json(200, body).with("cache-control", "no-store")
}
