//! Where a public path leads: `routes.json`, read once per instance. The file is the one place that
//! says which paths exist, who may use them and within which bounds; `GET /api` and the
//! configurations of other gateways are made from it.

use std::{borrow::Cow, collections::BTreeMap, sync::OnceLock};

use serde::Deserialize;

/// What a route asks of the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing.
    Public,
    /// An access token.
    Token,
    /// An access token with this scope.
    Scope(String),
}

impl From<String> for Access {
    fn from(text: String) -> Access {
        match text.as_str() {
            "public" => Access::Public,
            "token" => Access::Token,
            _ => Access::Scope(text),
        }
    }
}

#[derive(Deserialize)]
struct File {
    defaults: Bounds,
    services: Vec<ServiceEntry>,
    paths: Vec<PathEntry>,
    deliveries: Deliveries,
}

#[derive(Clone, Copy, Deserialize)]
struct Bounds {
    timeout_ms: u64,
    body_bytes_max: usize,
}

#[derive(Deserialize)]
struct Deliveries {
    body_bytes_max: usize,
    events_timeout_ms: u64,
    tasks_timeout_ms: u64,
}

#[derive(Deserialize)]
struct ServiceEntry {
    name: String,
    #[serde(default)]
    aliases: Vec<String>,
    title: String,
    /// Whether it has a queue of jobs.
    #[serde(default)]
    jobs: bool,
    routes: Vec<PathEntry>,
}

#[derive(Deserialize)]
struct PathEntry {
    path: String,
    #[serde(default)]
    service: String,
    methods: BTreeMap<String, String>,
    timeout_ms: Option<u64>,
    body_bytes_max: Option<usize>,
}

/// One route: a pattern of segments, `{name}` for one of them, a last `*` for the rest.
#[derive(Debug)]
pub struct Route {
    /// The public pattern, e.g. `/api/wallet/v1/wallets/{id}/top-ups`.
    pub public: String,
    /// Methods and what each asks for, in the order of their names.
    pub methods: Vec<(String, Access)>,
    pub timeout_ms: u64,
    pub body_bytes_max: usize,
    segments: Vec<String>,
    service: usize,
}

/// A service the gateway calls.
#[derive(Debug)]
pub struct Service {
    pub name: String,
    pub aliases: Vec<String>,
    pub title: String,
    /// Under `/v1` and later versions, the more specific ones first.
    pub routes: Vec<Route>,
    /// `/health`, `/readiness`, `/openapi.json`, `/docs`: what every service has.
    common: Vec<Route>,
    /// Its jobs, for which the bridge answers; none for a service without a queue.
    pub jobs: Vec<Route>,
    /// `http://<name>.spin.internal` without the scheme.
    pub authority: String,
    /// `/api/<name>`, what comes before the pattern a service reports.
    pub prefix: String,
    events: Route,
    tasks: Route,
}

/// The table.
#[derive(Debug)]
pub struct Table {
    pub services: Vec<Service>,
    /// Routes outside `/api`.
    pub paths: Vec<Route>,
}

/// Where a request goes.
#[derive(Debug)]
pub struct Target<'t, 'p> {
    pub service: &'t Service,
    /// Who answers.
    pub door: Door,
    /// The number of who answers: the service's in the table, or the one behind the last.
    pub index: usize,
    pub route: &'t Route,
    /// What the method asks for.
    pub access: &'t Access,
    /// Path and query the service is asked for.
    pub upstream: Cow<'p, str>,
    /// Whether the service's own report of its route refines the pattern.
    pub refined: bool,
}

/// Who answers a request, and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// The service.
    Service,
    /// The service, to events and jobs from the bridge, which come with a deliver token.
    Delivery,
    /// The bridge, about jobs of the service.
    Bridge,
}

/// Whom to call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Callee<'a> {
    /// What it is called in tokens and errors.
    pub name: &'a str,
    /// Host and port.
    pub authority: &'a str,
    pub https: bool,
}

/// The bridge's name in tokens.
pub const BRIDGE: &str = "bridge";

/// Why a request goes nowhere.
#[derive(Debug, PartialEq, Eq)]
pub enum Nowhere {
    NotFound,
    /// The path exists; these methods do.
    Method(String),
}

