//! The platform around the money: tokens, foreign ways in, stopping, metrics, jobs pushed by Redis.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use innover_tests::{PATIENCE, Platform, innover, payment};
use reqwest::Method;
use serde_json::{Value, json};

/// All tests on one runtime: the platform's client keeps its connections there.
fn run<F: Future>(test: F) -> F::Output {
    static RUNTIME: std::sync::OnceLock<tokio::runtime::Runtime> = std::sync::OnceLock::new();
    RUNTIME
        .get_or_init(|| tokio::runtime::Runtime::new().unwrap())
        .block_on(test)
}

const WALLETS: &str = "/api/wallet/v1/wallets";

#[test]
fn a_token_is_good_for_its_user_its_scopes_and_its_hour() {
    run(async {
        let p = Platform::shared().await;
        let sign_in = "grant_type=password&client_id=innover-cli&username=user&password=user";
        let first = p.form("/oauth2/token", sign_in).await;
        assert_eq!(first.status, 200, "{}", first.text);
        assert_eq!(first.json["token_type"], "Bearer");
        assert_eq!(first.json["expires_in"], 3600);
        let access = first.json["access_token"].as_str().unwrap().to_owned();

        // Refresh works once; a second use says that the token leaked and ends the family.
        let refresh = |token: &Value| {
            let token = token.as_str().unwrap();
            format!("grant_type=refresh_token&client_id=innover-cli&refresh_token={token}")
        };
        let old = refresh(&first.json["refresh_token"]);
        let second = p.form("/oauth2/token", &old).await;
        assert_eq!(second.status, 200, "{}", second.text);
        let replayed = p.form("/oauth2/token", &old).await;
        assert_eq!(
            (replayed.status, &replayed.json["error"]),
            (400, &json!("invalid_grant"))
        );
        let heir = refresh(&second.json["refresh_token"]);
        assert_eq!(p.form("/oauth2/token", &heir).await.status, 400);

        // Less scope than the roles grant, and what that keeps out.
        let narrow = format!("{sign_in}&scope=payment:read");
        let narrow = p.form("/oauth2/token", &narrow).await;
        assert_eq!(narrow.json["scope"], "payment:read");
        let bearer = |token: &str| format!("Bearer {token}");
        let ask = async |authorization: &str, method: Method, path: &str| {
            p.request("", method, path)
                .await
                .header("authorization", authorization)
                .send()
                .await
        };
        let narrow = bearer(narrow.json["access_token"].as_str().unwrap());
        let refused = ask(&narrow, Method::POST, WALLETS).await;
        assert_eq!(
            (refused.status, refused.code()),
            (403, "insufficient_scope")
        );
        let challenge = refused.headers["www-authenticate"].to_str().unwrap();
        assert!(challenge.contains("wallet:write"), "{challenge}");

        // Whose it is, by every service, and that a caller cannot say so himself.
        for service in ["payment", "wallet", "ledger", "forex", "rules", "profile"] {
            let path = format!("/api/{service}/v1/health");
            let request = p.request("", Method::GET, &path).await;
            let answer = request
                .header("authorization", &bearer(&access))
                .header("x-username", "admin")
                .header("x-sub", "usr_admin")
                .header("x-jwt-assertion", "made-up")
                .send()
                .await;
            assert_eq!(answer.status, 200, "{service}: {}", answer.text);
            assert_eq!(answer.json["service"], format!("svc-{service}"));
            assert_eq!(answer.json["user"]["username"], "user", "{}", answer.text);
            assert_eq!(answer.json["user"]["roles"], json!(["user"]));
            let anonymous = p.get("", &path).await;
            assert_eq!((anonymous.status, anonymous.code()), (401, "invalid_token"));
            assert!(anonymous.headers.contains_key("www-authenticate"));
        }

        let yesterday = resigned(&p, &access, |claims| {
            for name in ["exp", "iat"] {
                claims[name] = (claims[name].as_i64().unwrap() - 24 * 3600).into();
            }
        });
        let elsewhere = resigned(&p, &access, |claims| claims["aud"] = "another-api".into());
        let foreign = resigned(&p, &access, |claims| claims["iss"] = "http://evil".into());
        // The same signature under other claims.
        let mut forged: Vec<&str> = access.split('.').collect();
        let claims = URL_SAFE_NO_PAD.encode(r#"{"sub":"usr_admin","roles":["admin"]}"#);
        forged[1] = &claims;
        let forged = forged.join(".");
        for (what, token) in [
            ("expired", yesterday.as_str()),
            ("of another audience", &elsewhere),
            ("of another issuer", &foreign),
            ("forged", &forged),
            ("cut", &access[..access.len() - 3]),
            ("garbage", "eyJhbGciOiJub25lIn0.e30."),
            ("empty", ""),
        ] {
            let answer = ask(&bearer(token), Method::GET, "/api/forex/v1/health").await;
            assert_eq!(
                (answer.status, answer.code()),
                (401, "invalid_token"),
                "{what}"
            );
        }
        let again = resigned(&p, &access, |_| {});
        let answer = ask(&bearer(&again), Method::GET, "/api/forex/v1/health").await;
        assert_eq!(
            answer.status, 200,
            "the corpus is refused for another reason"
        );
    });
}

/// The token with other claims, signed by the platform's own key.
fn resigned(p: &Platform, token: &str, change: impl FnOnce(&mut Value)) -> String {
    let secrets = std::fs::read_to_string(p.state().join("secrets.toml")).unwrap();
    let jwk = secrets.lines().find(|l| l.contains("Ed25519")).unwrap();
    let jwk: Value = serde_json::from_str(jwk.split('\'').nth(1).unwrap()).unwrap();
    let seed = URL_SAFE_NO_PAD.decode(jwk["d"].as_str().unwrap()).unwrap();
    let seed = ed25519_compact::Seed::from_slice(&seed).unwrap();
    let mut parts = token.split('.');
    let (head, claims) = (parts.next().unwrap(), parts.next().unwrap());
    let mut claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    change(&mut claims);
    let signed = format!("{head}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let key = ed25519_compact::KeyPair::from_seed(seed);
    let signature = URL_SAFE_NO_PAD.encode(*key.sk.sign(signed.as_bytes(), None));
    format!("{signed}.{signature}")
}

#[test]
fn there_is_no_way_in_beside_the_gateways_routes() {
    run(async {
        let p = Platform::shared().await;
        for path in [
            "/_events",
            "/_tasks",
            "/v1/entries",
            "/api/ledger/_events",
            "/api/ledger/v1/../_events",
            "/api/ledger/v1/%2e%2e/_events",
            "/api/identity/v1/users",
            "/api/tasks/v1/health",
        ] {
            let answer = p.request("admin", Method::POST, path).await.send().await;
            assert!(
                [404, 405, 400].contains(&answer.status),
                "{path}: {} {}",
                answer.status,
                answer.text
            );
        }
        // The bridge's door wants the bridge's token, not an administrator's.
        for path in ["/_deliver/ledger/events", "/_deliver/payment/tasks"] {
            for user in ["admin", ""] {
                let request = p.request(user, Method::POST, path).await;
                let answer = request.text("[]").send().await;
                assert_eq!(answer.status, 401, "{path} {user}: {}", answer.text);
            }
        }
        // A name of the inside is no host from outside.
        let request = p.request("", Method::GET, "/v1/trial-balance").await;
        let answer = request.header("host", "ledger.spin.internal").send().await;
        assert_eq!(answer.status, 400, "{}", answer.text);
    });
}

#[test]
fn metrics_and_readiness_are_on_the_management_port_only() {
    run(async {
        let p = Platform::shared().await;
        assert_eq!(p.get("user", "/api/forex/v1/health").await.status, 200);
        assert_eq!(p.get("user", "/api/forex/v1/nothing").await.status, 404);
        let management = async |path: &str| {
            let answer = reqwest::get(format!("{}{path}", p.management))
                .await
                .unwrap();
            (answer.status().as_u16(), answer.text().await.unwrap())
        };
        assert_eq!(management("/health").await.0, 200);
        assert_eq!(management("/readiness").await.0, 200);
        let (status, text) = management("/metrics").await;
        assert_eq!(status, 200);
        let count = |line: &str| -> f64 {
            let found = text.lines().find(|l| l.starts_with(line));
            let found = found.unwrap_or_else(|| panic!("no {line} in\n{text}"));
            found.rsplit(' ').next().unwrap().parse().unwrap()
        };
        let health = r#"http_requests_total{service="forex",method="GET",route="/health",status_code="200"}"#;
        assert!(count(health) >= 1.0);
        assert!(
            count(
                r#"http_request_duration_seconds_count{service="forex",method="GET",route="/health"}"#
            ) >= 1.0
        );
        assert!(text.contains(r#"status_code="404""#));
        // A path a caller made up is no label.
        assert!(!text.contains("/v1/nothing"), "{text}");
        assert_eq!(p.get("", "/metrics").await.status, 404);
    });
}

#[test]
fn a_signal_ends_the_platform_while_it_still_compiles() {
    use std::io::{BufRead, BufReader};
    // A state of its own: nothing is compiled yet.
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(innover())
        .arg("up")
        .current_dir(innover_tests::repository())
        .env("INNOVER_LISTEN", "127.0.0.1:0")
        .env("INNOVER_MANAGEMENT_LISTEN", "127.0.0.1:0")
        .env("INNOVER_STATE_DIR", folder.path())
        .env("REDIS_URL", "redis://127.0.0.1:1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let said: Vec<String> = lines
        .map(Result::unwrap)
        .inspect(|line| {
            if line.starts_with("components") {
                let pid = child.id().to_string();
                Command::new("kill").args(["-TERM", &pid]).status().unwrap();
            }
        })
        .collect();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{said:?}");
    // Had it waited for the compiling, it would have been ready first.
    assert_eq!(said.last().unwrap(), "stopped before it was ready");
}

#[test]
fn a_signal_ends_the_platform_with_zero_and_what_was_answered_is_there() {
    run(async {
        for signal in ["-TERM", "-INT"] {
            let mut p = Platform::start().await;
            let payer = p.funded("user", "1000.00", "EUR").await;
            let payee = p.wallet("finance", "EUR").await;
            let mut posts = tokio::task::JoinSet::new();
            for n in 0..64 {
                let body = payment(&payer, &payee, "1.00", "EUR");
                let request = p
                    .request("user", Method::POST, "/api/payment/v1/process")
                    .await;
                let request = request.key(&format!("signal-{n}")).json(&body);
                posts.spawn(async move { request.try_send().await });
            }
            // In the middle of them.
            let mut answered = Vec::new();
            while answered.len() < 8 {
                if let Some(answer) = posts.join_next().await.unwrap().unwrap() {
                    answered.push(answer);
                }
            }
            assert_eq!(p.signal(signal), Some(0), "{signal}");
            while let Some(answer) = posts.join_next().await {
                answered.extend(answer.unwrap());
            }
            p.run();
            let taken: Vec<_> = answered.iter().filter(|a| a.status == 202).collect();
            assert!(taken.len() >= 8, "{signal}: {answered:?}");
            for answer in &taken {
                assert_eq!(p.settled(&answer.id()).await["state"], "completed");
            }
            // Refused while it stopped, or never answered: nothing, or a whole payment.
            let rest = p.number("payment", "SELECT count(*) FROM payments") as usize;
            assert!(rest >= taken.len() && rest <= 64, "{rest}");
            p.assert_balanced().await;
        }
    });
}

/// Debian's Redis on a free port, stopped when dropped.
struct Redis {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Redis {
    /// `None` where there is no Redis; `make test` installs it or says that this is left out.
    fn start() -> Option<Redis> {
        let version = Command::new("redis-server").arg("--version").output();
        if let Err(error) = version {
            eprintln!("not tested: redis-server does not start ({error})");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let port = innover_tests::free_port();
        let child = Redis::server(port, &folder);
        Some(Redis {
            child,
            port,
            folder,
        })
    }

    fn server(port: u16, folder: &tempfile::TempDir) -> Child {
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--dir", folder.path().to_str().unwrap()])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + PATIENCE;
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "Redis did not start");
            std::thread::sleep(Duration::from_millis(10));
        }
        child
    }

    fn restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = Redis::server(self.port, &self.folder);
    }

    /// How many subscribers heard it.
    fn publish(&self, channel: &str, message: &str) -> i64 {
        let answer = Command::new("redis-cli")
            .args(["-p", &self.port.to_string(), "PUBLISH", channel, message])
            .output()
            .unwrap();
        String::from_utf8(answer.stdout)
            .unwrap()
            .trim()
            .parse()
            .unwrap()
    }

    /// Publishes as soon as somebody listens.
    fn publish_heard(&self, channel: &str, message: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.publish(channel, message) == 0 {
            assert!(Instant::now() < deadline, "nobody listens on {channel}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until the job has ended; returns what `innover jobs show` says.
fn job(p: &Platform, id: &str) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let shown = Command::new(innover())
            .args(["jobs", "show", id])
            .envs(p.environment().iter().cloned())
            .env("INNOVER_STATE_DIR", p.state())
            .output()
            .unwrap();
        let shown: Value = serde_json::from_slice(&shown.stdout).unwrap_or_default();
        if ["done", "failed", "dead"].contains(&shown["state"].as_str().unwrap_or_default()) {
            return shown;
        }
        assert!(Instant::now() < deadline, "job {id} has not ended: {shown}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_job_pushed_through_redis_runs_once_and_outlives_it() {
    run(async {
        let Some(mut redis) = Redis::start() else {
            return;
        };
        let url = format!("redis://127.0.0.1:{}", redis.port);
        let p = Platform::start_with(&[("REDIS_URL", &url)]).await;
        let push =
            |id: &str, a: i64| json!({"task": "profile.add", "args": [a, 2], "id": id}).to_string();
        redis.publish_heard("profile-tasks", &push("pushed-1", 1));
        let done = job(&p, "pushed-1");
        assert_eq!(
            (&done["state"], &done["result"]),
            (&json!("done"), &json!(3))
        );
        assert_eq!(done["queue"], "profile-tasks");
        // Garbage is refused and logged, and what comes after it runs.
        for garbage in ["", "no json", "{}", "[1]", r#"{"task": "no.such"}"#] {
            redis.publish("profile-tasks", garbage);
        }
        // The same id again is the same job.
        redis.publish("profile-tasks", &push("pushed-1", 40));
        redis.publish("profile-tasks", &push("pushed-2", 5));
        assert_eq!(job(&p, "pushed-2")["result"], 7);
        assert_eq!(job(&p, "pushed-1")["result"], 3);
        redis.restart();
        redis.publish_heard("profile-tasks", &push("pushed-3", 8));
        assert_eq!(job(&p, "pushed-3")["result"], 10);
    });
}
