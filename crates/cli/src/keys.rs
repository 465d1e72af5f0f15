//! `innover keys`: secrets, and the files that carry them: `runtime-config.toml` and `spin.env`,
//! with which `spin up` runs the same application on the same state.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use innover_bridge::KafkaConfig;
use innover_contract::Keyring;
use serde_json::json;

use crate::{
    app::App,
    bus,
    databases::Databases,
    migrate,
    secrets::{self, Added, Secrets},
    state::{self, StateDir},
};

/// The bridge's name in tokens.
pub const BRIDGE: &str = innover_bridge::CALLER;
/// Through which a bridge beside stock Spin delivers.
const GATEWAY: &str = "gateway";

/// What the person who starts the platform decides.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `dev` or `prod`.
    pub profile: String,
    /// `iss` of access tokens and the base of discovery URLs.
    pub issuer: String,
    pub redis_url: String,
    /// Where the bridge serves jobs, as the gateway reaches it.
    pub bridge_url: String,
    /// Where the services' databases are.
    pub databases: Databases,
}

/// Everything `up` hands to the host and the bridge.
pub struct Keys {
    /// Values of the application's variables.
    pub variables: BTreeMap<String, String>,
    /// The bridge's own keyring.
    pub bridge: Keyring,
    /// The bus of events, when it is Kafka.
    pub kafka: Option<KafkaConfig>,
    /// The settings' databases, with passwords.
    pub databases: Databases,
    pub added: Added,
    pub services: usize,
}

/// Makes what is missing and writes the files; what is right already is not touched.
pub fn write(app: &App, state: &StateDir, settings: &Settings) -> Result<Keys> {
    let _turn = state.writing()?;
    let names = app.secret_names();
    let (secrets, added) = secrets::ensure(&state.secrets(), &names)?;
    let mut databases = settings.databases.clone();
    let labels = migrate::labels(app)?;
    databases.unlock(labels.iter().map(String::as_str), &secrets);
    let variables = variables(app, &secrets, settings, &databases)?;
    state::replace(&state.runtime_config(), &runtime_config(app, state))?;
    state::replace(&state.spin_env(), &spin_env(&variables))?;
    let bridge = bridge_keyring(app, &secrets);
    Ok(Keys {
        variables,
        bridge,
        kafka: bus::kafka(&secrets)?,
        databases,
        added,
        services: names.len() - 1,
    })
}

/// The bridge may call every service that has a secret: it delivers to those, or, beside stock
/// Spin, to the gateway.
pub fn bridge_keyring(app: &App, secrets: &Secrets) -> Keyring {
    let services = app.manifest.components.iter();
    let delivered: BTreeSet<String> = services
        .filter(|(_, c)| !c.innover.subscribes.is_empty() || c.innover.jobs.is_some())
        .map(|(id, c)| c.innover.service_name(id).to_owned())
        .chain([GATEWAY.to_owned()])
        .collect();
    let delivered: Vec<_> = delivered.into_iter().collect();
    Keyring::build(BRIDGE, &delivered, &secrets.services)
}

/// A century: in the dev profile rates of any age are used, with a warning in the answer.
const RATES_MAX_AGE_DAYS_DEV: u32 = 36_500;

fn variables(
    app: &App,
    secrets: &Secrets,
    settings: &Settings,
    databases: &Databases,
) -> Result<BTreeMap<String, String>> {
    let mut variables = BTreeMap::new();
    for name in app.manifest.variables.keys() {
        let value = match name.as_str() {
            "signing_keys" => json!({ "keys": secrets.signing }).to_string(),
            "checkpoint_key" => match &secrets.checkpoint {
                Some(jwk) => jwk.to_string(),
                None => continue,
            },
            "profile_keys" => secrets::profile_keys(&secrets.profile),
            "profile" => settings.profile.clone(),
            "issuer" => settings.issuer.clone(),
            // The shipped extract ages; a laptop without newer rates still has to show the main job.
            "rates_max_age_days" if settings.profile == "dev" => RATES_MAX_AGE_DAYS_DEV.to_string(),
            "redis_url" => settings.redis_url.clone(),
            "bridge_url" => settings.bridge_url.clone(),
            _ if name.starts_with("database_") => match databases.variable(name) {
                Some(value) => value,
                None => continue,
            },
            _ => match app.keyring_owner(name) {
                Some((id, component)) => {
                    let mut calls: Vec<_> = component
                        .innover
                        .calls
                        .iter()
                        .map(|c| app.service_name(c).to_owned())
                        .collect();
                    // The bridge is no component, so spin.toml cannot name it.
                    if id == GATEWAY {
                        calls.push(BRIDGE.to_owned());
                    }
                    let service = component.innover.service_name(id);
                    Keyring::build(service, &calls, &secrets.services).encode()
                }
                None => continue,
            },
        };
        variables.insert(name.clone(), value);
    }
    Ok(variables)
}