const VERSION: &str = "v1";
/// What the bridge answers, of every service that has a queue.
const JOBS: [(&str, &str, &str); 2] = [
    ("/v1/jobs", "POST", "jobs:write"),
    ("/v1/jobs/{id}", "GET", "jobs:read"),
];
/// `/api/<service>/1.0.0/…` is how the gateways that came before wrote the version.
const VERSION_LONG: &str = "1.0.0";
const COMMON: [(&str, &str); 4] = [
    ("health", "token"),
    ("readiness", "token"),
    ("openapi.json", "public"),
    ("docs", "public"),
];

impl Table {
    /// The table of `routes.json`.
    pub fn get() -> &'static Table {
        static TABLE: OnceLock<Table> = OnceLock::new();
        TABLE.get_or_init(|| {
            Table::parse(include_str!("routes.json"))
                .expect("routes.json is compiled in, and a test reads it")
        })
    }

    fn parse(text: &str) -> serde_json::Result<Table> {
        let file: File = serde_json::from_str(text)?;
        let defaults = file.defaults;
        let index_of = |name: &str| {
            file.services
                .iter()
                .position(|s| s.name == name)
                .unwrap_or(usize::MAX)
        };
        let paths = file
            .paths
            .iter()
            .map(|entry| {
                route(
                    entry.path.clone(),
                    &entry.path,
                    entry,
                    index_of(&entry.service),
                    defaults,
                )
            })
            .collect();
        let services = file
            .services
            .iter()
            .enumerate()
            .map(|(index, entry)| service(index, entry, &file.deliveries, defaults))
            .collect();
        Ok(Table { services, paths })
    }

    /// Finds where `method` on `path_and_query` leads. The path is taken as it stands: segments
    /// that a service or a proxy might read as another path lead nowhere.
    ///
    /// # Errors
    /// [`Nowhere`].
    pub fn find<'p>(
        &self,
        method: &str,
        path_and_query: &'p str,
    ) -> Result<Target<'_, 'p>, Nowhere> {
        let path = path_and_query.split('?').next().unwrap_or_default();
        if is_ambiguous(path) {
            return Err(Nowhere::NotFound);
        }
        if let Some(rest) = path.strip_prefix("/api/")
            && !is_version(rest.split('/').next().unwrap_or_default())
        {
            return self.find_api(method, path_and_query, rest);
        }
        if let Some(rest) = path.strip_prefix("/_deliver/") {
            return self.find_delivery(method, rest);
        }
        let route = self
            .paths
            .iter()
            .find(|r| r.matches(path))
            .ok_or(Nowhere::NotFound)?;
        let service = self.services.get(route.service).ok_or(Nowhere::NotFound)?;
        let access = route.access(method)?;
        // `/api/v1/items` is `/v1/items` of the service, as `/api/items/v1/items` is.
        let upstream = match path_and_query.strip_prefix("/api/") {
            Some(rest) => Cow::Borrowed(&path_and_query[path_and_query.len() - rest.len() - 1..]),
            None => Cow::Borrowed(path_and_query),
        };
        Ok(Target {
            service,
            door: Door::Service,
            index: route.service,
            route,
            access,
            upstream,
            refined: false,
        })
    }

    /// `rest` is what follows `/api/` in the path.
    fn find_api<'p>(
        &self,
        method: &str,
        whole: &'p str,
        rest: &str,
    ) -> Result<Target<'_, 'p>, Nowhere> {
        let (name, after) = rest.split_once('/').unwrap_or((rest, ""));
        let index = self.service(name).ok_or(Nowhere::NotFound)?;
        let service = &self.services[index];
        // Where the part after `/api/<name>` begins in `whole`, with its slash.
        let tail = &whole["/api/".len() + name.len()..];
        let (version, inner) = after.split_once('/').unwrap_or((after, ""));
        let (inner, upstream) = match version {
            VERSION => (inner, Cow::Borrowed(tail)),
            _ if service.has(version) => (inner, Cow::Borrowed(tail)),
            VERSION_LONG => (
                inner,
                Cow::Owned(format!("/{VERSION}{}", &tail[1 + VERSION_LONG.len()..])),
            ),
            _ if is_version(version) => return Err(Nowhere::NotFound),
            _ => (after, Cow::Owned(format!("/{VERSION}{tail}"))),
        };
        if let Some(at) = COMMON.iter().position(|(path, _)| *path == inner) {
            let route = &service.common[at];
            // Behind the slash, the version that was asked for or stands for none, and a slash.
            let cut = 1 + upstream[1..].find('/').unwrap_or_default();
            let upstream = match upstream {
                Cow::Borrowed(text) => Cow::Borrowed(&text[cut..]),
                Cow::Owned(text) => Cow::Owned(text[cut..].to_owned()),
            };
            let access = route.access(method)?;
            return Ok(Target {
                service,
                door: Door::Service,
                index,
                route,
                access,
                upstream,
                refined: false,
            });
        }
        let path = upstream.split('?').next().unwrap_or_default();
        if let Some(route) = service.jobs.iter().find(|r| r.matches(path)) {
            let access = route.access(method)?;
            let rest = &upstream[JOBS[0].0.len()..];
            return Ok(Target {
                service,
                door: Door::Bridge,
                index: self.services.len(),
                route,
                access,
                upstream: Cow::Owned(format!("{}/{}{rest}", JOBS[0].0, service.name)),
                refined: false,
            });
        }
        let route = service
            .routes
            .iter()
            .find(|r| r.matches(path))
            .ok_or(Nowhere::NotFound)?;
        let access = route.access(method)?;
        Ok(Target {
            service,
            door: Door::Service,
            index,
            route,
            access,
            upstream,
            refined: true,
        })
    }

    /// `rest` is what follows `/_deliver/` in the path.
    fn find_delivery<'p>(&self, method: &str, rest: &str) -> Result<Target<'_, 'p>, Nowhere> {
        let (name, what) = rest.split_once('/').ok_or(Nowhere::NotFound)?;
        let index = self
            .services
            .iter()
            .position(|s| s.name == name)
            .ok_or(Nowhere::NotFound)?;
        let service = &self.services[index];
        let (route, upstream) = match what {
            "events" => (&service.events, "/_events"),
            "tasks" => (&service.tasks, "/_tasks"),
            _ => return Err(Nowhere::NotFound),
        };
        let access = route.access(method)?;
        let upstream = Cow::Borrowed(upstream);
        Ok(Target {
            service,
            door: Door::Delivery,
            index,
            route,
            access,
            upstream,
            refined: false,
        })
    }

    /// The name of the service a route leads to.
    pub fn service_of(&self, route: &Route) -> &str {
        self.services
            .get(route.service)
            .map_or("", |service| &service.name)
    }

    fn service(&self, name: &str) -> Option<usize> {
        self.services
            .iter()
            .position(|s| s.name == name || s.aliases.iter().any(|a| a == name))
    }
}

