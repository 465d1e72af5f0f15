//! A platform of its own for each test file: the release build on free ports, its state in a
//! temporary folder, stopped when the value is dropped.
//!
//! Compiled modules are shared between test runs (they are found by content hash), and so are the
//! keys, whose making takes a second.
//!
//! With `INNOVER_TEST_POSTGRES=postgres://admin:password@host:port/database` every platform keeps its
//! services' data there, in databases of its own, instead of in files.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test stops at the first surprise"
)]

pub mod books;
mod bridges;
mod ports;
mod server;
pub mod services;

pub use bridges::Bridge;
pub use ports::free_port;

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, Weak},
    time::{Duration, Instant},
};

use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};

/// A platform that does not say `ready` within this time never will. The first ones compile every
/// component, several of them at the same moment.
const READY_MAX: Duration = Duration::from_secs(180);
/// What has to become true does so within this time, also on a machine that does ten things at once.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The repository's folder.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ lies in the repository")
}

/// The binary that `tools/build` makes.
pub fn innover() -> PathBuf {
    let binary = repository().join("target/release/innover");
    assert!(
        binary.exists(),
        "run `make test`, which builds target/release/innover first"
    );
    binary
}

/// A running platform.
pub struct Platform {
    child: Option<Child>,
    /// The folder of the spin.toml it runs.
    application: PathBuf,
    /// What follows `innover up`.
    state: PathBuf,
    _folder: Option<tempfile::TempDir>,
    /// `http://127.0.0.1:<port>` of the gateway.
    pub url: String,
    /// The same of the management port.
    pub management: String,
    /// One per runtime: a connection ends with the runtime of the test that opened it, and another
    /// test must not be given it.
    clients: Mutex<std::collections::HashMap<tokio::runtime::Id, Client>>,
    tokens: Mutex<std::collections::BTreeMap<String, String>>,
    environment: Vec<(String, String)>,
    /// Where a bridge in a process of its own answers for jobs.
    bridge: Option<String>,
    /// Where the services' data is, when not in files.
    server: Option<server::Server>,
}

impl Platform {
    /// The platform the tests of one file share: started by the first, stopped by the last. (A
    /// static value would never be dropped, and its process would outlive the tests.)
    pub async fn shared() -> Arc<Platform> {
        static SHARED: tokio::sync::Mutex<Weak<Platform>> =
            tokio::sync::Mutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(platform) = shared.upgrade() {
            return platform;
        }
        let platform = Arc::new(Platform::start().await);
        *shared = Arc::downgrade(&platform);
        platform
    }

    /// Starts a platform with an empty state.
    pub async fn start() -> Platform {
        Platform::start_with(&[]).await
    }

    /// The same with further environment variables.
    pub async fn start_with(environment: &[(&str, &str)]) -> Platform {
        Platform::start_in(repository(), environment).await
    }

    /// The same with the spin.toml of another folder.
    pub async fn start_in(application: &Path, environment: &[(&str, &str)]) -> Platform {
        let mut platform = Platform::new(application, environment);
        platform.run();
        platform
    }

    /// One that does not run yet, with databases of its own.
    fn new(application: &Path, environment: &[(&str, &str)]) -> Platform {
        let mut platform = Platform::unstarted(application, environment);
        platform.server = server::Server::new();
        if let Some(server) = &platform.server {
            platform.environment.extend(server.environment());
            platform.create_databases();
        }
        platform
    }

    fn unstarted(application: &Path, environment: &[(&str, &str)]) -> Platform {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        prepare(&state);
        Platform {
            child: None,
            application: application.to_owned(),
            state,
            _folder: Some(folder),
            url: format!("http://127.0.0.1:{}", free_port()),
            management: format!("http://127.0.0.1:{}", free_port()),
            clients: Mutex::default(),
            tokens: Mutex::default(),
            environment: environment
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            bridge: None,
            server: None,
        }
    }

    fn client(&self) -> Client {
        let runtime = tokio::runtime::Handle::current().id();
        let mut clients = self.clients.lock().unwrap();
        let new = || {
            Client::builder()
                .pool_max_idle_per_host(64)
                .build()
                .unwrap()
        };
        clients.entry(runtime).or_insert_with(new).clone()
    }

