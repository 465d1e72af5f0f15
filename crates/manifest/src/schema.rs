//! Spin's keys outside of components: `[application]`, `[variables]`, `[[trigger.*]]`.

use std::collections::{BTreeMap, BTreeSet};

use crate::check::Later;
use crate::component;
use crate::model::{
    Application, Component, HttpExecutor, HttpRoute, HttpTrigger, Manifest, OtherTrigger,
    RedisTrigger, StaticResponse, Variable,
};
use crate::names;
use crate::reader::{Node, Table};
use crate::routes;
use crate::template::Template;

/// What is known of the manifest while it is read.
pub(crate) struct Reading<'a> {
    variables: BTreeMap<String, Variable>,
    /// The components read so far.
    components: BTreeMap<String, Component>,
    /// Ids of all `[component.<id>]` tables, known before the first is read, so that a reference
    /// can be checked where it stands; and of the inline components met so far.
    component_ids: BTreeSet<String>,
    trigger_ids: BTreeSet<String>,
    pub(crate) later: Later<'a>,
}

/// Reads the whole manifest; `None` when something without which there is none is missing.
pub(crate) fn read<'a>(mut root: Table<'a>) -> Option<Manifest> {
    if !version_is_2(&mut root) {
        return None;
    }
    let variables = root.get("variables").and_then(|node| node.table());
    let mut reading = Reading {
        variables: variables.map(read_variables).unwrap_or_default(),
        components: BTreeMap::new(),
        component_ids: BTreeSet::new(),
        trigger_ids: BTreeSet::new(),
        later: Later::default(),
    };
    let application = root
        .required("application", "[application]")
        .and_then(|node| node.table())
        .and_then(|table| reading.application(table));

    let components = root.get("component").and_then(|node| node.table());
    let components = components.map(|table| table.entries()).unwrap_or_default();
    reading
        .component_ids
        .extend(components.iter().map(|(id, _)| id.clone()));
    for (id, node) in &components {
        reading.component(id, node);
    }

    let triggers = root
        .required("trigger", "[[trigger.http]]")
        .and_then(|node| node.table());
    let triggers = triggers.map(|table| table.entries()).unwrap_or_default();
    reading.trigger_ids = explicit_ids(&triggers);
    let mut http_triggers = Vec::new();
    let mut redis_triggers = Vec::new();
    let mut other_triggers = Vec::new();
    for (kind, node) in triggers {
        for table in node.tables() {
            match kind.as_str() {
                "http" => http_triggers.extend(reading.http_trigger(table)),
                "redis" => redis_triggers.extend(reading.redis_trigger(table)),
                _ => other_triggers.extend(reading.other_trigger(&kind, table)),
            }
        }
    }
    root.finish();

    let manifest = Manifest {
        application: application?,
        variables: reading.variables,
        http_triggers,
        redis_triggers,
        other_triggers,
        components: reading.components,
        warnings: Vec::new(),
    };
    Some(reading.later.check(manifest))
}

/// Anything else than version 2 is another format, whose keys would all be reported as unknown.
fn version_is_2(root: &mut Table<'_>) -> bool {
    const KEY: &str = "spin_manifest_version";
    let Some(version) = root.required(KEY, "spin_manifest_version = 2") else {
        return false;
    };
    // Version 1 was written as a string, so say more than "not a number".
    if version.is_string() || version.number(&(2..=2)).is_none() {
        version.place.report(
            "only manifest version 2 is supported: write `spin_manifest_version = 2` (Spin's documentation says how to convert version 1)",
        );
        return false;
    }
    true
}

fn read_variables(table: Table<'_>) -> BTreeMap<String, Variable> {
    let mut variables = BTreeMap::new();
    for (name, node) in table.entries() {
        if let Err(reason) = names::lower_snake(&name) {
            node.place.report(reason);
        }
        let Some(mut table) = node.table() else {
            continue;
        };
        let variable = Variable {
            required: table.flag("required"),
            default: table.string("default"),
            secret: table.flag("secret"),
            description: table.string("description"),
        };
        if variable.required == table.has("default") {
            table
                .place
                .report("needs either `required = true` or a `default`, and not both");
        }
        table.finish();
        variables.insert(name, variable);
    }
    variables
}

