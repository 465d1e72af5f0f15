//! What can only be seen when the whole manifest is read: calls need a way, queues and services one
//! owner, Redis triggers a server.

use std::collections::BTreeMap;
use std::path::Path;

use crate::hosts::{self, AllowedHost, AllowedHosts};
use crate::model::{Component, Dependency, DependencySource, HttpExecutor, Manifest, Source};
use crate::reader::Place;
use crate::routes::Router;
use crate::template::Template;

/// Places noted while reading, for problems seen at the end.
#[derive(Default)]
pub(crate) struct Later<'a> {
    /// An allowed host of a component.
    pub(crate) hosts: Vec<(Place<'a>, String, Template)>,
    /// A component and one it calls.
    pub(crate) calls: Vec<(Place<'a>, String, String)>,
    /// A component and a queue it owns.
    pub(crate) queues: Vec<(Place<'a>, String, String)>,
    /// A service's name.
    pub(crate) services: Vec<(Place<'a>, String)>,
    /// A component that is a dependency of another, or middleware.
    pub(crate) plugged: Vec<(Place<'a>, String)>,
    /// A component with a Redis trigger.
    pub(crate) redis_components: Vec<(Place<'a>, String)>,
    /// Redis triggers without an address of their own.
    pub(crate) needs_redis_address: Vec<Place<'a>>,
}

impl Later<'_> {
    pub(crate) fn check(self, mut manifest: Manifest) -> Manifest {
        let hosts = self.allowed_hosts(&manifest);
        self.check_calls(&manifest, &hosts);
        self.check_redis(&manifest, &hosts);
        self.check_owners();
        for (place, id) in &self.plugged {
            if let Some(component) = manifest.components.get(id) {
                check_plugged(place, id, component);
            }
        }
        manifest.warnings = route_warnings(&manifest);
        manifest
    }

    /// The allowed hosts of each component as far as default values can tell. Wrong ones are
    /// reported; what hangs on a value that is not known yet is left out.
    fn allowed_hosts(&self, manifest: &Manifest) -> BTreeMap<String, AllowedHosts> {
        let default = |name: &str| manifest.variables.get(name)?.default.clone();
        let mut known: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (place, component, template) in &self.hosts {
            let Ok(entry) = template.resolve(&default) else {
                continue;
            };
            // An empty variable switches an optional host off; an empty text is a slip.
            if template.literal().is_none() && hosts::is_empty(&entry) {
                continue;
            }
            match AllowedHost::parse(&entry) {
                Ok(_) => known.entry(component.clone()).or_default().push(entry),
                Err(error) if template.literal().is_some() => {
                    place.report(format!("`{entry}`: {}", error.reason));
                }
                Err(error) => place.report(format!(
                    "`{entry}` (from the default values): {}",
                    error.reason
                )),
            }
        }
        known
            .into_iter()
            .filter_map(|(id, entries)| Some((id, AllowedHosts::parse(&entries).ok()?)))
            .collect()
    }

    fn check_calls(&self, manifest: &Manifest, hosts: &BTreeMap<String, AllowedHosts>) {
        for (place, caller, callee) in &self.calls {
            if caller == callee {
                place.report("a component does not call itself; remove it");
                continue;
            }
            let reaches = |hosts: &AllowedHosts| {
                !hosts
                    .chaining_targets(std::slice::from_ref(callee))
                    .is_empty()
            };
            if !hosts.get(caller).is_some_and(reaches) {
                place.report(format!(
                    "`{callee}` cannot be reached; add \"http://{callee}{}\" to `allowed_outbound_hosts`",
                    hosts::SERVICE_CHAINING_SUFFIX
                ));
            }
            let mut triggers = manifest.http_triggers.iter();
            if !triggers.any(|trigger| trigger.component.as_ref() == Some(callee)) {
                place.report(format!(
                    "`{callee}` has no HTTP trigger to be called by; add a [[trigger.http]] with `route = {{ private = true }}`"
                ));
            }
        }
    }

    fn check_redis(&self, manifest: &Manifest, hosts: &BTreeMap<String, AllowedHosts>) {
        for (place, component) in &self.redis_components {
            // Stock Spin refuses to start such an application ("local_service_chaining").
            if hosts
                .get(component)
                .is_some_and(AllowedHosts::names_components)
            {
                place.report(format!(
                    "`{component}` has a Redis trigger, so it may not call other components; remove `*{}` from its `allowed_outbound_hosts`",
                    hosts::SERVICE_CHAINING_SUFFIX
                ));
            }
        }
        if manifest.application.redis_address.is_none() {
            for place in &self.needs_redis_address {
                place.report(
                    "has no server; add `address` here or in `[application.trigger.redis]`",
                );
            }
        }
    }

    /// A queue's jobs must have one owner, and a service's name one component.
    fn check_owners(&self) {
        let mut queues: BTreeMap<&str, &str> = BTreeMap::new();
        for (place, component, queue) in &self.queues {
            if let Some(other) = queues.insert(queue, component) {
                place.report(format!(
                    "queue `{queue}` belongs to component `{other}` already; use another name"
                ));
            }
        }
        let mut services = std::collections::BTreeSet::new();
        for (place, service) in &self.services {
            if !services.insert(service) {
                place.report(format!(
                    "there are two services `{service}`; set another `service`"
                ));
            }
        }
    }
}

/// A component plugged into another runs with that one's permissions; its own would be ignored, so
/// Spin refuses them.
fn check_plugged(place: &Place<'_>, id: &str, component: &Component) {
    let own = [
        ("ai_models", !component.ai_models.is_empty()),
        (
            "allowed_outbound_hosts",
            !component.allowed_outbound_hosts.is_empty(),
        ),
        ("dependencies", !component.dependencies.is_empty()),
        ("environment", !component.environment.is_empty()),
        ("files", !component.files.is_empty()),
        ("key_value_stores", !component.key_value_stores.is_empty()),
        ("sqlite_databases", !component.sqlite_databases.is_empty()),
        ("variables", !component.variables.is_empty()),
    ];
    let own: Vec<_> = own
        .iter()
        .filter(|(_, set)| *set)
        .map(|(key, _)| *key)
        .collect();
    if !own.is_empty() {
        place.report(format!(
            "`{id}` cannot be plugged in, because it has permissions of its own; remove `{}` from it",
            own.join("`, `")
        ));
    }
}

fn route_warnings(manifest: &Manifest) -> Vec<String> {
    // A route that cannot be was reported where it stands; then there is no manifest to warn about.
    let router = Router::new(&manifest.http_triggers).unwrap_or_default();
    router
        .duplicates()
        .iter()
        .map(|duplicate| {
            format!(
                "route `{}` is there twice: trigger `{}` is never reached, `{}` takes its requests",
                duplicate.route, duplicate.replaced, duplicate.effective
            )
        })
        .collect()
}

/// What `manifest` asks for that this host does not run yet, each with what to do.
pub(crate) fn unsupported(manifest: &Manifest) -> Vec<String> {
    let mut list = Vec::new();
    for trigger in &manifest.other_triggers {
        list.push(format!(
            "trigger `{}`: this host runs `http` and `redis` triggers, not `{}`; remove it or run the application on Spin with that trigger's plugin",
            trigger.id, trigger.kind
        ));
    }
    if let Some(base) = manifest.application.http_base.as_deref()
        && !matches!(base, "" | "/")
    {
        list.push(format!(
            "application: the deprecated `base = \"{base}\"` is not supported; write it in front of each route"
        ));
    }
    for trigger in &manifest.http_triggers {
        if trigger.executor == HttpExecutor::Wagi {
            list.push(format!(
                "trigger `{}`: executor `wagi` is not supported (Spin deprecated it); export an HTTP handler and use `http`",
                trigger.id
            ));
        }
        if !trigger.middleware.is_empty() {
            list.push(format!(
                "trigger `{}`: HTTP middleware is not supported yet; call the middleware's code from the component",
                trigger.id
            ));
        }
    }
    for (id, component) in &manifest.components {
        list.extend(
            unsupported_of(component)
                .into_iter()
                .map(|text| format!("component `{id}`: {text}")),
        );
    }
    list
}

fn unsupported_of(component: &Component) -> Vec<String> {
    let mut list = Vec::new();
    match &component.source {
        Source::Path(_) => {}
        Source::Url { url, .. } => list.push(format!(
            "a source from a URL is not supported yet; download {url} and name the file"
        )),
        Source::Registry { package, .. } => list.push(format!(
            "a source from a registry is not supported yet; download `{package}` and name the file"
        )),
    }
    for (name, dependency) in &component.dependencies {
        match &dependency.source {
            DependencySource::Component(_) | DependencySource::Path(_) => {}
            DependencySource::Url { url, .. } => list.push(format!(
                "dependency `{name}` from a URL is not supported yet; download {url} and name the file as `path`"
            )),
            DependencySource::Registry { package, .. } => list.push(format!(
                "dependency `{name}` from a registry is not supported yet; download `{}` and name the file as `path`",
                package.as_deref().unwrap_or(name)
            )),
        }
    }
    if !component.files.is_empty() {
        list.push("`files` are not mounted; compile them in (`include_bytes!`)".to_owned());
    }
    if !component.ai_models.is_empty() {
        list.push("`ai_models` are not served; call a model's HTTP interface".to_owned());
    }
    for template in &component.allowed_outbound_hosts {
        let text = template.to_string();
        let scheme = text.split("://").next().unwrap_or_default();
        let instead = match scheme {
            "mysql" => "keep the data in SQLite",
            "mqtt" => "publish an event, which leaves by the bus",
            _ => continue,
        };
        list.push(format!(
            "outbound {scheme} (`{text}`) is not supported yet; {instead} or run the application on Spin"
        ));
    }
    list
}

impl Manifest {
    /// The file a dependency is in, relative to the manifest; `None` when it has to be downloaded.
    pub fn dependency_file<'a>(&'a self, dependency: &'a Dependency) -> Option<&'a Path> {
        match &dependency.source {
            DependencySource::Component(id) => self.components.get(id)?.source.path(),
            DependencySource::Path(path) => Some(path),
            DependencySource::Url { .. } | DependencySource::Registry { .. } => None,
        }
    }

    /// The component ids a dependency or middleware names: they are not started by themselves.
    pub fn plugged_components(&self) -> Vec<&str> {
        let of_components = self
            .components
            .values()
            .flat_map(|component| component.dependencies.values());
        let of_triggers = self
            .http_triggers
            .iter()
            .flat_map(|trigger| &trigger.middleware);
        let mut ids: Vec<&str> = of_components
            .chain(of_triggers)
            .filter_map(|dependency| match &dependency.source {
                DependencySource::Component(id) => Some(id.as_str()),
                _ => None,
            })
            .collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}
