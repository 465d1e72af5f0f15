//! Tokens and people in the dev profile, through the whole service on SQLite.

mod common;

use base64::{Engine, engine::general_purpose::STANDARD};
use common::Answer;
use innover_kit::contract::Identity;
use jwt_simple::prelude::*;
use serde_json::{Value as Json, json};

fn token(fields: &[(&str, &str)]) -> Answer {
    common::form("dev", "/oauth2/token", fields, &[])
}

fn sign_in(name: &str, password: &str) -> Answer {
    token(&[
        ("grant_type", "password"),
        ("client_id", "innover-cli"),
        ("username", name),
        ("password", password),
    ])
}

fn refresh(refresh_token: &str) -> Answer {
    token(&[
        ("grant_type", "refresh_token"),
        ("client_id", "innover-cli"),
        ("refresh_token", refresh_token),
    ])
}

fn as_role(role: &str) -> Identity {
    let granted = identity::model::granted([role]);
    Identity {
        sub: format!("usr_{role}"),
        preferred_username: role.into(),
        roles: vec![role.into()],
        scope: granted.join(" "),
        client_id: "innover-cli".into(),
        ..Identity::default()
    }
}

fn ask(who: &Identity, method: &str, path: &str, headers: &[(&str, &str)], body: Json) -> Answer {
    let mut all = vec![("content-type", "application/json")];
    all.extend(headers);
    common::call(
        "dev",
        who,
        method,
        path,
        &all,
        if body.is_null() {
            String::new()
        } else {
            body.to_string()
        },
    )
}

/// A new person with this name, made by the administrator; the id.
fn person(name: &str) -> String {
    let body = json!({"username": name, "email": format!("{name}@example.com"), "password": "correct horse"});
    let made = ask(&as_role("admin"), "POST", "/v1/users", &[], body);
    assert_eq!(made.status, 201, "{}", made.body);
    made.text("id").to_owned()
}

/// The payload of a JWT, unverified.
fn payload(token: &str) -> Json {
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let part = token.split('.').nth(1).expect("three parts");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).expect("base64")).expect("JSON")
}

#[test]
fn a_dev_user_gets_a_token_that_the_published_key_verifies() {
    let answer = sign_in("finance", "finance");
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(
        (answer.text("token_type"), &answer.body["expires_in"]),
        ("Bearer", &json!(3600))
    );
    let all = "payment:read payment:write refund:read refund:write wallet:read wallet:write \
               ledger:read ledger:write forex:read forex:write";
    assert_eq!(answer.text("scope"), all);
    let access = answer.text("access_token");
    let claims = payload(access);
    for (name, want) in [
        ("iss", json!("http://127.0.0.1:3000")),
        ("sub", json!("usr_finance")),
        ("aud", json!("innover-api")),
        ("client_id", json!("innover-cli")),
        ("scope", json!(all)),
        ("email", json!("finance@innover.local")),
        ("email_verified", json!(false)),
        ("groups", json!(["finance"])),
        ("roles", json!(["finance"])),
        ("preferred_username", json!("finance")),
    ] {
        assert_eq!(claims[name], want, "{name}");
    }
    assert_eq!(
        claims["exp"].as_i64(),
        claims["iat"].as_i64().map(|iat| iat + 3600)
    );
    assert!(claims["jti"].is_string());
    let jwks = ask(&Identity::default(), "GET", "/oauth2/jwks", &[], Json::Null);
    let jwk = &jwks.body["keys"][0];
    assert!(
        jwk.get("d").is_none(),
        "the private part stays inside: {jwk}"
    );
    let key = Ed25519PublicKey::from_jwk(&jwk.to_string()).expect("a key");
    let options = VerificationOptions {
        required_signature_type: Some("at+jwt".into()),
        required_key_id: Some("k1".into()),
        ..VerificationOptions::default()
    };
    assert!(
        key.verify_token::<NoCustomClaims>(access, Some(options))
            .is_ok()
    );
    assert_eq!(
        sign_in("finance", "finance").status,
        200,
        "again, now from the stored hash"
    );
    assert_eq!(sign_in("admin@example.com", "admin123").status, 200);
    assert_eq!(
        sign_in("Finance@Innover.local", "finance").status,
        200,
        "by address, in any case"
    );
}

#[test]
fn scope_narrows_and_nothing_left_is_an_error() {
    let with = |scope| {
        token(&[
            ("grant_type", "password"),
            ("client_id", "innover-cli"),
            ("username", "user"),
            ("password", "user"),
            ("scope", scope),
        ])
    };
    assert_eq!(
        with("wallet:read ledger:write").text("scope"),
        "wallet:read"
    );
    for scope in ["ledger:write", "no:such", "wallet:read no:such"] {
        let answer = with(scope);
        assert_eq!(
            (answer.status, answer.text("error")),
            (400, "invalid_scope"),
            "{scope}"
        );
    }
}

