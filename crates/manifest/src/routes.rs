//! Which HTTP trigger answers a path. The rules are Spin's:
//!
//! - a route is exact (`/v1/quotes`), has parameters of one segment (`/v1/wallets/:id`), or ends
//!   in `/...` (or `/*`), which takes the bare prefix and everything below it;
//! - segment by segment from the left, exact beats a parameter and a parameter beats `/...`; so
//!   exact beats wildcard, and of two prefixes the longer wins;
//! - a trailing slash makes no difference, and several slashes between segments are one;
//! - of two equal routes the last wins; the manifest's `warnings` name the other.
//!
//! A lookup walks a tree of segments held in the router. It allocates only when the route it finds
//! has parameters.

use std::collections::HashMap;

use crate::model::{HttpRoute, HttpTrigger, StaticResponse};

/// The paths the host answers by itself; no route may be below it.
pub const RESERVED_PREFIX: &str = "/.well-known/spin/";

/// All public routes of one application.
#[derive(Clone, Debug, Default)]
pub struct Router {
    routes: Vec<Route>,
    root: Node,
    duplicates: Vec<DuplicateRoute>,
}

#[derive(Clone, Debug)]
struct Route {
    trigger: usize,
    pattern: String,
    params: Vec<String>,
    component: Option<String>,
    static_response: Option<StaticResponse>,
}

/// One segment deeper in a path. The indexes point into `Router::routes`.
#[derive(Clone, Debug, Default)]
struct Node {
    exact: HashMap<String, Node>,
    param: Option<Box<Node>>,
    /// The route that ends here.
    ends: Option<usize>,
    /// The route that ends here in `/...`.
    prefix: Option<usize>,
}

/// A route that is written twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DuplicateRoute {
    /// The route, as the trigger that wins writes it.
    pub route: String,
    /// Id of the trigger that is never reached.
    pub replaced: String,
    /// Id of the trigger that wins.
    pub effective: String,
}

/// A route that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("route `{route}`: {reason}")]
pub struct RouteError {
    /// The route as written.
    pub route: String,
    /// What is wrong with it and what to do.
    pub reason: String,
}

/// What [`Router::match_path`] found.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteMatch<'r, 'p> {
    /// The trigger's position in the list the router was built from.
    pub trigger: usize,
    /// The component to call; `None` when `static_response` is set.
    pub component: Option<&'r str>,
    /// The answer to give without a component.
    pub static_response: Option<&'r StaticResponse>,
    /// The route as the manifest writes it, for example `/v1/wallets/...`.
    pub route: &'r str,
    /// For a `/...` route what follows the prefix: empty, or starting with `/`. Else empty.
    pub trailing: &'p str,
    /// `:name` parameters and their values, in the order of the route.
    pub params: Vec<(&'r str, &'p str)>,
}

impl RouteMatch<'_, '_> {
    /// The route without `/...`: what Spin sends as `spin-component-route`.
    pub fn route_without_wildcard(&self) -> &str {
        self.route.strip_suffix("/...").unwrap_or(self.route)
    }
}

impl Router {
    /// Builds the router; private triggers are left out.
    /// Fails on the first route that cannot be, which `Manifest::parse` has already excluded.
    pub fn new(triggers: &[HttpTrigger]) -> Result<Self, RouteError> {
        let mut router = Self::default();
        let mut ids: Vec<&str> = Vec::new();
        for (trigger, http) in triggers.iter().enumerate() {
            let HttpRoute::Path(pattern) = &http.route else {
                continue;
            };
            let parsed = Pattern::parse(pattern)?;
            let place = router.root.place(&parsed);
            let index = router.routes.len();
            if let Some(replaced) = place.replace(index) {
                router.duplicates.push(DuplicateRoute {
                    route: pattern.clone(),
                    replaced: ids[replaced].to_owned(),
                    effective: http.id.clone(),
                });
            }
            ids.push(&http.id);
            router.routes.push(Route {
                trigger,
                pattern: pattern.clone(),
                params: parsed.params().map(str::to_owned).collect(),
                component: http.component.clone(),
                static_response: http.static_response.clone(),
            });
        }
        Ok(router)
    }

    /// Routes that are written twice.
    pub fn duplicates(&self) -> &[DuplicateRoute] {
        &self.duplicates
    }