/// Required variables that nobody gives, with the environment variable that would.
pub fn missing_variables(app: &App, given: &BTreeMap<String, String>) -> Vec<String> {
    let variables = app.manifest.variables.iter();
    variables
        .filter(|(name, variable)| variable.required && !given.contains_key(*name))
        .map(|(name, _)| environment_name(name))
        .filter(|name| std::env::var_os(name).is_none())
        .collect()
}

fn environment_name(variable: &str) -> String {
    format!("SPIN_VARIABLE_{}", variable.to_ascii_uppercase())
}

/// `runtime-config.toml`: absolute paths, so that it works from any folder.
fn runtime_config(app: &App, state: &StateDir) -> String {
    let mut text = String::from(
        "# Written by `innover` at every start: `spin up --runtime-config-file` with this file works on\n\
         # the state of `innover up`. Changes are lost.\n",
    );
    let quoted =
        |path: std::path::PathBuf| toml::Value::String(path.display().to_string()).to_string();
    for label in app.database_labels() {
        let path = quoted(state.database(label));
        text.push_str(&format!(
            "\n[sqlite_database.{label}]\ntype = \"spin\"\npath = {path}\n"
        ));
    }
    let used = app
        .manifest
        .components
        .values()
        .flat_map(|c| c.key_value_stores.iter().map(String::as_str));
    let stores: BTreeSet<&str> = used.chain(["default"]).collect();
    for label in stores {
        let path = quoted(state.key_value());
        text.push_str(&format!(
            "\n[key_value_store.{label}]\ntype = \"spin\"\npath = {path}\n"
        ));
    }
    text
}

/// `spin.env`, for `set -a; . .innover/spin.env`.
fn spin_env(variables: &BTreeMap<String, String>) -> String {
    let mut text = String::from(
        "# Written by `innover` at every start from secrets.toml. Secret. Changes are lost.\n",
    );
    for (name, value) in variables {
        let quoted = value.replace('\'', r"'\''");
        text.push_str(&format!("{}='{quoted}'\n", environment_name(name)));
    }
    text
}

/// Adds a key to wrap the data keys of profiles under, from the next start on.
pub fn new_profile_key(app: &App, state: &StateDir) -> Result<()> {
    let _turn = state.writing()?;
    secrets::ensure(&state.secrets(), &app.secret_names())?;
    let id = secrets::add_profile_key(&state.secrets())?;
    println!(
        "{}  profile key {id} added. Restart the platform. Data keys are wrapped under it within an hour, \
         or at once by POST /api/profile/v1/keys/rotation; take the key before it out of the file once \
         GET /api/profile/v1/keys counts nothing under it",
        state.secrets().display()
    );
    Ok(())
}

