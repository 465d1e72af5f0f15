//! The HTTP client of the commands that talk to a running platform.

use std::{
    fmt::{Display, Formatter},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use reqwest::{Method, StatusCode};
use serde_json::Value;

/// Longer than the platform's own request deadline (10 s), so that its answer is the one seen.
const ANSWER_MAX: Duration = Duration::from_secs(15);
const CONNECT_MAX: Duration = Duration::from_secs(3);

/// The public client of the command line.
pub const CLIENT_ID: &str = "innover-cli";

/// Who calls a platform.
#[derive(Debug, PartialEq, Eq)]
pub enum Caller {
    /// By the password grant (dev profile).
    User {
        /// As they sign in.
        name: String,
        /// Theirs.
        password: String,
    },
    /// By client credentials (RFC 6749 §4.4).
    Client {
        /// As identity knows it.
        id: String,
        /// Its own.
        secret: String,
    },
}

impl Caller {
    /// A user of the dev profile, whose password is the name.
    pub fn dev(name: &str) -> Caller {
        Caller::User {
            name: name.to_owned(),
            password: name.to_owned(),
        }
    }
}

impl Display for Caller {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let (Caller::User { name, .. } | Caller::Client { id: name, .. }) = self;
        f.write_str(name)
    }
}

/// Who calls which platform.
pub struct Access {
    pub url: String,
    pub caller: Caller,
}

impl Access {
    /// The platform as the caller sees it.
    pub async fn platform(&self) -> Result<Platform> {
        Platform::new(&self.url)?.login(&self.caller).await
    }
}

/// A platform, as one caller sees it.
#[derive(Clone)]
pub struct Platform {
    base: String,
    http: reqwest::Client,
    token: Option<String>,
}

/// An answer with its body read.
pub struct Answer {
    pub status: StatusCode,
    pub body: Value,
}

impl Platform {
    pub fn new(base: &str) -> Result<Platform> {
        if !base.starts_with("http://") {
            bail!(
                "{base}: this client speaks plain HTTP to a platform on this machine; give an http:// URL"
            );
        }
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_MAX)
            .timeout(ANSWER_MAX)
            .build()
            .context("cannot set up the HTTP client")?;
        Ok(Platform {
            base: base.trim_end_matches('/').to_owned(),
            http,
            token: None,
        })
    }

    /// The same platform as a caller sees it.
    pub async fn login(&self, caller: &Caller) -> Result<Platform> {
        let token = self.token(caller, None).await?;
        Ok(Platform {
            token: Some(token),
            ..self.clone()
        })
    }

    /// An access token, with all that the caller's roles grant when `scope` is absent.
    pub async fn token(&self, caller: &Caller, scope: Option<&str>) -> Result<String> {
        let mut form = match caller {
            Caller::User { name, password } => vec![
                ("grant_type", "password"),
                ("client_id", CLIENT_ID),
                ("username", name),
                ("password", password),
            ],
            Caller::Client { id, secret } => vec![
                ("grant_type", "client_credentials"),
                ("client_id", id),
                ("client_secret", secret),
            ],
        };
        form.extend(scope.map(|scope| ("scope", scope)));
        let body = form
            .iter()
            .map(|(k, v)| format!("{k}={}", form_encoded(v)))
            .collect::<Vec<_>>()
            .join("&");
        let request = self
            .http
            .post(format!("{}/oauth2/token", self.base))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body);
        let answer = self.send(request, "POST /oauth2/token").await?;
        if answer.status != StatusCode::OK {
            // RFC 6749 §5.2
            let error = answer.body["error"].as_str().unwrap_or("no error code");
            let hint = match error {
                "unsupported_grant_type" => {
                    "; the password grant exists in the dev profile only: give --client-id and --client-secret"
                }
                "invalid_grant" => "; dev users have their name as password (`user`, `finance`, …)",
                _ => "",
            };
            bail!(
                "no token for {caller}: {} {error}: {}{hint}",
                answer.status,
                answer.body["error_description"]
                    .as_str()
                    .unwrap_or_default()
            );
        }
        let token = answer.body["access_token"].as_str();
        Ok(token
            .context("the token answer has no access_token")?
            .to_owned())
    }

    /// GET that must answer 200.
    pub async fn get(&self, path: &str) -> Result<Value> {
        Ok(self.call(Method::GET, path, None, None).await?.body)
    }

    /// POST that must answer 2xx.
    pub async fn post(
        &self,
        path: &str,
        body: &Value,
        idempotency_key: Option<&str>,
    ) -> Result<Answer> {
        self.call(Method::POST, path, Some(body), idempotency_key)
            .await
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        key: Option<&str>,
    ) -> Result<Answer> {
        let what = format!("{method} {path}");
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = self.send(request, &what).await?;
        if !answer.status.is_success() {
            bail!("{what}: {}", problem(answer.status, &answer.body));
        }
        Ok(answer)
    }

    async fn send(&self, request: reqwest::RequestBuilder, what: &str) -> Result<Answer> {
        let response = request.send().await.map_err(|error| {
            if error.is_connect() {
                return anyhow!("nothing answers at {}: start the platform with `make up` (or `innover up`), or give --url", self.base);
            }
            anyhow!(error).context(format!("{what} failed"))
        })?;
        let status = response.status();
        let bytes = response
            .bytes()
            .await
            .with_context(|| format!("{what}: the answer broke off"))?;
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Ok(Answer { status, body })
    }
}

/// One line of a problem document (RFC 9457).
fn problem(status: StatusCode, body: &Value) -> String {
    match body["code"].as_str() {
        Some(code) => {
            let param = body["param"]
                .as_str()
                .map(|p| format!(" at {p}"))
                .unwrap_or_default();
            let request = body["request_id"].as_str().unwrap_or("unknown");
            let detail = body["detail"].as_str().unwrap_or_default();
            format!(
                "{} {code}{param}: {detail} (request {request})",
                status.as_u16()
            )
        }
        None => format!("{status} {}", crate::print::cut(&body.to_string(), 300)),
    }
}

/// application/x-www-form-urlencoded; everything but unreserved characters is escaped.
fn form_encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(byte.into())
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn form_values_are_escaped() {
        assert_eq!(form_encoded("a b&c=ä+"), "a%20b%26c%3D%C3%A4%2B");
    }

    #[test]
    fn a_problem_is_one_line_with_what_a_person_needs() {
        let body = json!({"code": "invalid_amount", "detail": "too many digits", "param": "/amount", "request_id": "r1"});
        assert_eq!(
            problem(StatusCode::BAD_REQUEST, &body),
            "400 invalid_amount at /amount: too many digits (request r1)"
        );
        assert!(problem(StatusCode::BAD_GATEWAY, &json!("<html>")).contains("502"));
    }
}