impl Service {
    /// Whether it has routes of this version, e.g. `v2`.
    fn has(&self, version: &str) -> bool {
        let first = |route: &Route| route.segments.first().is_some_and(|s| s == version);
        is_version(version) && self.routes.iter().any(first)
    }

    /// Itself.
    pub fn callee(&self) -> Callee<'_> {
        Callee {
            name: &self.name,
            authority: &self.authority,
            https: false,
        }
    }

    /// What every service has under `/api/<name>/v1`.
    pub fn common(&self) -> &[Route] {
        &self.common
    }
}

impl Route {
    fn matches(&self, path: &str) -> bool {
        let mut given = path.strip_prefix('/').unwrap_or(path).split('/');
        for segment in &self.segments {
            if segment == "*" {
                return true;
            }
            match given.next() {
                Some(part) if segment == part => {}
                Some(part) if segment.starts_with('{') && !part.is_empty() => {}
                _ => return false,
            }
        }
        given.next().is_none()
    }

    /// What `method` asks for; HEAD asks for what GET does.
    fn access(&self, method: &str) -> Result<&Access, Nowhere> {
        let wanted = if method == "HEAD" { "GET" } else { method };
        let found = self.methods.iter().find(|(name, _)| name == wanted);
        found
            .map(|(_, access)| access)
            .ok_or_else(|| Nowhere::Method(self.allow()))
    }

