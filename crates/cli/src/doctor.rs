//! `innover doctor`: what this machine and this folder need to run the platform, each with what to do.

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    process::Command,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Result;

use crate::{
    app::App, databases::Databases, migrate, print, redis_probe, secrets, state, state::StateDir,
};

/// The oldest compiler that builds the workspace (`rust-version` in Cargo.toml).
const RUST_MIN: (u32, u32) = (1, 95);
/// The oldest Spin that runs the components (WASI 0.3).
const SPIN_MIN: (u32, u32) = (4, 1);

pub struct Options<'a> {
    pub manifest: &'a Path,
    pub state: &'a Path,
    pub listen: SocketAddr,
    pub management_listen: SocketAddr,
    pub redis_url: &'a str,
    pub databases: Databases,
}

enum Finding {
    Ok(String),
    /// The platform runs without it.
    Warn(String),
    Fail(String),
}
use Finding::{Fail, Ok as Fine, Warn};

/// Prints every check; false when one failed.
pub async fn run(options: Options<'_>) -> Result<bool> {
    let mut failed = false;
    let mut say = |what: &str, finding: Finding| {
        let (word, text) = match finding {
            Fine(text) => ("ok", text),
            Warn(text) => ("warn", text),
            Fail(text) => {
                failed = true;
                ("fail", text)
            }
        };
        print::line(format!("{word:<5} {what:<12} {text}"));
    };
    say("rust", rust());
    say("wasm target", wasm_target());
    say("spin", spin());
    say("clock", clock(options.state));
    say("redis", redis(options.redis_url).await);
    let running = running(options.management_listen).await;
    for (what, address) in [
        ("port", options.listen),
        ("management", options.management_listen),
    ] {
        say(what, port(address, running));
    }
    match App::load(options.manifest) {
        Ok(app) => {
            say("manifest", manifest(&app));
            say("components", components(&app));
            for (what, finding) in in_state(&app, options.state, options.databases).await {
                say(what, finding);
            }
        }
        Err(error) => say("manifest", Fail(format!("{error:#}"))),
    }
    Ok(!failed)
}

/// The first two numbers in a program's version line, e.g. `rustc 1.95.0 (…)`.
fn version(program: &str, argument: &str) -> Option<(String, (u32, u32))> {
    let output = Command::new(program).arg(argument).output().ok()?;
    let text = String::from_utf8(output.stdout)
        .ok()?
        .lines()
        .next()?
        .to_owned();
    let number = text
        .split_whitespace()
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    let mut parts = number.split('.').map(|part| part.parse().ok());
    Some((text.clone(), (parts.next()??, parts.next()??)))
}

fn rust() -> Finding {
    let (major, minor) = RUST_MIN;
    match version("rustc", "-V") {
        Some((text, found)) if found >= RUST_MIN => Fine(text),
        Some((text, _)) => Fail(format!(
            "{text} is too old: `rustup update` ({major}.{minor} or newer)"
        )),
        None => Fail(format!(
            "no rustc on PATH: install Rust {major}.{minor} or newer with rustup"
        )),
    }
}

/// Looks only; `tools/wasm-env` would install.
fn wasm_target() -> Finding {
    let output = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", "wasm32-wasip2"])
        .output();
    let folder = output
        .ok()
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .unwrap_or_default();
    let has_std = std::fs::read_dir(folder.trim()).is_ok_and(|mut entries| {
        entries.any(|e| e.is_ok_and(|e| e.file_name().to_string_lossy().starts_with("libstd-")))
    });
    if has_std {
        return Fine("wasm32-wasip2 from rustup".into());
    }
    let debian = [
        "/usr/bin/rustc",
        "/usr/lib/rustlib/src/rust/library/std",
        "/usr/lib/wasm32-wasi/crt1-reactor.o",
    ];
    if debian.iter().all(|path| Path::new(path).exists()) {
        return Fine("std is built from Debian's sources (tools/wasm-env)".into());
    }
    Warn("no std for wasm32-wasip2: `rustup target add wasm32-wasip2`; on Debian `make up` as root installs what it needs".into())
}

fn spin() -> Finding {
    let (major, minor) = SPIN_MIN;
    match version("spin", "--version") {
        Some((text, found)) if found >= SPIN_MIN => Fine(text),
        Some((text, _)) => Warn(format!(
            "{text} is too old for `make spin-up`: {major}.{minor} or newer"
        )),
        None => Warn(format!(
            "not installed: only `make spin-up` needs it ({major}.{minor} or newer)"
        )),
    }
}

fn clock(state: &Path) -> Finding {
    let now = SystemTime::now();
    // Tokens end and rates age by this clock; one that runs behind what was written under it makes
    // both wrong.
    let newest = [
        state.join("bridge.db-wal"),
        state.join("bridge.db"),
        state.join("secrets.toml"),
    ]
    .iter()
    .filter_map(|path| std::fs::metadata(path).ok()?.modified().ok())
    .max();
    let behind = newest
        .and_then(|newest| newest.duration_since(now).ok())
        .unwrap_or_default();
    if behind > Duration::from_secs(30) {
        return Fail(format!(
            "this clock is {} s behind the last write in the state folder: set it right (`timedatectl`)",
            behind.as_secs()
        ));
    }
    let micros = now
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_micros();
    Fine(print::time(i64::try_from(micros).unwrap_or(i64::MAX)))
}

async fn redis(url: &str) -> Finding {
    let shown = redis_probe::shown(url);
    match redis_probe::ping(url).await {
        Ok(()) => Fine(shown),
        Err(error) => Warn(format!(
            "none at {shown} ({error}): only jobs of Celery clients and pushed jobs (PUBLISH) need it; REDIS_URL names another"
        )),
    }
}

