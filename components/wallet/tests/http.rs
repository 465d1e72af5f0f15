//! The HTTP surface as callers see it: through `serve`, with service tokens, on a real database. The
//! ledger is not there: what needs its answer is tested in `moving`, and against the running platform.

use std::{collections::BTreeMap, sync::OnceLock};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use innover_kit::{
    Batch, Db,
    contract::{Identity, Keyring, service_token},
};
use innover_money::Currency;
use serde_json::{Value, json};
use tempfile::TempDir;
use wallet::{
    model::{State, Wallet},
    store,
};

/// One platform for all tests: kit keeps connections per process. Tests use wallets of their own.
fn platform() -> &'static BTreeMap<String, [u8; 32]> {
    static PLATFORM: OnceLock<(TempDir, BTreeMap<String, [u8; 32]>)> = OnceLock::new();
    let (_, secrets) = PLATFORM.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("wallet.db");
        let file = rusqlite::Connection::open(&path).expect("a file");
        file.execute_batch(include_str!("../migrations/0001_init.sql"))
            .expect("the migration");
        let secrets: BTreeMap<String, [u8; 32]> =
            [("ledger", 1), ("gateway", 2), ("wallet", 3), ("payment", 5)]
                .map(|(name, byte)| (name.to_owned(), [byte; 32]))
                .into();
        let ring = Keyring::build("wallet", &["ledger".into()], &secrets).encode();
        innover_kit::config::set("keyring", &ring);
        innover_kit::config::set("database_url", &format!("sqlite:{}", path.display()));
        (folder, secrets)
    });
    secrets
}

#[derive(Clone)]
struct Caller {
    service: &'static str,
    identity: Identity,
}

fn person(name: &str, role: &str, scope: &str) -> Caller {
    let identity = Identity {
        sub: format!("usr_{name}"),
        preferred_username: name.into(),
        roles: vec![role.into()],
        scope: scope.into(),
        ..Default::default()
    };
    Caller {
        service: "gateway",
        identity,
    }
}

fn user(name: &str) -> Caller {
    person(name, "user", "wallet:read wallet:write")
}

fn finance() -> Caller {
    person(
        "finance",
        "finance",
        "wallet:read wallet:write ledger:read ledger:write",
    )
}

async fn ask(
    caller: &Caller,
    method: &str,
    path: &str,
    key: Option<&str>,
    body: Value,
) -> (u16, Value) {
    let ring = Keyring::build(caller.service, &["wallet".into()], platform());
    let token = service_token::mint(&ring, caller.service, "wallet", &caller.identity, "req-1")
        .expect("minted");
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .header(header::CONTENT_TYPE, "application/json");
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    let text = if body.is_null() {
        Bytes::new()
    } else {
        body.to_string().into()
    };
    let request = request.body(Full::new(text)).expect("a request");
    let response = innover_kit::serve(&wallet::SERVICE, request).await;
    let status = response.status().as_u16();
    let bytes = response
        .into_body()
        .collect()
        .await
        .expect("a body")
        .to_bytes();
    (status, serde_json::from_slice(&bytes).unwrap_or_default())
}

async fn get(caller: &Caller, path: &str) -> (u16, Value) {
    ask(caller, "GET", path, None, Value::Null).await
}

async fn add(id: &str, owner: &str, state: State) {
    platform();
    let wallet = Wallet {
        id: format!("wal_{id}"),
        owner: owner.into(),
        currency: Currency::EUR,
        state,
        account_id: format!("acc_{id}"),
        posted: 1_050,
        held: 50,
        account_version: 3,
        version: 1,
        created_at: 1_793_361_600_000_000,
    };
    let mut db = Db::open().await.expect("a connection");
    let mut batch = Batch::new();
    store::insert(&mut batch, &wallet);
    batch.commit(&mut db).await.expect("added");
}