    fn allow(&self) -> String {
        self.methods
            .iter()
            .map(|(name, _)| name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    }
}

fn service(
    index: usize,
    entry: &ServiceEntry,
    deliveries: &Deliveries,
    defaults: Bounds,
) -> Service {
    let name = &entry.name;
    let own = |path: &str, methods: &[(&str, &str)], timeout_ms, body_bytes_max| PathEntry {
        path: path.into(),
        service: name.clone(),
        methods: methods
            .iter()
            .map(|(m, a)| ((*m).to_owned(), (*a).to_owned()))
            .collect(),
        timeout_ms,
        body_bytes_max,
    };
    let delivery = |what: &str, timeout_ms| {
        let path = format!("/_{what}");
        let entry = own(
            &path,
            &[("POST", "public")],
            Some(timeout_ms),
            Some(deliveries.body_bytes_max),
        );
        route(
            format!("/_deliver/{name}/{what}"),
            &path,
            &entry,
            index,
            defaults,
        )
    };
    let public = |path: &str| format!("/api/{name}{path}");
    Service {
        name: name.clone(),
        aliases: entry.aliases.clone(),
        title: entry.title.clone(),
        routes: entry
            .routes
            .iter()
            .map(|r| route(public(&r.path), &r.path, r, index, defaults))
            .collect(),
        common: COMMON
            .iter()
            .map(|(path, access)| {
                let entry = own(&format!("/{path}"), &[("GET", access)], None, None);
                route(
                    public(&format!("/{VERSION}/{path}")),
                    &entry.path,
                    &entry,
                    index,
                    defaults,
                )
            })
            .collect(),
        jobs: JOBS
            .iter()
            .filter(|_| entry.jobs)
            .map(|(path, method, access)| {
                let entry = own(path, &[(method, access)], None, None);
                route(public(path), path, &entry, index, defaults)
            })
            .collect(),
        authority: format!("{name}.spin.internal"),
        prefix: format!("/api/{name}"),
        events: delivery("events", deliveries.events_timeout_ms),
        tasks: delivery("tasks", deliveries.tasks_timeout_ms),
    }
}

fn route(public: String, path: &str, entry: &PathEntry, service: usize, defaults: Bounds) -> Route {
    Route {
        public,
        methods: entry
            .methods
            .iter()
            .map(|(m, a)| (m.clone(), a.clone().into()))
            .collect(),
        timeout_ms: entry.timeout_ms.unwrap_or(defaults.timeout_ms),
        body_bytes_max: entry.body_bytes_max.unwrap_or(defaults.body_bytes_max),
        segments: path
            .trim_start_matches('/')
            .split('/')
            .map(str::to_owned)
            .collect(),
        service,
    }
}

/// Whether a segment names a version: `v2`, `2.0.0`. One that there is not leads nowhere, instead of
/// being read as a path of the newest one.
fn is_version(segment: &str) -> bool {
    let number = segment.strip_prefix('v').unwrap_or(segment);
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    (segment.starts_with('v') || number.contains('.')) && number.split('.').all(is_number)
}

/// Whether somebody behind the gateway could read the path differently: empty, `.` and `..`
/// segments, a backslash, and encoded forms of `/`, `\`, `.` and NUL.
fn is_ambiguous(path: &str) -> bool {
    if !path.starts_with('/') || path.contains("//") || path.contains('\\') {
        return true;
    }
    if path.contains("/.") && path.split('/').any(|s| s == "." || s == "..") {
        return true;
    }
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        let code = rest.get(at + 1..at + 3).unwrap_or_default();
        if ["2f", "5c", "2e", "00"]
            .iter()
            .any(|bad| code.eq_ignore_ascii_case(bad))
        {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `service upstream access` or the reason.
    fn go(method: &str, path: &str) -> String {
        match Table::get().find(method, path) {
            Ok(t) => {
                let access = match t.access {
                    Access::Public => "public",
                    Access::Token => "token",
                    Access::Scope(scope) => scope,
                };
                let door = match t.door {
                    Door::Service => "",
                    Door::Delivery => " delivery",
                    Door::Bridge => " bridge",
                };
                format!("{} {} {access}{door}", t.service.name, t.upstream)
            }
            Err(Nowhere::NotFound) => "404".into(),
            Err(Nowhere::Method(allow)) => format!("405 {allow}"),
        }
    }

    #[test]
    fn public_paths_lead_where_the_specification_says() {
        for (method, path, want) in [
            ("GET", "/api/forex/v1/health", "forex /health token"),
            (
                "GET",
                "/api/fx/v1/rates?base=EUR&date=2026-10-30",
                "forex /v1/rates?base=EUR&date=2026-10-30 token",
            ),
            (
                "GET",
                "/api/forex/1.0.0/rates?base=EUR",
                "forex /v1/rates?base=EUR token",
            ),
            (
                "GET",
                "/api/forex/rates?base=EUR",
                "forex /v1/rates?base=EUR token",
            ),
            (
                "GET",
                "/api/forex/1.0.0/health?x=1",
                "forex /health?x=1 token",
            ),
            ("GET", "/api/forex/health", "forex /health token"),
            (
                "GET",
                "/api/rule-engine/v1/rule-sets",
                "rules /v1/rule-sets rules:read",
            ),
            (
                "POST",
                "/api/rules/v1/evaluate",
                "rules /v1/evaluate rules:read",
            ),
            (
                "PUT",
                "/api/rules/v1/rule-sets/1",
                "rules /v1/rule-sets/1 rules:write",
            ),
            (
                "POST",
                "/api/wallet/v1/wallets/wal_1/top-ups",
                "wallet /v1/wallets/wal_1/top-ups ledger:write",
            ),
            (
                "POST",
                "/api/wallet/v1/wallets",
                "wallet /v1/wallets wallet:write",
            ),
            (
                "HEAD",
                "/api/wallet/v1/wallets",
                "wallet /v1/wallets wallet:read",
            ),
            (
                "POST",
                "/api/payment/v1/process",
                "payment /v1/process payment:write",
            ),
            (
                "POST",
                "/api/refund/v1/refunds",
                "refund /v1/refunds refund:write",
            ),
            ("POST", "/api/cases/v1/cases", "cases /v1/cases case:write"),
            (
                "PATCH",
                "/api/cases/v2/cases/case_1",
                "cases /v2/cases/case_1 case:write",
            ),
            ("GET", "/api/cases/cases", "cases /v1/cases case:read"),
            ("GET", "/api/cases/v2/health", "cases /health token"),
            (
                "GET",
                "/v2/cases?limit=1",
                "cases /v2/cases?limit=1 case:read",
            ),
            (
                "POST",
                "/v1/cases/case_1/decision",
                "cases /v1/cases/case_1/decision case:write",
            ),
            ("GET", "/v1/audit", "audit /v1/audit audit:read"),
            (
                "GET",
                "/v1/audit/verify",
                "audit /v1/audit/verify audit:read",
            ),
            ("POST", "/v1/audit", "405 GET"),
            ("POST", "/api/v1/items", "items /v1/items item:write"),
            (
                "DELETE",
                "/api/v1/items/itm_1?x=1",
                "items /v1/items/itm_1?x=1 item:write",
            ),
            ("GET", "/api/items/v1/items", "items /v1/items item:read"),
            (
                "GET",
                "/api/payment/v1/payments/pay_1/timeline",
                "payment /v1/payments/pay_1/timeline payment:read",
            ),
            (
                "GET",
                "/api/profile/v1/openapi.json",
                "profile /openapi.json public",
            ),
            ("GET", "/api/profile/docs", "profile /docs public"),
            ("GET", "/api/identity/v1/health", "identity /health token"),
            ("GET", "/oauth2/jwks", "identity /oauth2/jwks public"),
            ("POST", "/oauth2/token", "identity /oauth2/token public"),
            ("GET", "/oauth2/token", "405 POST"),
            ("POST", "/pay", "payment /pay payment:write"),
            ("POST", "/pay-dynamic", "payment /pay-dynamic payment:write"),
            ("POST", "/refund", "refund /refund refund:write"),
            ("GET", "/pay", "405 POST"),
            ("POST", "/v1/auth/login", "identity /v1/auth/login public"),
            (
                "GET",
                "/v1/users?limit=1",
                "identity /v1/users?limit=1 user:read",
            ),
            (
                "PATCH",
                "/v1/users/usr_1",
                "identity /v1/users/usr_1 user:write",
            ),
            ("POST", "/api/forex/v1/health", "405 GET"),
            (
                "POST",
                "/_deliver/ledger/events",
                "ledger /_events public delivery",
            ),
            (
                "POST",
                "/_deliver/payment/tasks",
                "payment /_tasks public delivery",
            ),
            ("GET", "/_deliver/payment/tasks", "405 POST"),
            (
                "POST",
                "/api/payment/v1/jobs",
                "payment /v1/jobs/payment jobs:write bridge",
            ),
            (
                "GET",
                "/api/rule-engine/1.0.0/jobs/a-b?x=1",
                "rules /v1/jobs/rules/a-b?x=1 jobs:read bridge",
            ),
            ("GET", "/api/payment/v1/jobs", "405 POST"),
            ("POST", "/api/payment/v1/jobs/1", "405 GET"),
            (
                "POST",
                "/api/items/v1/jobs/1/x",
                "items /v1/jobs/1/x item:write",
            ),
        ] {
            assert_eq!(go(method, path), want, "{method} {path}");
        }
    }

    #[test]
    fn what_is_not_in_the_table_leads_nowhere() {
        for path in [
            "/",
            "",
            "/api",
            "/api/",
            "/api/nobody/v1/x",
            "/api/cases/v3/cases",
            "/api/v1/nothing",
            "/api/v2/items",
            "/v3/cases",
            "/pay/x",
            "/refunds",
            "/_events",
            "/_tasks",
            "/_deliver",
            "/_deliver/ledger",
            "/_deliver/ledger/events/x",
            "/_deliver/nobody/events",
            "/_deliver/fx/events",
            "/_internal",
            "/api/identity/v1/users",
            "/api/identity/v1/jobs",
            "/v1/users/",
            "/v1/users/a/b",
            "/oauth2",
            "/oauth2/authorize",
            "/health/x",
            "/api/wallet",
            "/api/wallet//v1/x",
            "/api//wallet/v1/x",
            "/api/wallet/v1/../../_events",
            "/api/wallet/v1/./x",
            "/api/wallet/v1/%2e%2e/x",
            "/api/wallet/v1/a%2Fb",
            "/api/wallet/v1/a%5cb",
            "/api/wallet/v1/a\\b",
            "/api/wallet/v1/%00",
            "api/wallet/v1/x",
            "//api/wallet/v1/x",
            "/api/wallet/v2/wallets",
            "/api/wallet/2.0.0/wallets",
            "/api/wallet/v1.1/wallets",
        ] {
            let got = go("POST", path);
            // `/api/wallet` is the service without a version or a path: it reads as `/v1`.
            assert!(
                got == "404" || (path == "/api/wallet" && got == "wallet /v1 wallet:write"),
                "{path}: {got}"
            );
        }
    }

    #[test]
    fn no_public_path_reaches_a_services_inner_doors() {
        for service in &Table::get().services {
            for inner in [
                "_events",
                "_tasks",
                "v1/_events/..",
                "%5fevents",
                "_events?x",
            ] {
                for version in ["", "v1/", "1.0.0/", "v2/"] {
                    let path = format!("/api/{}/{version}{inner}", service.name);
                    if let Ok(target) = Table::get().find("POST", &path) {
                        assert!(
                            target.upstream.starts_with("/v1/")
                                || target.upstream.starts_with("/v2/"),
                            "{path} reaches {}",
                            target.upstream
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn every_path_names_a_service_of_the_table_and_every_bound_is_positive() {
        let table = Table::get();
        for route in table
            .paths
            .iter()
            .chain(table.services.iter().flat_map(|s| &s.routes))
        {
            assert!(
                table.services.get(route.service).is_some(),
                "{}",
                route.public
            );
            assert!(
                route.timeout_ms > 0 && route.body_bytes_max > 0,
                "{}",
                route.public
            );
        }
    }
}
