//! The whole service on a SQLite file, called as the gateway calls it.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::sync::OnceLock;

use axum::body::Body;
use http::{HeaderMap, Request};
use innover_kit::{
    config,
    contract::{Identity, Keyring, service_token},
};
use jwt_simple::prelude::Ed25519KeyPair;
use serde_json::Value as Json;

pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Json,
}

impl Answer {
    pub fn text(&self, name: &str) -> &str {
        self.body[name]
            .as_str()
            .unwrap_or_else(|| panic!("no `{name}` in {}", self.body))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default()
    }
}

/// Sets the service up once per test file, in this profile.
pub fn start(profile: &str) -> &'static Keyring {
    static GATEWAY: OnceLock<(Keyring, tempfile::TempDir)> = OnceLock::new();
    let (gateway, _) = GATEWAY.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("identity.db");
        let database = rusqlite::Connection::open(&file).expect("a database");
        // Here, since two connections that switch at the same moment lock each other out.
        database
            .execute_batch("PRAGMA journal_mode = WAL")
            .expect("switched");
        database
            .execute_batch(include_str!("../../migrations/0001_init.sql"))
            .expect("migrated");
        let secrets = [("identity".to_owned(), [7; 32])].into();
        let key = Ed25519KeyPair::generate().with_key_id("k1").to_jwk();
        config::set("database_url", &format!("sqlite:{}", file.display()));
        config::set(
            "keyring",
            &Keyring::build("identity", &[], &secrets).encode(),
        );
        config::set("signing_keys", &format!(r#"{{"keys":[{key}]}}"#));
        config::set("issuer", "http://127.0.0.1:3000");
        config::set("audience", "innover-api");
        config::set("profile", profile);
        (
            Keyring::build("gateway", &["identity".into()], &secrets),
            folder,
        )
    });
    gateway
}

/// Calls as the gateway does for `who`.
pub fn call(
    profile: &str,
    who: &Identity,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: String,
) -> Answer {
    let token =
        service_token::mint(start(profile), "gateway", "identity", who, "").expect("minted");
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("authorization", format!("Bearer {token}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::from(body)).expect("a request");
    futures::executor::block_on(async {
        let response = innover_kit::serve(&identity::SERVICE, request).await;
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, 1 << 20).await.expect("a body");
        let body = serde_json::from_slice(&bytes).unwrap_or(Json::Null);
        Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body,
        }
    })
}

/// A form, without a caller.
pub fn form(
    profile: &str,
    path: &str,
    fields: &[(&str, &str)],
    headers: &[(&str, &str)],
) -> Answer {
    let body = form_urlencoded::Serializer::new(String::new())
        .extend_pairs(fields)
        .finish();
    let mut all = vec![("content-type", "application/x-www-form-urlencoded")];
    all.extend(headers);
    call(profile, &Identity::default(), "POST", path, &all, body)
}
