//! What a manifest says once it is known to be right: the types every other part works with.
//!
//! A `Manifest` is only made by [`Manifest::parse`](crate::Manifest::parse), so whoever holds one
//! may rely on what `check.rs` proved: every name it refers to exists, every template uses declared
//! variables, every route and allowed host is well formed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::innover::InnoverTool;
use crate::template::Template;

/// One application: a parsed and checked `spin.toml`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Manifest {
    /// `[application]`
    pub application: Application,
    /// `[variables]`, by name.
    pub variables: BTreeMap<String, Variable>,
    /// `[[trigger.http]]`, in the order of the file (the last of two equal routes wins).
    pub http_triggers: Vec<HttpTrigger>,
    /// `[[trigger.redis]]`, in the order of the file.
    pub redis_triggers: Vec<RedisTrigger>,
    /// Triggers of any other type. They are kept so that
    /// [`unsupported`](crate::Manifest::unsupported) can name them.
    pub other_triggers: Vec<OtherTrigger>,
    /// `[component.<id>]` and the components written inline in triggers, by id.
    pub components: BTreeMap<String, Component>,
    /// What is allowed but probably not meant, for example two triggers with one route.
    pub warnings: Vec<String>,
}

/// `[application]`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Application {
    /// The application's name.
    pub name: String,
    /// Its version; empty when the manifest does not say.
    pub version: String,
    /// Its description; empty when the manifest does not say.
    pub description: String,
    /// Its authors.
    pub authors: Vec<String>,
    /// `[application.trigger.redis] address`: the server of each Redis trigger that names none.
    pub redis_address: Option<Template>,
    /// `[application.trigger.http] base`, deprecated in Spin; anything but `/` is unsupported.
    pub http_base: Option<String>,
}

/// One entry of `[variables]`: either required, or with a default.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Variable {
    /// A provider must supply the value.
    pub required: bool,
    /// The value when no provider has one.
    pub default: Option<String>,
    /// The value must not be shown or logged.
    pub secret: bool,
    /// What it is for.
    pub description: Option<String>,
}

/// One `[[trigger.http]]`. Exactly one of `component` and `static_response` is `Some`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HttpTrigger {
    /// The id in the manifest, or one made as Spin makes it (`<component>-http-trigger`).
    pub id: String,
    /// Where it listens.
    pub route: HttpRoute,
    /// The component that answers.
    pub component: Option<String>,
    /// The answer the host gives by itself.
    pub static_response: Option<StaticResponse>,
    /// How the component is called.
    pub executor: HttpExecutor,
    /// `dependencies.middleware`, outermost first.
    pub middleware: Vec<Dependency>,
}

/// The route of an HTTP trigger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HttpRoute {
    /// A public path pattern, as written in the manifest (see [`crate::routes`]).
    Path(String),
    /// `{ private = true }`: reachable by service chaining only.
    Private,
}

/// `static_response`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StaticResponse {
    /// HTTP status, 200 when the manifest does not say.
    pub status_code: u16,
    /// Response headers.
    pub headers: BTreeMap<String, String>,
    /// Response body.
    pub body: Option<String>,
}

/// `executor` of an HTTP trigger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HttpExecutor {
    /// The component exports an HTTP handler.
    #[default]
    Http,
    /// The CGI-like executor Spin deprecated; this host does not run it.
    Wagi,
}

/// One `[[trigger.redis]]`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RedisTrigger {
    /// The id in the manifest, or one made as Spin makes it (`<component>-redis-trigger`).
    pub id: String,
    /// The pub/sub channel.
    pub channel: Template,
    /// The server, when it is not the application's.
    pub address: Option<Template>,
    /// The component that takes the messages.
    pub component: String,
}

/// A trigger of a type this host does not run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OtherTrigger {
    /// The trigger type, for example `mqtt`.
    pub kind: String,
    /// The id in the manifest, or one made as Spin makes it.
    pub id: String,
    /// The components it would start.
    pub components: Vec<String>,
}

