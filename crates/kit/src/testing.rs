//! For native tests: a service on a database of its own, called as its callers call it, with a
//! service token.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
    task::{Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt;
use innover_contract::{Identity, Keyring, service_token};
use serde_json::Value;

use crate::{Service, config, jobs};

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

    /// Posts under a request id of the caller's choice, as a retry does.
    pub async fn send_with_request_id(
        &self,
        caller: &str,
        who: &Identity,
        path: &str,
        body: Value,
        request_id: &str,
    ) -> Reply {
        let request = self
            .request(caller, who, "POST", path)
            .header("content-type", "application/json")
            .header("x-request-id", request_id);
        self.answer(request, body.to_string()).await
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
    /// On whose behalf.
    pub identity: Identity,
    /// The Idempotency-Key that was sent along.
    pub idempotency_key: Option<&'a str>,
}

type Answering = Box<dyn Fn(&Outgoing) -> Option<(u16, Value)> + Send + Sync>;

static ANSWERING: RwLock<Option<Answering>> = RwLock::new(None);

/// Answers the calls of this process's service in the callee's place, with a status and a JSON body.
/// `None` is a callee that is not there.
pub fn answer_calls(answering: impl Fn(&Outgoing) -> Option<(u16, Value)> + Send + Sync + 'static) {
    *ANSWERING.write().unwrap() = Some(Box::new(answering));
}

pub(crate) fn answer(outgoing: &Outgoing) -> Option<(u16, Bytes)> {
    let answering = ANSWERING.read().unwrap();
    let (status, body) = answering.as_ref()?(outgoing)?;
    Some((status, body.to_string().into()))
}

/// Waits without a runtime: a thread wakes who waits.
pub(crate) async fn sleep(time: Duration) {
    let state: Arc<Mutex<(bool, Option<Waker>)>> = Arc::default();
    let of_thread = Arc::clone(&state);
    std::thread::spawn(move || {
        std::thread::sleep(time);
        let mut state = of_thread.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 = true;
        if let Some(waker) = state.1.take() {
            waker.wake();
        }
    });
    std::future::poll_fn(|poll| {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.1 = Some(poll.waker().clone());
        match state.0 {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
}

/// Holds what a service declares against its `[component.X.tool.innover]` in spin.toml. The tasks are
/// those the bridge delivers by: the same names, deadlines, attempts and batches, and one queue. The
/// migration it wants is the newest in its folder.
///
/// # Panics
/// With everything that differs.
pub fn check_declared(service: &Service) {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../spin.toml");
    let spin_toml = std::fs::read_to_string(file).unwrap();
    let mut differing = differing_tasks(service, &spin_toml);
    differing.extend(differing_migration(service, &spin_toml));
    assert!(
        differing.is_empty(),
        "spin.toml and the component `{}` differ:\n{}",
        service.name,
        differing.join("\n")
    );
}

fn differing_migration(service: &Service, spin_toml: &str) -> Option<String> {
    let manifest = innover_manifest::Manifest::parse(spin_toml).unwrap();
    let mut components = manifest.components.iter();
    let (_, component) =
        components.find(|(id, component)| component.innover.service_name(id) == service.name)?;
    let root = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let files = std::fs::read_dir(root.join(component.innover.migrations.as_ref()?)).unwrap();
    let newest = files.map(|file| file.unwrap().file_name()).max()?;
    let wanted = service
        .migration
        .map(|crate::Migration(number, name)| format!("{number:04}_{name}.sql"));
    (wanted.as_deref() != newest.to_str())
        .then(|| format!("it wants the migration {wanted:?}, the newest is {newest:?}"))
}

/// What differs, one sentence each.
fn differing_tasks(service: &Service, spin_toml: &str) -> Vec<String> {
    let manifest = innover_manifest::Manifest::parse(spin_toml).unwrap();
    let component = manifest
        .components
        .iter()
        .find(|(id, component)| component.innover.service_name(id) == service.name);
    let jobs = match component {
        Some((_, component)) => component.innover.jobs.as_ref(),
        None => return vec![format!("there is no component `{}`", service.name)],
    };
    let Some(jobs) = jobs.filter(|_| service.queue) else {
        let agreed = jobs.is_none() && !service.queue && service.tasks.is_empty();
        return match agreed {
            true => Vec::new(),
            false => vec!["only one of them has a queue".into()],
        };
    };
    let mut found = Vec::new();
    let queue = format!("{}-tasks", service.name);
    if jobs.queue != queue {
        found.push(format!("the queue is `{}`, not `{queue}`", jobs.queue));
    }
    let samples = jobs::SAMPLES
        .iter()
        .map(|task| (format!("{}.{}", service.name, task.name), task));
    let own = service.tasks.iter().map(|task| (task.name.into(), task));
    let declared: BTreeMap<String, &jobs::Task> = own.chain(samples).collect();
    for (name, task) in &declared {
        let Some(told) = jobs.tasks.get(name) else {
            found.push(format!("`{name}` is not in spin.toml"));
            continue;
        };
        for (what, declared, told) in [
            ("deadline_ms", task.deadline_ms, told.deadline_ms),
            (
                "max_attempts",
                task.max_attempts.into(),
                told.max_attempts.into(),
            ),
            ("batch", task.jobs_per_delivery.into(), told.batch.into()),
        ] {
            if declared != told {
                found.push(format!(
                    "`{what}` of `{name}` is {told} in spin.toml and {declared} in the component"
                ));
            }
        }
    }
    for name in jobs
        .tasks
        .keys()
        .filter(|name| !declared.contains_key(*name))
    {
        found.push(format!("the component has no task `{name}`"));
    }
    found
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

#[cfg(test)]
mod tests {
    use utoipa_axum::router::OpenApiRouter;

    use super::*;
    use crate::{
        Cx, Db, Job,
        jobs::{Handled, Running, Task},
    };

    fn none<'a>(_: &'a Cx, _: &'a Db, _: &'a [Job]) -> Running<'a> {
        Box::pin(async { Ok(Handled::default()) })
    }

    static SERVICE: Service = Service {
        tasks: &[
            Task::new("x.kept", &[], none).deadline_s(5).attempts(2),
            Task::new("x.new", &[], none),
        ],
        ..Service::new("x", OpenApiRouter::new)
    };

    #[test]
    fn every_difference_to_spin_toml_is_named() {
        let text = r#"
            spin_manifest_version = 2
            [application]
            name = "x"
            [[trigger.http]]
            route = "/..."
            component = "x"
            [component.x]
            source = "x.wasm"
            [component.x.tool.innover.jobs]
            queue = "x-jobs"
            [component.x.tool.innover.jobs.tasks]
            "x.kept" = { deadline_ms = 4000, max_attempts = 3, batch = 2 }
            "x.gone" = {}
            "x.add" = { batch = 100 }
            "x.echo" = { batch = 100 }
            "x.slow" = {}
        "#;
        let differing = differing_tasks(&SERVICE, text);
        let want = [
            "the queue is `x-jobs`, not `x-tasks`",
            "`deadline_ms` of `x.kept` is 4000 in spin.toml and 5000 in the component",
            "`max_attempts` of `x.kept` is 3 in spin.toml and 2 in the component",
            "`batch` of `x.kept` is 2 in spin.toml and 1 in the component",
            "`x.new` is not in spin.toml",
            "`deadline_ms` of `x.slow` is 60000 in spin.toml and 310000 in the component",
            "the component has no task `x.gone`",
        ];
        assert_eq!(differing, want);
    }
}
