//! What a host is started with.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use innover_manifest::Manifest;

use crate::limits;
use crate::log::Log;

/// Where the entries of a key-value store are kept.
#[derive(Clone, PartialEq, Eq)]
pub enum KeyValueStore {
    /// In a SQLite file with the table Spin uses, so that both hosts can work on one file.
    File(PathBuf),
    /// In the Redis server at this URL. `debug` output hides it: it may hold a password.
    Redis(String),
}

impl fmt::Debug for KeyValueStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyValueStore::File(path) => f.debug_tuple("File").field(path).finish(),
            KeyValueStore::Redis(_) => f.write_str("Redis(…)"),
        }
    }
}

/// Everything a host needs to know before it starts.
pub struct HostConfig {
    /// The application.
    pub manifest: Manifest,
    /// The folder the manifest's paths are relative to.
    pub base_dir: PathBuf,
    /// The folder of stores that are not named below: `key_value.db`, `db/<label>.db`.
    pub state_dir: PathBuf,
    /// The folder of compiled modules; may be shared by several hosts.
    pub module_cache: PathBuf,
    /// Files of SQLite databases, by label. A label the manifest uses and this does not name is
    /// `<state_dir>/db/<label>.db`.
    pub sqlite: BTreeMap<String, PathBuf>,
    /// Key-value stores, by label. A label the manifest uses and this does not name is
    /// `<state_dir>/key_value.db`.
    pub key_value: BTreeMap<String, KeyValueStore>,
    /// Values of the application's variables. An environment variable `SPIN_VARIABLE_<NAME>` wins
    /// over them, and they win over the manifest's defaults.
    pub variables: BTreeMap<String, String>,
    /// Connections to PostgreSQL, over all components.
    pub postgres_connections: usize,
    /// Where HTTP is served; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where `/health`, `/readiness` and `/metrics` are served.
    pub management_listen: Option<SocketAddr>,
    /// The server of Redis triggers that name none, when the manifest names none either.
    pub redis_url: Option<String>,
    /// Where log lines go.
    pub log: Log,
    /// How instances are shared.
    pub instances: Instances,
    /// Called after compiling, which leaves hundreds of megabytes behind: has the program's allocator
    /// give them back to the system.
    pub release_memory: fn(),
}

impl HostConfig {
    /// A configuration with everything at its default: ephemeral port on 127.0.0.1, state and module
    /// cache under `state_dir`, no log.
    pub fn new(manifest: Manifest, base_dir: PathBuf, state_dir: PathBuf) -> Self {
        Self {
            manifest,
            base_dir,
            module_cache: state_dir.join("modules"),
            state_dir,
            sqlite: BTreeMap::new(),
            key_value: BTreeMap::new(),
            variables: BTreeMap::new(),
            postgres_connections: limits::POSTGRES_CONNECTIONS,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            management_listen: None,
            redis_url: None,
            log: Log::discard(),
            release_memory: || {},
            instances: Instances::default(),
        }
    }

    /// The value of a variable: environment, then what was given, then the manifest's default.
    pub(crate) fn variable(&self, name: &str) -> Option<String> {
        std::env::var(format!("SPIN_VARIABLE_{}", name.to_ascii_uppercase()))
            .ok()
            .or_else(|| self.variables.get(name).cloned())
            .or_else(|| self.manifest.variables.get(name)?.default.clone())
    }
}

/// How instances are shared by requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instances {
    /// Requests one instance serves at once.
    pub concurrent_max: usize,
    /// Requests one instance serves in its life.
    pub reuse_max: usize,
}

impl Default for Instances {
    fn default() -> Self {
        Self {
            concurrent_max: limits::INSTANCE_CONCURRENT_MAX,
            reuse_max: limits::INSTANCE_REUSE_MAX,
        }
    }
}

/// A readiness check the host asks besides its own: `Err` says what is missing.
pub type ReadinessCheck = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;