    /// The route that answers `path` (no query), if any.
    pub fn match_path<'r, 'p>(&'r self, path: &'p str) -> Option<RouteMatch<'r, 'p>> {
        let mut params = Vec::new();
        let (index, trailing) = self.root.find(path, &mut params)?;
        let route = &self.routes[index];
        Some(RouteMatch {
            trigger: route.trigger,
            component: route.component.as_deref(),
            static_response: route.static_response.as_ref(),
            route: &route.pattern,
            trailing,
            params: route
                .params
                .iter()
                .map(String::as_str)
                .zip(params)
                .collect(),
        })
    }
}

impl Node {
    /// The slot of `pattern`, with the nodes on the way made.
    fn place(&mut self, pattern: &Pattern<'_>) -> &mut Option<usize> {
        let mut node = self;
        for segment in &pattern.segments {
            node = match segment {
                Segment::Exact(text) => node.exact.entry((*text).to_owned()).or_default(),
                Segment::Param(_) => node.param.get_or_insert_default(),
            };
        }
        if pattern.prefix {
            &mut node.prefix
        } else {
            &mut node.ends
        }
    }

    /// The best route for the rest of a path, and what is left for its `/...`. `params` is left
    /// with the values of the parameters passed on the way to it.
    fn find<'p>(&self, rest: &'p str, params: &mut Vec<&'p str>) -> Option<(usize, &'p str)> {
        let path = rest.trim_start_matches('/');
        if path.is_empty() {
            // `/a/...` takes `/a` with "" and `/a/` with "/".
            let slash = &rest[..rest.len().min(1)];
            return self
                .ends
                .map(|index| (index, ""))
                .or_else(|| self.prefix.map(|index| (index, slash)));
        }
        let end = path.find('/').unwrap_or(path.len());
        let (segment, after) = path.split_at(end);
        if let Some(found) = self
            .exact
            .get(segment)
            .and_then(|node| node.find(after, params))
        {
            return Some(found);
        }
        if let Some(node) = &self.param {
            params.push(segment);
            if let Some(found) = node.find(after, params) {
                return Some(found);
            }
            params.pop();
        }
        self.prefix.map(|index| {
            let slashes = rest.len() - path.len();
            (index, &rest[slashes.saturating_sub(1)..])
        })
    }
}

struct Pattern<'a> {
    segments: Vec<Segment<'a>>,
    prefix: bool,
}

enum Segment<'a> {
    Exact(&'a str),
    Param(&'a str),
}

impl<'a> Pattern<'a> {
    fn parse(route: &'a str) -> Result<Self, RouteError> {
        let wrong = |reason: String| RouteError {
            route: route.to_owned(),
            reason,
        };
        if format!("/{}", route.trim_start_matches('/')).starts_with(RESERVED_PREFIX) {
            return Err(wrong(format!(
                "paths below `{RESERVED_PREFIX}` belong to the host; use another path"
            )));
        }
        if let Some(other) = route
            .chars()
            .find(|c| "?#\\".contains(*c) || c.is_whitespace())
        {
            return Err(wrong(format!("a route is a path, remove `{other}`")));
        }
        let bare = ["/...", "/*"]
            .iter()
            .find_map(|end| route.strip_suffix(end));
        let mut pattern = Self {
            segments: Vec::new(),
            prefix: bare.is_some() || route == "...",
        };
        let path = if route == "..." {
            ""
        } else {
            bare.unwrap_or(route)
        };
        for segment in path.split('/').filter(|segment| !segment.is_empty()) {
            if segment == "..." || segment.contains('*') {
                return Err(wrong("`/...` is allowed at the end only".into()));
            }
            let Some(name) = segment.strip_prefix(':') else {
                pattern.segments.push(Segment::Exact(segment));
                continue;
            };
            let is_name = !name.is_empty()
                && name
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
            if !is_name {
                return Err(wrong(format!(
                    "`{segment}` is no parameter: it takes one whole segment and is named by letters, digits, `-` and `_`"
                )));
            }
            if pattern.params().any(|other| other == name) {
                return Err(wrong(format!(
                    "parameter `:{name}` is there twice; rename one"
                )));
            }
            pattern.segments.push(Segment::Param(name));
        }
        Ok(pattern)
    }

    fn params(&self) -> impl Iterator<Item = &'a str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Param(name) => Some(*name),
            Segment::Exact(_) => None,
        })
    }
}

/// Whether `route` can be a route; the error says what to do.
pub(crate) fn check(route: &str) -> Result<(), RouteError> {
    Pattern::parse(route).map(|_| ())
}
