//! `spin.toml` (manifest version 2) for Innover: parsed, checked and explained, without wasmtime.
//!
//! ```
//! let manifest = innover_manifest::Manifest::parse(r#"
//!     spin_manifest_version = 2
//!     [application]
//!     name = "payments"
//!     [[trigger.http]]
//!     route = "/..."
//!     component = "gateway"
//!     [component.gateway]
//!     source = "gateway.wasm"
//! "#)?;
//! let router = innover_manifest::routes::Router::new(&manifest.http_triggers)?;
//! let found = router.match_path("/v1/wallets/42").expect("`/...` takes every path");
//! assert_eq!((found.component, found.trailing), (Some("gateway"), "/v1/wallets/42"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The way through the crate: `reader` walks TOML and remembers lines and unknown keys; `schema`
//! reads Spin's keys and `innover` those under `tool.innover` into the types of `model`; `check`
//! holds what one key alone cannot show (names that must exist, hosts, routes, calls).
//! Spin's behaviour is described in its documentation of manifest version 2; where we are stricter
//! (unknown variables, unknown keys in triggers) the manifest would fail later in Spin too.

#![deny(missing_docs)]

mod check;
mod component;
mod edit;
pub mod hosts;
mod imports;
mod innover;
pub mod limits;
mod model;
mod names;
mod problem;
mod reader;
pub mod routes;
pub mod runtime_config;
mod schema;
mod template;

pub use imports::satisfies;
pub use innover::{InnoverTool, Jobs, Missed, Schedule, Task};
pub use model::{
    Application, Build, Component, Dependency, DependencySource, FilesMount, HttpExecutor,
    HttpRoute, HttpTrigger, Inherit, Manifest, OtherTrigger, Profile, RedisTrigger, Source,
    StaticResponse, Variable,
};
pub use problem::{ManifestError, Problem};
pub use template::{Template, TemplateError, Unresolved};

impl Manifest {
    /// Parses and checks the text of a `spin.toml`. The error lists everything that is wrong.
    ///
    /// What is well formed but not run by this host is no error here; see
    /// [`unsupported`](Self::unsupported).
    pub fn parse(toml: &str) -> Result<Self, ManifestError> {
        let source = reader::Source::new(toml);
        let table = source.parse();
        let manifest = table
            .as_ref()
            .and_then(|table| schema::read(reader::Table::root(&source, table)));
        drop(table);
        source.finish(manifest)
    }

    /// What this host does not run yet, one text each, saying what to do. Empty when it runs all.
    pub fn unsupported(&self) -> Vec<String> {
        check::unsupported(self)
    }

    /// The same text without Redis triggers, their `[application.trigger.redis]` and the
    /// components nothing else uses. Comments and layout stay.
    ///
    /// Stock Spin ends when no Redis answers, so this is what it is given when there is none.
    pub fn without_redis_triggers(toml: &str) -> Result<String, ManifestError> {
        edit::without_redis_triggers(toml)
    }

    /// The same text without `sqlite_databases`, for components whose data is on PostgreSQL: stock
    /// Spin, or a platform without SQLite, would otherwise look for them.
    pub fn without_sqlite_databases(toml: &str) -> Result<String, ManifestError> {
        edit::without_sqlite_databases(toml)
    }
}