#[test]
fn a_wrong_password_and_an_unknown_name_are_told_apart_by_nobody() {
    person("carla");
    let (wrong, unknown) = (sign_in("carla", "nope"), sign_in("nobody", "nope"));
    assert_eq!((wrong.status, wrong.text("error")), (400, "invalid_grant"));
    assert_eq!((unknown.status, &unknown.body), (wrong.status, &wrong.body));
}

#[test]
fn five_failures_lock_the_name_whether_it_exists_or_not() {
    person("dora");
    for name in ["dora", "somebody-else"] {
        for _ in 0..5 {
            assert_eq!(sign_in(name, "guess").status, 400, "{name}");
        }
        let locked = sign_in(name, "correct horse");
        assert_eq!(
            (locked.status, locked.text("error")),
            (429, "slow_down"),
            "{name}"
        );
        let seconds: i64 = locked.header("retry-after").parse().expect("seconds");
        assert!((1..=31).contains(&seconds), "{seconds}");
    }
    assert_eq!(sign_in("viewer", "viewer").status, 200, "others get in");
}

#[test]
fn a_refresh_token_works_once_and_its_replay_ends_the_family() {
    let first = sign_in("analyst", "analyst");
    let second = refresh(first.text("refresh_token"));
    assert_eq!(second.status, 200, "{}", second.body);
    assert_ne!(first.text("refresh_token"), second.text("refresh_token"));
    assert_eq!(payload(second.text("access_token"))["sub"], "usr_analyst");
    let third = refresh(second.text("refresh_token"));
    assert_eq!(third.status, 200);
    let replayed = refresh(first.text("refresh_token"));
    assert_eq!(
        (replayed.status, replayed.text("error")),
        (400, "invalid_grant")
    );
    let newest = refresh(third.text("refresh_token"));
    assert_eq!(
        (newest.status, newest.text("error")),
        (400, "invalid_grant"),
        "the thief's is dead too"
    );
    assert_eq!(refresh("made-up").status, 400);
    let other = token(&[
        ("grant_type", "refresh_token"),
        ("client_id", "innover-service"),
        ("client_secret", "innover-service-secret"),
        (
            "refresh_token",
            sign_in("analyst", "analyst").text("refresh_token"),
        ),
    ]);
    assert_eq!(
        (other.status, other.text("error")),
        (400, "unauthorized_client")
    );
}

#[test]
fn twins_of_one_refresh_token_leave_no_living_family() {
    let token = sign_in("auditor", "auditor")
        .text("refresh_token")
        .to_owned();
    let answers: Vec<Answer> = std::thread::scope(|threads| {
        let twins: Vec<_> = (0..4).map(|_| threads.spawn(|| refresh(&token))).collect();
        twins
            .into_iter()
            .map(|t| t.join().expect("answered"))
            .collect()
    });
    let good: Vec<&Answer> = answers.iter().filter(|a| a.status == 200).collect();
    assert!(good.len() <= 1, "{} of the twins were served", good.len());
    for answer in good {
        assert_eq!(
            refresh(answer.text("refresh_token")).status,
            400,
            "the family ended"
        );
    }
}

#[test]
fn a_client_authenticates_by_basic_or_form_and_gets_no_refresh_token() {
    let basic = |id: &str, secret: &str| {
        let value = format!("Basic {}", STANDARD.encode(format!("{id}:{secret}")));
        common::form(
            "dev",
            "/oauth2/token",
            &[("grant_type", "client_credentials")],
            &[("x-client-authorization", &value)],
        )
    };
    let answer = basic("innover-service", "innover-service-secret");
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(answer.body.get("refresh_token").is_none());
    let claims = payload(answer.text("access_token"));
    assert_eq!(
        (&claims["sub"], &claims["client_id"]),
        (&json!("innover-service"), &json!("innover-service"))
    );
    assert!(
        claims.get("preferred_username").is_none(),
        "a client is nobody by name"
    );
    let form = token(&[
        ("grant_type", "client_credentials"),
        ("client_id", "innover-service"),
        ("client_secret", "innover-service-secret"),
        ("scope", "payment:read"),
    ]);
    assert_eq!((form.status, form.text("scope")), (200, "payment:read"));
    for (id, secret) in [
        ("innover-service", "wrong"),
        ("nobody", "x"),
        ("innover-service", ""),
    ] {
        let answer = basic(id, secret);
        assert_eq!(
            (answer.status, answer.text("error")),
            (401, "invalid_client"),
            "{id}"
        );
        assert!(answer.header("www-authenticate").starts_with("Basic"));
    }
    let public = token(&[
        ("grant_type", "client_credentials"),
        ("client_id", "innover-cli"),
    ]);
    assert_eq!(
        (public.status, public.text("error")),
        (400, "unauthorized_client")
    );
}