/// One component.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Component {
    /// Where the .wasm comes from.
    pub source: Source,
    /// What it does; empty when the manifest does not say.
    pub description: String,
    /// What it sees of the application's variables, by the name it asks for.
    pub variables: BTreeMap<String, Template>,
    /// Its environment variables.
    pub environment: BTreeMap<String, String>,
    /// Files it would see.
    pub files: Vec<FilesMount>,
    /// Globs left out of `files`.
    pub exclude_files: Vec<String>,
    /// What it may reach, for [`crate::hosts::AllowedHosts`] once the templates are resolved.
    pub allowed_outbound_hosts: Vec<Template>,
    /// Labels of the key-value stores it may open.
    pub key_value_stores: Vec<String>,
    /// Labels of the SQLite databases it may open.
    pub sqlite_databases: Vec<String>,
    /// Models it may run.
    pub ai_models: Vec<String>,
    /// Components plugged into its imports, by import name.
    pub dependencies: BTreeMap<String, Dependency>,
    /// How it is built.
    pub build: Option<Build>,
    /// `[component.<id>.profile.<name>]`, by name. No profile is applied by `parse`.
    pub profiles: BTreeMap<String, Profile>,
    /// `[component.<id>.tool.innover]`
    pub innover: InnoverTool,
}

/// Where a component's .wasm comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A file, relative to the manifest.
    Path(PathBuf),
    /// A download checked by its digest.
    Url {
        /// Where to get it.
        url: String,
        /// `sha256:<hex>`
        digest: String,
    },
    /// A package of a registry.
    Registry {
        /// The registry, or the user's default one.
        registry: Option<String>,
        /// `namespace:name`
        package: String,
        /// The exact version.
        version: String,
    },
}

impl Source {
    /// The file, when the source is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Source::Path(path) => Some(path),
            Source::Url { .. } | Source::Registry { .. } => None,
        }
    }
}

/// One entry of `files`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FilesMount {
    /// A glob; matches keep their path.
    Pattern(String),
    /// A folder shown at another place.
    Placement {
        /// The folder, relative to the manifest.
        source: String,
        /// Where the guest sees it.
        destination: String,
    },
}

/// What satisfies an import of a component.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Dependency {
    /// Where it comes from.
    pub source: DependencySource,
    /// The export used, when its name differs from the import's.
    pub export: Option<String>,
    /// What it may use of the permissions of the component it is plugged into.
    pub inherit: Inherit,
}

/// Where a dependency comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DependencySource {
    /// A component of this application.
    Component(String),
    /// A file, relative to the manifest.
    Path(PathBuf),
    /// A download checked by its digest.
    Url {
        /// Where to get it.
        url: String,
        /// `sha256:<hex>`
        digest: String,
    },
    /// A package of a registry.
    Registry {
        /// A semver requirement.
        version: String,
        /// The registry, or the user's default one.
        registry: Option<String>,
        /// The package, when its name differs from the import's.
        package: Option<String>,
    },
}

/// `inherit_configuration` of a dependency, with the component's
/// `dependencies_inherit_configuration` already applied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Inherit {
    /// Nothing: the dependency has no permission at all.
    #[default]
    None,
    /// Everything the component has.
    All,
    /// Only these kinds, for example `key_value_stores`.
    Only(Vec<String>),
}

/// `[component.<id>.build]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Build {
    /// Shell commands, run in order.
    pub command: Vec<String>,
    /// Where they run, relative to the manifest.
    pub workdir: Option<PathBuf>,
    /// Globs relative to `workdir` whose change means the component is out of date.
    pub watch: Vec<String>,
}

/// `[component.<id>.profile.<name>]`
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Profile {
    /// Replaces the source.
    pub source: Option<Source>,
    /// Added to the environment.
    pub environment: BTreeMap<String, String>,
    /// Added to the dependencies.
    pub dependencies: BTreeMap<String, Dependency>,
    /// Replaces the build commands.
    pub build_command: Option<Vec<String>>,
}