/// The command.
pub fn run(app: &App, state: &StateDir, settings: &Settings) -> Result<()> {
    let keys = write(app, state, settings).context("cannot write the keys")?;
    let Added {
        services,
        signing_keys,
        profile_keys,
    } = keys.added;
    println!(
        "{}  {services} service secrets, {signing_keys} signing keys and {profile_keys} profile keys added",
        state.secrets().display()
    );
    println!("{}", state.runtime_config().display());
    println!("{}", state.spin_env().display());
    println!(
        "start stock Spin on them: set -a; . {env}; set +a; spin up --runtime-config-file {config}",
        env = state.spin_env().display(),
        config = state.runtime_config().display()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
    use innover_contract::{Identity, service_token};
    use innover_manifest::runtime_config::RuntimeConfig;

    use super::*;
    use crate::app::tests::own;

    fn settings() -> Settings {
        Settings {
            profile: "dev".into(),
            issuer: "http://127.0.0.1:3000".into(),
            redis_url: "redis://127.0.0.1:6379".into(),
            bridge_url: "http://127.0.0.1:3001".into(),
            databases: Databases::Files,
        }
    }

    fn written() -> (tempfile::TempDir, StateDir, App, Keys) {
        let temp = tempfile::tempdir().unwrap();
        let state = StateDir::create(&temp.path().join("it's state")).unwrap();
        let app = own();
        let keys = write(&app, &state, &settings()).unwrap();
        (temp, state, app, keys)
    }

    fn ring(keys: &Keys, name: &str) -> Keyring {
        Keyring::parse(&keys.variables[&format!("keyring_{name}")]).unwrap()
    }

    #[test]
    fn services_may_call_whom_the_manifest_names_and_nobody_else() {
        let (_temp, _state, _app, keys) = written();
        let (payment, wallet, ledger) = (
            ring(&keys, "payment"),
            ring(&keys, "wallet"),
            ring(&keys, "ledger"),
        );
        let who = Identity::default();
        let token = service_token::mint(&payment, "payment", "wallet", &who, "r").unwrap();
        assert!(service_token::verify(&wallet, "wallet", &token).is_ok());
        let token = service_token::mint(&wallet, "wallet", "ledger", &who, "r").unwrap();
        assert!(service_token::verify(&ledger, "ledger", &token).is_ok());
        assert!(payment.key_for("identity").is_none());
        assert!(ledger.key_for("wallet").is_none());
    }

    #[test]
    fn the_bridge_may_deliver_to_every_subscriber_and_queue_and_through_the_gateway() {
        let (_temp, _state, app, keys) = written();
        for (id, component) in &app.manifest.components {
            let delivered =
                !component.innover.subscribes.is_empty() || component.innover.jobs.is_some();
            if delivered || id == "gateway" {
                let token =
                    service_token::mint(&keys.bridge, BRIDGE, id, &Identity::default(), "r")
                        .unwrap();
                assert!(
                    service_token::verify(&ring(&keys, id), id, &token).is_ok(),
                    "{id}"
                );
            }
        }
    }

    #[test]
    fn every_required_variable_is_given() {
        let (_temp, _state, app, keys) = written();
        assert_eq!(
            missing_variables(&app, &keys.variables),
            Vec::<String>::new()
        );
        assert_eq!(keys.variables["profile"], "dev");
        assert!(keys.variables["profile_keys"].starts_with("k1:"));
        let signing: serde_json::Value =
            serde_json::from_str(&keys.variables["signing_keys"]).unwrap();
        assert_eq!(signing["keys"][0]["alg"], "EdDSA");
    }

    #[test]
    fn the_runtime_config_is_spins_and_names_every_database_by_absolute_path() {
        let (_temp, state, app, _keys) = written();
        let text = std::fs::read_to_string(state.runtime_config()).unwrap();
        let config = RuntimeConfig::parse(&text).unwrap();
        for label in app.database_labels() {
            let path = config.sqlite_databases[label].path.clone().unwrap();
            assert_eq!(path, state.database(label));
            assert!(path.is_absolute());
        }
        assert!(config.key_value_stores.contains_key("default"));
    }

    #[test]
    fn a_shell_reads_the_environment_file_back_as_it_was() {
        let (_temp, state, _app, keys) = written();
        assert_eq!(state::mode(&state.spin_env()), Some(0o600));
        let output = std::process::Command::new("sh")
            .args([
                "-c",
                r#"set -a; . "$1"; printf %s "$SPIN_VARIABLE_SIGNING_KEYS""#,
                "sh",
            ])
            .arg(state.spin_env())
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            keys.variables["signing_keys"]
        );
        assert!(
            spin_env(&[("a".into(), "it's".into())].into()).contains(r"SPIN_VARIABLE_A='it'\''s'")
        );
    }

    #[test]
    fn writing_again_changes_nothing() {
        let (_temp, state, app, keys) = written();
        let files = [state.secrets(), state.runtime_config(), state.spin_env()];
        let before = files.clone().map(|file| std::fs::read(file).unwrap());
        let again = write(&app, &state, &settings()).unwrap();
        assert_eq!(files.map(|file| std::fs::read(file).unwrap()), before);
        assert_eq!(
            (again.added, again.variables),
            (Added::default(), keys.variables)
        );
    }
}