#[test]
fn malformed_token_requests_are_told_what_is_wrong() {
    for (fields, error) in [
        (&[][..], "invalid_request"),
        (
            &[("grant_type", "password"), ("client_id", "innover-cli")],
            "invalid_request",
        ),
        (
            &[
                ("grant_type", "password"),
                ("grant_type", "password"),
                ("client_id", "innover-cli"),
            ],
            "invalid_request",
        ),
        (
            &[("grant_type", "implicit"), ("client_id", "innover-cli")],
            "unsupported_grant_type",
        ),
        (
            &[
                ("grant_type", "authorization_code"),
                ("client_id", "innover-cli"),
            ],
            "unsupported_grant_type",
        ),
        (&[("grant_type", "password")], "invalid_request"),
    ] {
        let answer = token(fields);
        assert_eq!(
            (answer.status, answer.text("error")),
            (400, error),
            "{fields:?}"
        );
        assert_eq!(answer.header("cache-control"), "no-store");
    }
    let as_json = ask(
        &Identity::default(),
        "POST",
        "/oauth2/token",
        &[],
        json!({"grant_type": "password"}),
    );
    assert_eq!(
        (as_json.status, as_json.text("error")),
        (400, "invalid_request")
    );
}

#[test]
fn introspection_is_for_clients_with_a_secret_and_revocation_ends_what_it_names() {
    let service = [
        ("client_id", "innover-service"),
        ("client_secret", "innover-service-secret"),
    ];
    let introspect = |token: &str| {
        common::form(
            "dev",
            "/oauth2/introspect",
            &[service[0], service[1], ("token", token)],
            &[],
        )
    };
    let revoke = |token: &str| {
        common::form(
            "dev",
            "/oauth2/revoke",
            &[("client_id", "innover-cli"), ("token", token)],
            &[],
        )
        .status
    };
    let signed_in = sign_in("ops_user", "ops_user");
    let (access, refresh_token) = (
        signed_in.text("access_token"),
        signed_in.text("refresh_token"),
    );
    let found = introspect(access);
    assert_eq!(
        (&found.body["active"], found.text("username")),
        (&json!(true), "ops_user")
    );
    assert_eq!(introspect(refresh_token).body["active"], true);
    assert_eq!(introspect("made-up").body, json!({"active": false}));
    let public = common::form(
        "dev",
        "/oauth2/introspect",
        &[("client_id", "innover-cli"), ("token", access)],
        &[],
    );
    assert_eq!(public.status, 401);
    assert_eq!(
        (revoke(access), revoke(refresh_token), revoke("made-up")),
        (200, 200, 200)
    );
    assert_eq!(introspect(access).body, json!({"active": false}));
    assert_eq!(introspect(refresh_token).body, json!({"active": false}));
    assert_eq!(refresh(refresh_token).status, 400);
}

#[test]
fn sign_in_by_json_answers_like_the_token_endpoint() {
    let login = |body| ask(&Identity::default(), "POST", "/v1/auth/login", &[], body);
    let answer = login(json!({"username": "user", "password": "user"}));
    assert_eq!(
        (answer.status, answer.header("cache-control")),
        (200, "no-store")
    );
    assert_eq!(payload(answer.text("access_token"))["sub"], "usr_user");
    assert_eq!(refresh(answer.text("refresh_token")).status, 200);
    assert_eq!(
        login(json!({"email": "user@innover.local", "password": "user"})).status,
        200
    );
    let wrong = login(json!({"username": "user", "password": "nope"}));
    assert_eq!((wrong.status, wrong.text("code")), (401, "invalid_token"));
    assert_eq!(login(json!({"username": "user"})).status, 400);
    assert_eq!(
        login(json!({"username": "user", "password": "user", "role": "admin"})).status,
        400
    );
}