#[tokio::test]
async fn a_wallet_is_shown_to_its_owner_and_to_readers_of_everyones() {
    add("g1", "usr_gina", State::Active).await;
    let (status, wallet) = get(&user("gina"), "/v1/wallets/wal_g1").await;
    assert_eq!(
        (status, &wallet),
        (
            200,
            &json!({
                "id": "wal_g1", "currency": "EUR", "state": "active", "owner": "usr_gina", "account_id": "acc_g1",
                "balance": {"posted": "10.50", "held": "0.50", "available": "10.00"},
                "created_at": wallet["created_at"],
            })
        )
    );
    for (caller, path, status, code) in [
        (user("otto"), "/v1/wallets/wal_g1", 403, json!("not_owner")),
        (
            person("audrey", "auditor", "wallet:read"),
            "/v1/wallets/wal_g1",
            200,
            Value::Null,
        ),
        (finance(), "/v1/wallets/wal_g1", 200, Value::Null),
        (
            person("gina", "user", "payment:read"),
            "/v1/wallets/wal_g1",
            403,
            json!("insufficient_scope"),
        ),
        (
            user("gina"),
            "/v1/wallets/wal_none",
            404,
            json!("wallet_not_found"),
        ),
    ] {
        let (got, answer) = get(&caller, path).await;
        assert_eq!((got, &answer["code"]), (status, &code), "{path}");
    }
}

#[tokio::test]
async fn a_list_shows_ones_own_and_pages_through_all_of_them() {
    for n in 0..5 {
        add(&format!("l{n}"), "usr_lena", State::Active).await;
    }
    add("lx", "usr_lars", State::Active).await;
    let ids = |page: &Value| -> Vec<String> {
        let data = page["data"].as_array().expect("data");
        data.iter()
            .map(|w| w["id"].as_str().expect("an id").to_owned())
            .collect()
    };
    let (_, first) = get(&user("lena"), "/v1/wallets?limit=3").await;
    assert_eq!(ids(&first), ["wal_l0", "wal_l1", "wal_l2"]);
    let cursor = first["next_cursor"].as_str().expect("more");
    let (_, second) = get(
        &user("lena"),
        &format!("/v1/wallets?limit=3&cursor={cursor}"),
    )
    .await;
    assert_eq!(
        (ids(&second), &second["next_cursor"]),
        (vec!["wal_l3".into(), "wal_l4".into()], &Value::Null)
    );

    assert_eq!(
        get(&user("lars"), "/v1/wallets?owner=usr_lena").await.0,
        403
    );
    let auditor = person("audrey", "auditor", "wallet:read");
    let (_, of_lars) = get(&auditor, "/v1/wallets?owner=usr_lars").await;
    assert_eq!(ids(&of_lars), ["wal_lx"]);
    let (_, all) = get(&auditor, "/v1/wallets?limit=200").await;
    assert!(ids(&all).contains(&"wal_lx".into()) && ids(&all).contains(&"wal_l0".into()));
    for (query, code) in [
        ("limit=0", "invalid_request"),
        ("limit=201", "invalid_request"),
        ("cursor=%21", "invalid_cursor"),
    ] {
        let (status, problem) = get(&user("lena"), &format!("/v1/wallets?{query}")).await;
        assert_eq!((status, &problem["code"]), (400, &json!(code)), "{query}");
    }
}

#[tokio::test]
async fn only_the_payment_service_looks_wallets_up() {
    add("k1", "usr_kim", State::Frozen).await;
    let payment = Caller {
        service: "payment",
        ..user("someone")
    };
    let (status, found) = get(&payment, "/v1/wallets/lookup?ids=wal_k1,wal_none").await;
    assert_eq!(
        (status, &found),
        (
            200,
            &json!({"data": [
                {"id": "wal_k1", "owner": "usr_kim", "currency": "EUR", "state": "frozen", "account_id": "acc_k1"},
            ]})
        )
    );
    assert_eq!(
        get(&finance(), "/v1/wallets/lookup?ids=wal_k1").await.0,
        403
    );
    let many = vec!["wal_x"; 101].join(",");
    assert_eq!(
        get(&payment, &format!("/v1/wallets/lookup?ids={many}"))
            .await
            .0,
        400
    );
}

#[tokio::test]
async fn a_wallet_that_cannot_be_opened_says_why_before_the_ledger_is_asked() {
    for (caller, body, status, code) in [
        (
            user("anna"),
            json!({"currency": "XAU"}),
            400,
            "unsupported_currency",
        ),
        (
            user("anna"),
            json!({"currency": "XXX"}),
            400,
            "unsupported_currency",
        ),
        (
            user("anna"),
            json!({"currency": "eur"}),
            400,
            "unsupported_currency",
        ),
        (
            user("anna"),
            json!({"currency": ""}),
            400,
            "unsupported_currency",
        ),
        (
            user("anna"),
            json!({"currency": 978}),
            400,
            "invalid_request",
        ),
        (user("anna"), json!({}), 400, "invalid_request"),
        (
            user("anna"),
            json!({"currency": "EUR", "balance": "1.00"}),
            400,
            "invalid_request",
        ),
        (
            user("anna"),
            json!({"currency": "EUR", "owner": "usr_otto"}),
            403,
            "not_owner",
        ),
        (
            finance(),
            json!({"currency": "EUR", "owner": ""}),
            400,
            "invalid_request",
        ),
        (
            person("anna", "user", "wallet:read"),
            json!({"currency": "EUR"}),
            403,
            "insufficient_scope",
        ),
    ] {
        let (got, problem) = ask(&caller, "POST", "/v1/wallets", Some("k"), body.clone()).await;
        assert_eq!((got, &problem["code"]), (status, &json!(code)), "{body}");
    }
}