fn explicit_ids(triggers: &[(String, Node<'_>)]) -> BTreeSet<String> {
    triggers
        .iter()
        .filter(|(_, node)| node.is_array())
        .flat_map(|(_, node)| node.items())
        .filter(Node::is_table)
        .filter_map(|item| item.table()?.get("id"))
        .filter(Node::is_string)
        .filter_map(|id| id.string())
        .collect()
}

impl<'a> Reading<'a> {
    fn application(&mut self, mut table: Table<'a>) -> Option<Application> {
        let name = table.required("name", "name = \"payments\"");
        let mut application = Application {
            name: name.and_then(|node| node.string()).unwrap_or_default(),
            version: table.string("version").unwrap_or_default(),
            description: table.string("description").unwrap_or_default(),
            authors: table.strings("authors"),
            redis_address: None,
            http_base: None,
        };
        component::read_targets(&mut table);
        component::read_tool(&mut table, |tool| tool.finish());
        let triggers = table.get("trigger").and_then(|node| node.table());
        for (kind, node) in triggers.map(|t| t.entries()).unwrap_or_default() {
            let Some(mut settings) = node.table() else {
                continue;
            };
            match kind.as_str() {
                "redis" => {
                    let address =
                        settings.required("address", "address = \"redis://localhost:6379\"");
                    application.redis_address = address.and_then(|node| self.template(&node));
                    settings.finish();
                }
                "http" => {
                    application.http_base = settings.string("base");
                    settings.finish();
                }
                // Its keys are known to the trigger only; `other_triggers` names the type.
                _ => {}
            }
        }
        table.finish();
        Some(application)
    }

    fn component(&mut self, id: &str, node: &Node<'a>) {
        if let Err(reason) = names::kebab(id) {
            node.place.report(reason);
        }
        if let Some(table) = node.table()
            && let Some(component) = component::read(self, id, table)
        {
            self.components.insert(id.to_owned(), component);
        }
    }

    fn http_trigger(&mut self, mut table: Table<'a>) -> Option<HttpTrigger> {
        let id = self.trigger_id(&mut table, "http");
        let component = table.get("component");
        let static_response = table.get("static_response");
        let place = &table.place;
        match (&component, &static_response) {
            (None, None) => place.report(
                "needs a `component` (or a `static_response`); write for example `component = \"gateway\"`",
            ),
            (Some(_), Some(_)) => {
                place.report("has both `component` and `static_response`; remove one");
            }
            _ => {}
        }
        let component = component.and_then(|node| self.component_of(&node, &id));
        let route = table
            .required("route", "route = \"/...\"` or `route = { private = true }")
            .and_then(|node| read_route(&node));
        let executor = table.get("executor").and_then(|node| node.table());
        let executor = executor.and_then(read_executor).unwrap_or_default();
        let middleware = self.middleware(&mut table);
        table.finish();
        Some(HttpTrigger {
            id,
            route: route?,
            component,
            static_response: static_response
                .and_then(|node| node.table())
                .and_then(read_static_response),
            executor,
            middleware,
        })
    }

    fn middleware(&mut self, trigger: &mut Table<'a>) -> Vec<crate::model::Dependency> {
        let Some(mut table) = trigger.get("dependencies").and_then(|node| node.table()) else {
            return Vec::new();
        };
        let items = table.get("middleware").map(|node| node.items());
        table.finish();
        items
            .unwrap_or_default()
            .iter()
            .filter_map(|item| component::read_dependency(self, None, item))
            .collect()
    }

    fn redis_trigger(&mut self, mut table: Table<'a>) -> Option<RedisTrigger> {
        let id = self.trigger_id(&mut table, "redis");
        let component = table
            .required("component", "component = \"tasks\"")
            .and_then(|node| {
                let component = self.component_of(&node, &id)?;
                self.later
                    .redis_components
                    .push((node.place.clone(), component.clone()));
                Some(component)
            });
        let channel = table
            .required("channel", "channel = \"jobs\"")
            .and_then(|node| self.template(&node));
        let address = table.get("address");
        let own_address = address.and_then(|node| self.template(&node));
        let place = table.place.clone();
        table.finish();
        if own_address.is_none() {
            self.later.needs_redis_address.push(place);
        }
        Some(RedisTrigger {
            id,
            channel: channel?,
            address: own_address,
            component: component?,
        })
    }

    /// The keys of other triggers are theirs: only the components are read.
    fn other_trigger(&mut self, kind: &str, mut table: Table<'a>) -> Option<OtherTrigger> {
        let id = self.trigger_id(&mut table, kind);
        let mut nodes: Vec<Node<'a>> = table.get("component").into_iter().collect();
        let named = table.get("components").and_then(|node| node.table());
        for (_, node) in named.map(|table| table.entries()).unwrap_or_default() {
            if node.is_array() {
                nodes.extend(node.items());
            } else {
                nodes.push(node);
            }
        }
        let name = if nodes.len() > 1 { "" } else { id.as_str() };
        let components = nodes
            .iter()
            .filter_map(|node| self.component_of(node, name))
            .collect();
        Some(OtherTrigger {
            kind: kind.to_owned(),
            id,
            components,
        })
    }

    /// The trigger's id, or one made as Spin makes it.
    fn trigger_id(&mut self, table: &mut Table<'a>, kind: &str) -> String {
        if let Some(id) = table.string("id").filter(|id| !id.is_empty()) {
            return id;
        }
        let natural = table
            .get("component")
            .filter(Node::is_string)
            .and_then(|node| node.string())
            .map(|component| format!("{component}-{kind}-trigger"));
        let counted = (1..).map(|number: u32| format!("{kind}-trigger{number}"));
        natural
            .into_iter()
            .chain(counted)
            .find(|id| self.trigger_ids.insert(id.clone()))
            .unwrap_or_default()
    }

    /// The id a trigger's `component` refers to. A component written in its place gets an id as
    /// Spin gives it: after the trigger, if that has a name and only one component, else counted.
    fn component_of(&mut self, node: &Node<'a>, trigger: &str) -> Option<String> {
        if node.is_table() {
            let natural = format!("{trigger}-component");
            let id = std::iter::once(natural)
                .filter(|id| names::kebab(id).is_ok())
                .chain((1..).map(|number: u32| format!("inline-component{number}")))
                .find(|id| self.component_ids.insert(id.clone()))?;
            self.component(&id, node);
            return Some(id);
        }
        let id = node.string()?;
        self.known_component(node, &id).then_some(id)
    }

    /// Whether `id` is a component; if not, that is reported at `node`.
    pub(crate) fn known_component(&self, node: &Node<'_>, id: &str) -> bool {
        let known = self.component_ids.contains(id);
        if let Err(reason) = names::kebab(id) {
            node.place.report(format!("`{id}`: {reason}"));
        } else if !known {
            let hint = names::did_you_mean(id, self.component_ids.iter().map(String::as_str));
            node.place.report(if hint.is_empty() {
                format!("there is no component `{id}`; add `[component.{id}]`")
            } else {
                format!("there is no component `{id}`{hint}")
            });
        }
        known
    }

    /// A template whose variables are all declared.
    pub(crate) fn template(&self, node: &Node<'_>) -> Option<Template> {
        let template = match Template::parse(&node.string()?) {
            Ok(template) => template,
            Err(error) => {
                node.place.report(error.to_string());
                return None;
            }
        };
        for name in template.variables() {
            if !self.variables.contains_key(name) {
                let hint = names::did_you_mean(name, self.variables.keys().map(String::as_str));
                node.place.report(if hint.is_empty() {
                    format!("there is no variable `{name}`; declare it in `[variables]`")
                } else {
                    format!("there is no variable `{name}`{hint}")
                });
            }
        }
        Some(template)
    }
}

fn read_route(node: &Node<'_>) -> Option<HttpRoute> {
    if node.is_table() {
        let mut table = node.table()?;
        if !table.flag("private") {
            table.place.report("must be a path or `{ private = true }`");
        }
        table.finish();
        return Some(HttpRoute::Private);
    }
    let route = node.string()?;
    if let Err(error) = routes::check(&route) {
        node.place.report(error.reason);
    }
    Some(HttpRoute::Path(route))
}

fn read_executor(mut table: Table<'_>) -> Option<HttpExecutor> {
    let kind = table.required("type", "type = \"http\"")?;
    let executor = match kind.string()?.as_str() {
        "http" | "spin" => HttpExecutor::Http,
        "wagi" => {
            table.string("entrypoint");
            table.string("argv");
            HttpExecutor::Wagi
        }
        other => {
            kind.place
                .report(format!("there is no executor `{other}`; use `http`"));
            HttpExecutor::Http
        }
    };
    table.finish();
    Some(executor)
}

fn read_static_response(mut table: Table<'_>) -> Option<StaticResponse> {
    // RFC 9110, section 15: three digits, from 100. An answer of 1xx would not be final.
    let status = table.get("status_code");
    let status_code = status.and_then(|node| node.number(&(200..=599)));
    let response = StaticResponse {
        status_code: status_code.map_or(200, |status| status as u16),
        headers: table.string_map("headers"),
        body: table.string("body"),
    };
    table.finish();
    Some(response)
}
