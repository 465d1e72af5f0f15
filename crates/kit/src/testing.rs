//! For native tests: a service on a database of its own, called as its callers call it, with a
//! service token.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{collections::BTreeMap, sync::RwLock};

use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt;
use innover_contract::{Identity, Keyring, service_token};
use serde_json::Value;

use crate::{Service, config};

/// One per test process: a component's connections and variables are the process's.
pub struct Platform {
    service: &'static Service,
    rings: BTreeMap<&'static str, Keyring>,
    /// The database's file.
    pub database: std::path::PathBuf,
    /// Open as long as the platform is: SQLite removes the journal of a database with its last
    /// connection, and whoever opens it at that moment is told that it is locked.
    _keeper: std::sync::Mutex<rusqlite::Connection>,
    _folder: tempfile::TempDir,
}

/// What a service answered.
pub struct Reply {
    /// Its status code.
    pub status: u16,
    /// Its body; null when it is no JSON.
    pub body: Value,
    /// Whether it says `Idempotency-Replayed`.
    pub replayed: bool,
}

impl Reply {
    /// The problem's code, empty when it is none.
    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }
}

impl Platform {
    /// A service behind its migrated database; callers are those named.
    pub fn start(service: &'static Service, migration: &str, callers: &[&'static str]) -> Platform {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("service.db");
        let keeper = rusqlite::Connection::open(&database).unwrap();
        keeper.execute_batch("PRAGMA journal_mode = WAL;").unwrap();
        keeper.execute_batch(migration).unwrap();
        config::set("database_url", &format!("sqlite:{}", database.display()));
        let names: Vec<&str> = callers.iter().copied().chain([service.name]).collect();
        let secrets: BTreeMap<String, [u8; 32]> = names
            .iter()
            .zip(1u8..)
            .map(|(name, byte)| ((*name).into(), [byte; 32]))
            .collect();
        let all: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let own = Keyring::build(service.name, &[], &secrets);
        config::set("keyring", &own.encode());
        let rings = callers
            .iter()
            .map(|c| (*c, Keyring::build(c, &all, &secrets)))
            .collect();
        Platform {
            service,
            rings,
            database,
            _keeper: keeper.into(),
            _folder: folder,
        }
    }

    /// Calls through the gateway as a person.
    pub async fn call(
        &self,
        who: &Identity,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Reply {
        self.send(
            "gateway",
            who,
            method,
            path,
            body.map(|b| b.to_string()),
            None,
        )
        .await
    }

    /// Calls as another service, or with a key.
    pub async fn send(
        &self,
        caller: &str,
        who: &Identity,
        method: &str,
        path: &str,
        body: Option<String>,
        key: Option<&str>,
    ) -> Reply {
        let mut request = self
            .request(caller, who, method, path)
            .header("content-type", "application/json");
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        self.answer(request, body.unwrap_or_default()).await
    }

    /// Posts a body of another media type.
    pub async fn send_as(
        &self,
        caller: &str,
        who: &Identity,
        path: &str,
        media: &str,
        body: String,
    ) -> Reply {
        self.answer(
            self.request(caller, who, "POST", path)
                .header("content-type", media),
            body,
        )
        .await
    }

    fn request(
        &self,
        caller: &str,
        who: &Identity,
        method: &str,
        path: &str,
    ) -> http::request::Builder {
        let token =
            service_token::mint(&self.rings[caller], caller, self.service.name, who, "r").unwrap();
        http::Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {token}"))
    }

    async fn answer(&self, request: http::request::Builder, body: String) -> Reply {
        let body = http_body_util::Full::new(bytes::Bytes::from(body));
        let response = crate::serve(self.service, request.body(body).unwrap()).await;
        let status = response.status().as_u16();
        let replayed = response.headers().contains_key("idempotency-replayed");
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Reply {
            status,
            body,
            replayed,
        }
    }

    /// Rows of a query as JSON-ish text, to look at what was stored.
    pub fn rows(&self, sql: &str) -> Vec<Vec<String>> {
        let db = rusqlite::Connection::open(&self.database).unwrap();
        let mut statement = db.prepare(sql).unwrap();
        let columns = statement.column_count();
        let rows = statement
            .query_map([], |row| {
                (0..columns)
                    .map(|i| {
                        Ok(match row.get_ref(i)? {
                            rusqlite::types::ValueRef::Integer(n) => n.to_string(),
                            rusqlite::types::ValueRef::Text(t) => {
                                String::from_utf8_lossy(t).into_owned()
                            }
                            _ => "null".into(),
                        })
                    })
                    .collect()
            })
            .unwrap();
        rows.map(|row| row.unwrap()).collect()
    }
}

/// A call of another service.
#[derive(Clone, Debug)]
pub struct Outgoing<'a> {
    /// Which service.
    pub callee: &'a str,
    /// The method.
    pub method: &'a Method,
    /// Path and query.
    pub path: &'a str,
    /// The JSON body; null when there is none.
    pub body: Value,
}

type Answering = Box<dyn Fn(&Outgoing) -> Option<(u16, Value)> + Send + Sync>;

static ANSWERING: RwLock<Option<Answering>> = RwLock::new(None);

/// Answers the calls of this process's service in the callee's place, with a status and a JSON body.
/// `None` is a callee that is not there.
pub fn answer_calls(answering: impl Fn(&Outgoing) -> Option<(u16, Value)> + Send + Sync + 'static) {
    *ANSWERING.write().unwrap() = Some(Box::new(answering));
}

pub(crate) fn answer(
    callee: &str,
    method: &Method,
    path: &str,
    body: &[u8],
) -> Option<(u16, Bytes)> {
    let outgoing = Outgoing {
        callee,
        method,
        path,
        body: serde_json::from_slice(body).unwrap_or(Value::Null),
    };
    let answering = ANSWERING.read().unwrap();
    let (status, body) = answering.as_ref()?(&outgoing)?;
    Some((status, body.to_string().into()))
}

/// A person with these scopes.
pub fn person(sub: &str, role: &str, scope: &str) -> Identity {
    Identity {
        sub: sub.into(),
        preferred_username: sub.into(),
        email: format!("{sub}@innover.local"),
        roles: vec![role.into()],
        scope: scope.into(),
        client_id: "innover-cli".into(),
    }
}