#[test]
fn an_administrator_creates_people_and_a_viewer_only_reads_them() {
    let body = json!({"username": "eva", "email": "Eva@example.com", "password": "correct horse", "roles": ["finance"]});
    let refused = ask(&as_role("viewer"), "POST", "/v1/users", &[], body.clone());
    assert_eq!(
        (refused.status, refused.text("code")),
        (403, "insufficient_scope")
    );
    let key = [("idempotency-key", "eva-1")];
    let made = ask(&as_role("admin"), "POST", "/v1/users", &key, body.clone());
    assert_eq!(made.status, 201, "{}", made.body);
    assert_eq!(
        (made.text("email"), &made.body["roles"]),
        ("eva@example.com", &json!(["finance"]))
    );
    assert!(made.body.get("password").is_none());
    let again = ask(&as_role("admin"), "POST", "/v1/users", &key, body.clone());
    assert_eq!((again.status, &again.body), (201, &made.body));
    assert_eq!(again.header("idempotency-replayed"), "true");
    let taken = ask(&as_role("admin"), "POST", "/v1/users", &[], body);
    assert_eq!((taken.status, taken.text("code")), (409, "already_exists"));
    let path = format!("/v1/users/{}", made.text("id"));
    assert_eq!(
        ask(&as_role("viewer"), "GET", &path, &[], Json::Null).body,
        made.body
    );
    assert_eq!(
        ask(&as_role("user"), "GET", &path, &[], Json::Null).status,
        403
    );
    assert_eq!(
        ask(
            &as_role("user"),
            "GET",
            "/v1/users/usr_user",
            &[],
            Json::Null
        )
        .status,
        200,
        "oneself"
    );
    assert_eq!(
        ask(
            &as_role("viewer"),
            "GET",
            "/v1/users/usr_none",
            &[],
            Json::Null
        )
        .text("code"),
        "user_not_found"
    );
    let page = ask(
        &as_role("viewer"),
        "GET",
        "/v1/users?limit=2",
        &[],
        Json::Null,
    );
    assert_eq!(page.body["data"].as_array().map(Vec::len), Some(2));
    assert!(page.body["next_cursor"].is_string());
    for (change, pointer) in [
        (
            json!({"username": "Eva Two", "email": "e@example.com", "password": "correct horse"}),
            "/username",
        ),
        (
            json!({"username": "eva2", "email": "e", "password": "correct horse"}),
            "/email",
        ),
        (
            json!({"username": "eva2", "email": "e@example.com", "password": "short"}),
            "/password",
        ),
        (
            json!({"username": "eva2", "email": "e@example.com", "password": "correct horse", "roles": ["king"]}),
            "/roles/0",
        ),
    ] {
        let answer = ask(&as_role("admin"), "POST", "/v1/users", &[], change);
        assert_eq!(
            (answer.status, answer.text("param")),
            (400, pointer),
            "{}",
            answer.body
        );
    }
}

#[test]
fn a_disabled_or_deleted_person_is_out_at_once() {
    let id = person("fred");
    let path = format!("/v1/users/{id}");
    let signed_in = sign_in("fred", "correct horse");
    let change = ask(
        &as_role("admin"),
        "PATCH",
        &path,
        &[],
        json!({"state": "disabled"}),
    );
    assert_eq!((change.status, change.text("state")), (200, "disabled"));
    assert_eq!(refresh(signed_in.text("refresh_token")).status, 400);
    assert_eq!(
        sign_in("fred", "correct horse").text("error"),
        "invalid_grant"
    );
    let back = ask(
        &as_role("admin"),
        "PATCH",
        &path,
        &[],
        json!({"state": "active", "roles": ["viewer"], "password": "another horse"}),
    );
    assert_eq!(back.status, 200, "{}", back.body);
    assert_eq!(
        sign_in("fred", "another horse").text("scope"),
        "case:read user:read"
    );
    let unknown = ask(
        &as_role("admin"),
        "PATCH",
        &path,
        &[],
        json!({"state": "asleep"}),
    );
    assert_eq!((unknown.status, unknown.text("param")), (400, "/state"));
    assert_eq!(
        ask(&as_role("admin"), "DELETE", &path, &[], Json::Null).status,
        204
    );
    assert_eq!(
        ask(&as_role("admin"), "DELETE", &path, &[], Json::Null).status,
        404
    );
    assert_eq!(sign_in("fred", "another horse").status, 400);
}

#[test]
fn the_checked_in_openapi_document_is_current() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");
    let current = identity::SERVICE
        .openapi()
        .to_pretty_json()
        .expect("a document")
        + "\n";
    if std::env::var("UPDATE_OPENAPI").is_ok() {
        std::fs::write(file, &current).expect("written");
    }
    let checked_in = std::fs::read_to_string(file).unwrap_or_default();
    assert!(
        checked_in == current,
        "run the tests with UPDATE_OPENAPI=1 and commit {file}"
    );
}