    /// Starts the process and waits for `ready`.
    pub fn run(&mut self) {
        let mut command = self.command("up");
        if let Some(bridge) = &self.bridge {
            command.args(["--no-bridge", "--bridge-url", bridge]);
        }
        launch(&mut self.child, command, "ready");
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(innover());
        command
            .arg(name)
            .current_dir(&self.application)
            .env("INNOVER_LISTEN", self.url.trim_start_matches("http://"))
            .env(
                "INNOVER_MANAGEMENT_LISTEN",
                self.management.trim_start_matches("http://"),
            )
            .env("INNOVER_STATE_DIR", &self.state)
            // Nothing listens there, so that a Redis on this machine is left alone.
            .env("REDIS_URL", "redis://127.0.0.1:1")
            .envs(self.environment.clone());
        command
    }

    /// What its commands are told beside the state folder.
    pub fn environment(&self) -> &[(String, String)] {
        &self.environment
    }

    /// The state folder.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// How it ended, though nobody told it to.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().unwrap()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Sends a signal (`-TERM`), waits for the end; returns the exit code.
    pub fn signal(&mut self, signal: &str) -> Option<i32> {
        let mut child = self.child.take().expect("it runs");
        let status = Command::new("kill")
            .args([signal, &child.id().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
        child.wait().unwrap().code()
    }

    /// A row count or another single number from a service's database.
    pub fn number(&self, database: &str, sql: &str) -> i64 {
        if let Some(server) = &self.server {
            return server.value(database, sql).parse().unwrap();
        }
        let file = self.state.join("db").join(format!("{database}.db"));
        let connection = rusqlite::Connection::open(file).unwrap();
        connection.query_row(sql, [], |row| row.get(0)).unwrap()
    }

    /// The same for a text.
    pub fn text(&self, database: &str, sql: &str) -> String {
        if let Some(server) = &self.server {
            return server.value(database, sql);
        }
        let file = self.state.join("db").join(format!("{database}.db"));
        let connection = rusqlite::Connection::open(file).unwrap();
        connection.query_row(sql, [], |row| row.get(0)).unwrap()
    }

    /// Names and addresses of the services' databases, for somebody who may do everything; `None`
    /// when they are files.
    pub fn databases(&self) -> Option<Vec<(String, String)>> {
        self.server.as_ref().map(server::Server::databases)
    }

    /// Makes the services' databases and roles on the server.
    pub fn create_databases(&self) {
        let made = self.command("migrate").arg("--create").output().unwrap();
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
    }

    /// Drops them.
    pub fn lose_databases(&self) {
        self.server.as_ref().expect("a server").drop_databases();
    }

    /// Changes rows behind a service's back, all or none; each statement must change one.
    pub fn change(&self, database: &str, statements: &[&str]) {
        if let Some(server) = &self.server {
            return server.change(database, statements);
        }
        let file = self.state.join("db").join(format!("{database}.db"));
        let mut connection = rusqlite::Connection::open(file).unwrap();
        connection.busy_timeout(PATIENCE).unwrap();
        let change = connection.transaction().unwrap();
        for sql in statements {
            assert_eq!(change.execute(sql, []).unwrap(), 1, "{sql}");
        }
        change.commit().unwrap();
    }

    /// Tokens are good for an hour; the next requests get new ones.
    pub fn forget_tokens(&self) {
        self.tokens.lock().unwrap().clear();
    }

    /// An access token of a dev user, whose password is its name.
    pub async fn token(&self, user: &str) -> String {
        if let Some(token) = self.tokens.lock().unwrap().get(user) {
            return token.clone();
        }
        let form =
            format!("grant_type=password&client_id=innover-cli&username={user}&password={user}");
        let answer = self.form("/oauth2/token", &form).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let token = answer.json["access_token"].as_str().unwrap().to_owned();
        self.tokens
            .lock()
            .unwrap()
            .insert(user.into(), token.clone());
        token
    }

    /// POSTs a form without a token.
    pub async fn form(&self, path: &str, form: &str) -> Answer {
        let request = self
            .client()
            .post(format!("{}{path}", self.url))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form.to_owned());
        Answer::read(request.send().await.unwrap()).await
    }

    /// A request of `user`; an empty name sends no token.
    pub async fn request(&self, user: &str, method: Method, path: &str) -> Request {
        let mut builder = self.client().request(method, format!("{}{path}", self.url));
        if !user.is_empty() {
            builder = builder.bearer_auth(self.token(user).await);
        }
        Request(builder)
    }

    /// GET as `user`.
    pub async fn get(&self, user: &str, path: &str) -> Answer {
        self.request(user, Method::GET, path).await.send().await
    }

    /// POST JSON as `user` with a new Idempotency-Key.
    pub async fn post(&self, user: &str, path: &str, body: Value) -> Answer {
        let key = unique();
        self.request(user, Method::POST, path)
            .await
            .key(&key)
            .json(&body)
            .send()
            .await
    }

    /// Opens a wallet for `user`; returns its id.
    pub async fn wallet(&self, user: &str, currency: &str) -> String {
        let answer = self
            .post(
                user,
                "/api/wallet/v1/wallets",
                json!({ "currency": currency }),
            )
            .await;
        assert_eq!(answer.status, 201, "{}", answer.text);
        answer.json["id"].as_str().unwrap().to_owned()
    }

    /// Opens a wallet for `user` with money in it.
    pub async fn funded(&self, user: &str, amount: &str, currency: &str) -> String {
        let wallet = self.wallet(user, currency).await;
        self.top_up(&wallet, amount, currency).await;
        wallet
    }

    /// Puts money into a wallet, as finance.
    pub async fn top_up(&self, wallet: &str, amount: &str, currency: &str) {
        let path = format!("/api/wallet/v1/wallets/{wallet}/top-ups");
        let body = json!({"amount": amount, "currency": currency});
        let answer = self.post("finance", &path, body).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
    }

    /// The posted balance of a wallet.
    pub async fn balance(&self, wallet: &str) -> String {
        let answer = self
            .get("finance", &format!("/api/wallet/v1/wallets/{wallet}"))
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json["balance"]["posted"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// Posts a payment as `user`.
    pub async fn pay(
        &self,
        user: &str,
        payer: &str,
        payee: &str,
        amount: &str,
        currency: &str,
    ) -> Answer {
        self.post(
            user,
            "/api/payment/v1/process",
            payment(payer, payee, amount, currency),
        )
        .await
    }

    /// Waits until a payment is in an end state; returns it.
    pub async fn settled(&self, id: &str) -> Value {
        let path = format!("/api/payment/v1/payments/{id}");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.get("finance", &path).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
            let state = answer.json["state"].as_str().unwrap();
            if ["completed", "failed", "declined", "cancelled"].contains(&state) {
                return answer.json;
            }
            assert!(Instant::now() < deadline, "not settled: {}", answer.text);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Asserts that the books balance: no currency's debits and credits differ.
    pub async fn assert_balanced(&self) {
        let answer = self.get("auditor", "/api/ledger/v1/trial-balance").await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let currencies = answer.json["data"]
            .as_array()
            .or(answer.json["currencies"].as_array())
            .unwrap();
        assert!(!currencies.is_empty());
        for currency in currencies {
            let difference = currency["difference"].as_str().unwrap();
            assert!(
                difference.chars().all(|c| matches!(c, '0' | '.')),
                "{currency}"
            );
        }
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts a process into `child` and waits until a line it says begins with `word`.
fn launch(child: &mut Option<Child>, mut command: Command, word: &str) {
    let mut new = command
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let lines = BufReader::new(new.stdout.take().unwrap());
    // From now on it ends with whoever has it, also when it never gets ready.
    *child = Some(new);
    let (said, heard) = std::sync::mpsc::channel();
    // Reads on after that line, so that the pipe never fills.
    std::thread::spawn(move || {
        for line in lines.lines().map_while(Result::ok) {
            let _ = said.send(line);
        }
    });
    let deadline = Instant::now() + READY_MAX;
    let mut seen = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match heard.recv_timeout(left) {
            Ok(line) if line.starts_with(word) => break,
            Ok(line) => seen.push(line),
            Err(_) => panic!("`{word}` was not said, but:\n{}", seen.join("\n")),
        }
    }
}

/// The body of a payment.
pub fn payment(payer: &str, payee: &str, amount: &str, currency: &str) -> Value {
    json!({"payer_wallet": payer, "payee_wallet": payee, "amount": amount, "currency": currency,
           "reference": "test"})
}

/// The ECB's file of a day: every currency of spin.toml but `without`, at 2.5.
pub fn reference_rates(date: &str, without: &str) -> String {
    let page = std::fs::read_to_string(repository().join("spin.toml")).unwrap();
    let line = page
        .lines()
        .find(|l| l.starts_with("fx_currencies"))
        .unwrap();
    let codes = line.split('"').nth(1).unwrap().split(' ');
    let cubes: String = codes
        .filter(|code| *code != without)
        .map(|code| format!("<Cube currency='{code}' rate='2.5'/>"))
        .collect();
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <gesmes:Envelope xmlns:gesmes=\"http://www.gesmes.org/xml/2002-08-01\" \
         xmlns=\"http://www.ecb.int/vocabulary/2002-08-01/eurofxref\">\
         <gesmes:subject>Reference rates</gesmes:subject>\
         <Cube><Cube time='{date}'>{cubes}</Cube></Cube></gesmes:Envelope>"
    )
}

/// A value no other call of this process returns.
pub fn unique() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!(
        "key-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

/// A request under construction.
pub struct Request(reqwest::RequestBuilder);

impl Request {
    /// Sets the Idempotency-Key.
    #[must_use]
    pub fn key(self, key: &str) -> Self {
        self.header("idempotency-key", key)
    }

    /// Sets a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.0 = self.0.header(name, value);
        self
    }

    /// Sets a JSON body.
    #[must_use]
    pub fn json(self, body: &Value) -> Self {
        self.text(body.to_string())
    }

    /// Sets a body as it is, sent as JSON.
    #[must_use]
    pub fn text(self, body: impl Into<reqwest::Body>) -> Self {
        self.media("application/json", body)
    }

    /// Sets a form, as `curl -d` sends it.
    #[must_use]
    pub fn form(self, form: &str) -> Self {
        self.media("application/x-www-form-urlencoded", form.to_owned())
    }

    /// Sets a body of a media type.
    #[must_use]
    pub fn media(mut self, media: &str, body: impl Into<reqwest::Body>) -> Self {
        self.0 = self.0.header("content-type", media).body(body);
        self
    }

    /// Sends it.
    pub async fn send(self) -> Answer {
        Answer::read(self.0.send().await.unwrap()).await
    }

    /// Sends it; `None` when the connection broke, as it does when the process is killed.
    pub async fn try_send(self) -> Option<Answer> {
        let response = self.0.send().await.ok()?;
        let (status, headers) = (response.status(), response.headers().clone());
        let text = response.text().await.ok()?;
        Some(Answer::new(status, headers, text))
    }
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: reqwest::header::HeaderMap,
    /// The body.
    pub text: String,
    /// The body as JSON; null when it is none.
    pub json: Value,
}

impl Answer {
    async fn read(response: reqwest::Response) -> Answer {
        let (status, headers) = (response.status(), response.headers().clone());
        Answer::new(status, headers, response.text().await.unwrap())
    }

    fn new(status: StatusCode, headers: reqwest::header::HeaderMap, text: String) -> Answer {
        let json = serde_json::from_str(&text).unwrap_or(Value::Null);
        Answer {
            status: status.as_u16(),
            headers,
            text,
            json,
        }
    }

    /// The problem's code; empty when it is no problem.
    pub fn code(&self) -> &str {
        self.json["code"].as_str().unwrap_or_default()
    }

    /// The body's `id`.
    pub fn id(&self) -> String {
        self.json["id"]
            .as_str()
            .unwrap_or_else(|| panic!("no id: {} {}", self.status, self.text))
            .to_owned()
    }
}

/// Gives a new state the shared module cache and keys.
fn prepare(state: &Path) {
    std::fs::create_dir_all(state).unwrap();
    let shared = repository().join("target/test-state");
    static ONCE: Mutex<()> = Mutex::new(());
    let _one_at_a_time = ONCE.lock().unwrap_or_else(|e| e.into_inner());
    let secrets = shared.join("secrets.toml");
    if !secrets.exists() {
        // Another test binary may do the same at the same moment: each makes its own and renames it.
        std::fs::create_dir_all(shared.join("modules")).unwrap();
        let own = tempfile::tempdir_in(&shared).unwrap();
        let made = Command::new(innover())
            .arg("keys")
            .current_dir(repository())
            .env("INNOVER_STATE_DIR", own.path())
            .output()
            .unwrap();
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        std::fs::rename(own.path().join("secrets.toml"), &secrets).unwrap();
    }
    std::fs::copy(&secrets, state.join("secrets.toml")).unwrap();
    std::os::unix::fs::symlink(shared.join("modules"), state.join("modules")).unwrap();
}