/// Whether an `innover up` answers on the management address.
async fn running(management: SocketAddr) -> bool {
    let Ok(client) = reqwest::Client::builder()
        .timeout(Duration::from_secs(2))
        .build()
    else {
        return false;
    };
    let answer = client
        .get(format!("http://{management}/readiness"))
        .send()
        .await;
    answer.is_ok_and(|answer| answer.status().is_success())
}

fn port(address: SocketAddr, running: bool) -> Finding {
    match TcpListener::bind(address) {
        Ok(_) => Fine(format!("{address} is free")),
        Err(_) if running => Fine(format!("{address}: the platform is running and ready")),
        Err(error) => Fail(format!(
            "{address}: {error}; stop what uses it, or set INNOVER_LISTEN and INNOVER_MANAGEMENT_LISTEN"
        )),
    }
}

fn manifest(app: &App) -> Finding {
    let unsupported = app.manifest.unsupported();
    if !unsupported.is_empty() {
        return Fail(unsupported.join("; "));
    }
    if !app.manifest.warnings.is_empty() {
        return Warn(app.manifest.warnings.join("; "));
    }
    Fine(format!(
        "{}: {} components",
        app.file.display(),
        app.manifest.components.len()
    ))
}

fn components(app: &App) -> Finding {
    match app.check_built() {
        Ok(()) => Fine(format!("{} .wasm files are built", app.wasm_files().len())),
        Err(error) => Fail(error.to_string()),
    }
}

async fn in_state(app: &App, path: &Path, databases: Databases) -> Vec<(&'static str, Finding)> {
    let Ok(state) = StateDir::open(path) else {
        return vec![(
            "state",
            Fine(format!(
                "{} is not there yet; `innover up` makes it",
                path.display()
            )),
        )];
    };
    let shown = state.root().display();
    let folder = match state::mode(state.root()) {
        Some(mode) if mode & 0o077 == 0 => Fine(format!("{shown}")),
        Some(mode) => Fail(format!(
            "others may read {shown} (mode {mode:o}): chmod 700 {shown}"
        )),
        None => Fail(format!("cannot look at {shown}")),
    };
    vec![
        ("state", folder),
        ("secrets", secrets(app, &state)),
        ("migrations", migrations(app, &state, databases).await),
    ]
}

fn secrets(app: &App, state: &StateDir) -> Finding {
    let path = state.secrets();
    let shown = path.display();
    match state::mode(&path) {
        None => return Warn("not made yet: `innover keys` or `innover up` makes them".into()),
        Some(mode) if mode & 0o077 != 0 => {
            return Fail(format!(
                "others may read {shown} (mode {mode:o}): chmod 600 {shown}"
            ));
        }
        Some(_) => {}
    }
    match secrets::read(&path) {
        Err(error) => Fail(format!("{error:#}")),
        Ok(known) => {
            let names = app.secret_names();
            let missing: Vec<_> = names
                .into_iter()
                .filter(|name| !known.services.contains_key(name))
                .collect();
            match missing.is_empty() {
                true => Fine(format!(
                    "{} services, {} signing keys",
                    known.services.len() - 1,
                    known.signing.len()
                )),
                false => Warn(format!(
                    "none for {}: `innover keys` adds them (`up` does it by itself)",
                    missing.join(", ")
                )),
            }
        }
    }
}

async fn migrations(app: &App, state: &StateDir, mut databases: Databases) -> Finding {
    if let (Ok(known), Ok(labels)) = (secrets::read(&state.secrets()), migrate::labels(app)) {
        databases.unlock(labels.iter().map(String::as_str), &known);
    }
    match migrate::pending(app, state, &databases).await {
        Err(error) => Fail(format!("{error:#}")),
        Ok(reports) if reports.iter().all(|report| report.applied.is_empty()) => {
            Fine(migrate::summary(&reports))
        }
        Ok(reports) => {
            let open: Vec<_> = reports
                .iter()
                .filter(|report| !report.applied.is_empty())
                .map(|report| format!("{} {}", report.label, report.applied.join(" ")))
                .collect();
            Warn(format!(
                "not applied: {}; `innover migrate` applies them (`up` does it by itself)",
                open.join(", ")
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::{app::tests::own, keys, keys::Settings};

    fn words(findings: &[(&'static str, Finding)]) -> Vec<(&'static str, &'static str)> {
        let word = |finding: &Finding| match finding {
            Fine(_) => "ok",
            Warn(_) => "warn",
            Fail(_) => "fail",
        };
        findings
            .iter()
            .map(|(what, finding)| (*what, word(finding)))
            .collect()
    }

    #[tokio::test]
    async fn a_fresh_state_folder_passes_and_an_open_one_fails() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("state");
        let app = own();
        assert_eq!(
            words(&in_state(&app, &path, Databases::Files).await),
            [("state", "ok")],
            "not there yet"
        );
        let state = StateDir::create(&path).unwrap();
        let settings = Settings {
            profile: "dev".into(),
            issuer: "http://x".into(),
            redis_url: "redis://x".into(),
            bridge_url: "http://x".into(),
            databases: Databases::Files,
        };
        keys::write(&app, &state, &settings).unwrap();
        assert_eq!(
            words(&in_state(&app, &path, Databases::Files).await)[1],
            ("secrets", "ok")
        );
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::set_permissions(state.secrets(), std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(
            words(&in_state(&app, &path, Databases::Files).await)[..2],
            [("state", "fail"), ("secrets", "fail")]
        );
    }

    #[test]
    fn versions_are_read_from_what_programs_print() {
        assert!(version("rustc", "-V").is_some_and(|(_, found)| found >= (1, 0)));
        assert!(version("no-such-program", "-V").is_none());
    }
}