#[tokio::test]
async fn a_top_up_that_is_not_allowed_never_reaches_the_ledger() {
    add("t1", "usr_tom", State::Active).await;
    add("t2", "usr_tom", State::Frozen).await;
    let eur = |amount: Value| json!({"amount": amount, "currency": "EUR"});
    for (caller, wallet, key, body, status, code) in [
        (
            user("tom"),
            "wal_t1",
            Some("k"),
            eur(json!("1.00")),
            403,
            "insufficient_scope",
        ),
        (
            finance(),
            "wal_t1",
            None,
            eur(json!("1.00")),
            400,
            "idempotency_key_required",
        ),
        (
            finance(),
            "wal_none",
            Some("k"),
            eur(json!("1.00")),
            404,
            "wallet_not_found",
        ),
        (
            finance(),
            "wal_t2",
            Some("k"),
            eur(json!("1.00")),
            422,
            "wallet_not_active",
        ),
        (
            finance(),
            "wal_t1",
            Some("k"),
            json!({"amount": "1.00", "currency": "USD"}),
            422,
            "currency_mismatch",
        ),
        (
            finance(),
            "wal_t1",
            Some("k"),
            eur(json!("1.001")),
            400,
            "invalid_amount",
        ),
        (
            finance(),
            "wal_t1",
            Some("k"),
            eur(json!("-1.00")),
            400,
            "invalid_amount",
        ),
        (
            finance(),
            "wal_t1",
            Some("k"),
            eur(json!("0")),
            400,
            "invalid_amount",
        ),
        (
            finance(),
            "wal_t1",
            Some("k"),
            eur(json!(1.5)),
            400,
            "invalid_amount",
        ),
        (
            finance(),
            "wal_t1",
            Some("k"),
            eur(json!("1000000000000000000000000000000")),
            400,
            "invalid_amount",
        ),
    ] {
        let path = format!("/v1/wallets/{wallet}/top-ups");
        let (got, problem) = ask(&caller, "POST", &path, key, body.clone()).await;
        assert_eq!(
            (got, &problem["code"]),
            (status, &json!(code)),
            "{wallet} {body}"
        );
    }
    let (_, wallet) = get(&user("tom"), "/v1/wallets/wal_t1").await;
    assert_eq!(wallet["balance"]["posted"], "10.50");
}

#[tokio::test]
async fn a_ledger_that_is_not_there_leaves_no_wallet_and_an_open_top_up_behind() {
    add("n1", "usr_nils", State::Active).await;
    let (status, problem) = ask(
        &user("nina"),
        "POST",
        "/v1/wallets",
        Some("k"),
        json!({"currency": "EUR"}),
    )
    .await;
    assert_eq!((status, &problem["code"]), (502, &json!("upstream_error")));
    let (_, page) = get(&user("nina"), "/v1/wallets").await;
    assert_eq!(page["data"], json!([]));
    let body = json!({"amount": "1.00", "currency": "EUR"});
    let (status, _) = ask(
        &finance(),
        "POST",
        "/v1/wallets/wal_n1/top-ups",
        Some("k"),
        body,
    )
    .await;
    // 503 when the breaker opened meanwhile. Unknown to the caller, who asks again with the same key.
    assert!(matches!(status, 502 | 503), "{status}");
    let db = Db::open().await.expect("a connection");
    let rows = db
        .query(
            "SELECT state FROM movements WHERE wallet_id = 'wal_n1'",
            vec![],
        )
        .await
        .expect("read");
    let states: Vec<&str> = rows.iter().map(|row| row.text(0).expect("text")).collect();
    assert_eq!(states, ["requested"], "what the sweep asks the ledger for");
}
