//! A host running the probe guest, in a temporary folder.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![allow(dead_code, reason = "each test file uses its part")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use innover_host::log::Log;
use innover_host::{CallError, Host, HostConfig};
use innover_manifest::Manifest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub const DEADLINE: Duration = Duration::from_secs(10);

/// A running application with its state and what it logged.
pub struct App {
    pub host: Host,
    pub folder: tempfile::TempDir,
    log: Sink,
}

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The configuration of an application whose manifest is `header` plus `body`; `probe.wasm` is the
/// source every component names.
pub fn config(folder: &Path, body: &str) -> HostConfig {
    let text = format!("spin_manifest_version = 2\n[application]\nname = \"probe\"\n{body}");
    let manifest = Manifest::parse(&text).unwrap();
    std::fs::copy(probe(), folder.join("probe.wasm")).unwrap();
    let mut config = HostConfig::new(manifest, folder.to_owned(), folder.join("state"));
    // Shared by all tests, so that the probe is compiled once.
    config.module_cache = target().join("test-modules");
    config.management_listen = Some(([127, 0, 0, 1], 0).into());
    config
}

pub async fn start(body: &str) -> App {
    start_with(body, |_| {}).await
}

pub async fn start_with(body: &str, change: impl FnOnce(&mut HostConfig)) -> App {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path(), body);
    let log = Sink::default();
    config.log = Log::to(log.clone());
    change(&mut config);
    let host = Host::start(config).await.unwrap();
    App { host, folder, log }
}

/// One component `a` at `/...` with the given lines.
pub fn one(lines: &str) -> String {
    format!(
        "[[trigger.http]]\nroute = \"/...\"\ncomponent = \"a\"\n\
         [component.a]\nsource = \"probe.wasm\"\n{lines}\n"
    )
}

impl App {
    pub async fn get(&self, path: &str) -> (StatusCode, String) {
        let answer = self.call("a", path, "").await.unwrap();
        (answer.status(), text(&answer))
    }

    /// Runs the lines of `sql`; the answer has one line per statement.
    pub async fn exec(&self, label: &str, sql: &str) -> Vec<String> {
        let answer = self
            .call("a", &format!("/exec?label={label}"), sql)
            .await
            .unwrap();
        text(&answer).lines().map(str::to_owned).collect()
    }

    pub async fn call(
        &self,
        component: &str,
        path: &str,
        body: &str,
    ) -> Result<Response<Bytes>, CallError> {
        let request = Request::post(path)
            .body(Bytes::from(body.to_owned()))
            .unwrap();
        self.host.call(component, request, DEADLINE).await
    }

    pub async fn metrics(&self) -> String {
        let address = self.host.management_addr().unwrap();
        raw(
            address,
            "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        )
        .await
    }

    pub async fn http(&self, path: &str) -> String {
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: example.test\r\nconnection: close\r\n\r\n");
        raw(self.host.addr(), &request).await
    }

    pub fn logged(&self) -> String {
        String::from_utf8(self.log.0.lock().unwrap().clone()).unwrap()
    }

    /// Waits until the log holds `text`.
    pub async fn logs(&self, text: &str) {
        eventually(&format!("{text} in the log"), || {
            self.logged().contains(text)
        })
        .await;
    }
}

pub fn text(answer: &Response<Bytes>) -> String {
    String::from_utf8(answer.body().to_vec()).unwrap()
}

/// Sends `request` as it is and returns everything the server answers until it closes.
pub async fn raw(address: std::net::SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The server may answer and close before it has read everything.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// Waits until `condition` holds, also on a machine that does ten things at once.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(60), async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what}: not within a minute");
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

/// The probe, built when it is out of date. `INNOVER_PROBE` names one that is already built.
fn probe() -> &'static Path {
    static PROBE: OnceLock<PathBuf> = OnceLock::new();
    PROBE.get_or_init(|| {
        if let Some(path) = std::env::var_os("INNOVER_PROBE") {
            return path.into();
        }
        let build = "eval \"$(tools/wasm-env)\" && \
                     cargo build --quiet --release --target wasm32-wasip2 -p host-probe";
        let built = Command::new("bash")
            .arg("-c")
            .arg(build)
            .current_dir(workspace())
            .status();
        assert!(built.unwrap().success(), "the probe guest does not build");
        target().join("wasm32-wasip2/release/host_probe.wasm")
    })
}
