//! The HTTP surface as callers see it: through `serve`, with service tokens, on a real database.

use std::{collections::BTreeMap, sync::OnceLock};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use innover_kit::contract::{Identity, Keyring, service_token};
use serde_json::{Value, json};
use tempfile::TempDir;

/// One platform for all tests: kit keeps connections per process. Tests use accounts of their own.
fn platform() -> &'static BTreeMap<String, [u8; 32]> {
    static PLATFORM: OnceLock<(TempDir, BTreeMap<String, [u8; 32]>)> = OnceLock::new();
    let (_, secrets) = PLATFORM.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ledger.db");
        let file = rusqlite::Connection::open(&path).expect("a file");
        file.execute_batch(include_str!("../migrations/0001_init.sql"))
            .expect("the migration");
        let secrets: BTreeMap<String, [u8; 32]> = [
            ("ledger", 1),
            ("gateway", 2),
            ("wallet", 3),
            ("bridge", 4),
            ("payment", 5),
        ]
        .map(|(name, byte)| (name.to_owned(), [byte; 32]))
        .into();
        let ring = Keyring::build("ledger", &[], &secrets).encode();
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

fn finance() -> Caller {
    person("finance", "finance", "ledger:read ledger:write")
}

fn wallet_for_a_user() -> Caller {
    Caller {
        service: "wallet",
        ..person("anna", "user", "wallet:read wallet:write")
    }
}

async fn ask(
    caller: &Caller,
    method: &str,
    path: &str,
    key: Option<&str>,
    body: Value,
) -> (u16, Value, bool) {
    let secrets = platform();
    let ring = Keyring::build(caller.service, &["ledger".into()], secrets);
    let token = service_token::mint(&ring, caller.service, "ledger", &caller.identity, "req-1")
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
    let response = innover_kit::serve(&ledger::SERVICE, request).await;
    let replayed = response.headers().contains_key("idempotency-replayed");
    let status = response.status().as_u16();
    let bytes = response
        .into_body()
        .collect()
        .await
        .expect("a body")
        .to_bytes();
    (
        status,
        serde_json::from_slice(&bytes).unwrap_or_default(),
        replayed,
    )
}

async fn open(id: &str, currency: &str) {
    let body = json!({"id": id, "code": "wallet", "name": "a wallet", "currency": currency,
                      "normal_side": "credit", "floor": "0"});
    let (status, answer, _) = ask(&wallet_for_a_user(), "POST", "/v1/accounts", None, body).await;
    assert_eq!(status, 201, "{answer}");
}

fn transfer(from: &str, to: &str, amount: &str) -> Value {
    json!({"reference": "a test", "postings": [
        {"account": from, "direction": "debit", "amount": amount, "currency": "EUR"},
        {"account": to, "direction": "credit", "amount": amount, "currency": "EUR"},
    ]})
}

#[tokio::test]
async fn an_account_is_opened_once_by_its_id() {
    let body = json!({"id": "acc_open", "code": "wallet", "name": "mine", "currency": "SEK",
                      "normal_side": "credit", "floor": "0.00"});
    let (status, first, _) = ask(
        &finance(),
        "POST",
        "/v1/accounts",
        Some("k-open"),
        body.clone(),
    )
    .await;
    assert_eq!(
        (status, &first["balance"]["available"]),
        (201, &json!("0.00")),
        "{first}"
    );
    let (status, again, _) = ask(
        &wallet_for_a_user(),
        "POST",
        "/v1/accounts",
        None,
        body.clone(),
    )
    .await;
    assert_eq!((status, &again), (201, &first));
    let mut other = body;
    other["floor"] = json!(null);
    let (status, refused, _) = ask(&finance(), "POST", "/v1/accounts", None, other).await;
    assert_eq!((status, &refused["code"]), (409, &json!("already_exists")));
    assert!(
        refused["detail"]
            .as_str()
            .is_some_and(|d| d.contains("/floor")),
        "{refused}"
    );
    for house in ["cash", "fx", "margin"] {
        let path = format!("/v1/accounts/acc_house_{house}_SEK");
        let (status, account, _) = ask(&finance(), "GET", &path, None, Value::Null).await;
        assert_eq!(
            (status, &account["floor"]),
            (200, &Value::Null),
            "opened with the currency"
        );
    }
}

#[tokio::test]
async fn an_opening_that_is_malformed_says_where() {
    let good =
        json!({"code": "wallet", "currency": "EUR", "normal_side": "credit", "floor": "0.00"});
    for (field, value, code, param) in [
        (
            "currency",
            json!("XAU"),
            "unsupported_currency",
            "/currency",
        ),
        (
            "currency",
            json!("XXX"),
            "unsupported_currency",
            "/currency",
        ),
        (
            "currency",
            json!("EURO"),
            "unsupported_currency",
            "/currency",
        ),
        (
            "normal_side",
            json!("left"),
            "invalid_request",
            "/normal_side",
        ),
        ("floor", json!("1.00"), "invalid_amount", "/floor"),
        ("floor", json!("0.001"), "invalid_amount", "/floor"),
        ("id", json!("wal_1"), "invalid_request", "/id"),
        ("id", json!("acc_ä"), "invalid_request", "/id"),
        ("code", json!(""), "invalid_request", "/code"),
        ("name", json!("a\nb"), "invalid_request", "/name"),
        (
            "metadata",
            json!({"x": "y".repeat(5_000)}),
            "invalid_request",
            "/metadata",
        ),
    ] {
        let mut body = good.clone();
        body[field] = value;
        let (status, problem, _) = ask(&finance(), "POST", "/v1/accounts", None, body).await;
        assert_eq!(
            (status, &problem["code"], &problem["param"]),
            (400, &json!(code), &json!(param)),
            "{field}"
        );
    }
}

#[tokio::test]
async fn finance_posts_an_entry_and_reads_it_back() {
    open("acc_p1", "EUR").await;
    open("acc_p2", "EUR").await;
    let fund = transfer("acc_house_cash_EUR", "acc_p1", "100.00");
    let (status, entry, _) = ask(
        &finance(),
        "POST",
        "/v1/entries",
        Some("k-fund"),
        fund.clone(),
    )
    .await;
    assert_eq!(status, 201, "{entry}");
    assert_eq!(entry["kind"], "manual");
    assert_eq!(entry["created_by"], "usr_finance");
    assert_eq!(
        entry["balances"][1],
        json!({"account": "acc_p1", "currency": "EUR", "posted": "100.00",
        "held": "0.00", "available": "100.00", "version": 1})
    );

    let (status, again, replayed) =
        ask(&finance(), "POST", "/v1/entries", Some("k-fund"), fund).await;
    assert_eq!((status, &again, replayed), (201, &entry, true));

    let path = format!("/v1/entries/{}", entry["id"].as_str().expect("an id"));
    let (status, read, _) = ask(&finance(), "GET", &path, None, Value::Null).await;
    assert_eq!(
        (status, &read["postings"], &read["reference"]),
        (200, &entry["postings"], &json!("a test"))
    );

    let spend = transfer("acc_p1", "acc_p2", "30.00");
    for key in ["k-s1", "k-s2", "k-s3"] {
        assert_eq!(
            ask(&finance(), "POST", "/v1/entries", Some(key), spend.clone())
                .await
                .0,
            201
        );
    }
    let (_, page, _) = ask(
        &finance(),
        "GET",
        "/v1/accounts/acc_p1/statement?limit=3",
        None,
        Value::Null,
    )
    .await;
    let after = |page: &Value| -> Vec<String> {
        let lines = page["data"].as_array().expect("lines");
        lines
            .iter()
            .map(|l| l["balance_after"].as_str().expect("text").to_owned())
            .collect()
    };
    assert_eq!(after(&page), ["100.00", "70.00", "40.00"]);
    let path = format!(
        "/v1/accounts/acc_p1/statement?limit=3&cursor={}",
        page["next_cursor"].as_str().expect("more")
    );
    let (_, page, _) = ask(&finance(), "GET", &path, None, Value::Null).await;
    assert_eq!(
        (after(&page), &page["next_cursor"]),
        (vec!["10.00".to_owned()], &Value::Null)
    );
    let (_, account, _) = ask(&finance(), "GET", "/v1/accounts/acc_p1", None, Value::Null).await;
    assert_eq!(
        account["balance"],
        json!({"posted": "10.00", "held": "0.00", "available": "10.00"})
    );
    assert_eq!(account["totals"]["debits"], "90.00");
}

#[tokio::test]
async fn a_refusal_is_as_final_as_an_entry() {
    open("acc_f1", "EUR").await;
    open("acc_f2", "EUR").await;
    let spend = transfer("acc_f1", "acc_f2", "5.00");
    let (status, refused, _) = ask(
        &finance(),
        "POST",
        "/v1/entries",
        Some("k-final"),
        spend.clone(),
    )
    .await;
    assert_eq!(
        (status, &refused["code"]),
        (422, &json!("insufficient_funds")),
        "{refused}"
    );
    let fund = transfer("acc_house_cash_EUR", "acc_f1", "5.00");
    assert_eq!(
        ask(
            &finance(),
            "POST",
            "/v1/entries",
            Some("k-final-fund"),
            fund
        )
        .await
        .0,
        201
    );
    let (status, again, replayed) = ask(
        &finance(),
        "POST",
        "/v1/entries",
        Some("k-final"),
        spend.clone(),
    )
    .await;
    assert_eq!((status, &again, replayed), (422, &refused, true));
    assert_eq!(
        ask(&finance(), "POST", "/v1/entries", Some("k-final-2"), spend)
            .await
            .0,
        201,
        "a new key"
    );
}

#[tokio::test]
async fn the_wallet_service_repeats_itself_by_external_id_without_doubling() {
    open("acc_t1", "EUR").await;
    let mut top_up = transfer("acc_house_cash_EUR", "acc_t1", "25.00");
    top_up["kind"] = json!("top_up");
    top_up["external_id"] = json!("top_1");
    let (status, first, _) = ask(
        &wallet_for_a_user(),
        "POST",
        "/v1/entries",
        None,
        top_up.clone(),
    )
    .await;
    assert_eq!(
        (status, &first["created_by"]),
        (201, &json!("wallet")),
        "{first}"
    );
    // The same top-up on behalf of whoever retries it.
    let other = Caller {
        service: "wallet",
        ..finance()
    };
    let (status, again, replayed) = ask(&other, "POST", "/v1/entries", None, top_up.clone()).await;
    assert_eq!((status, &again, replayed), (201, &first, true));
    let (_, account, _) = ask(&finance(), "GET", "/v1/accounts/acc_t1", None, Value::Null).await;
    assert_eq!(account["balance"]["posted"], "25.00");

    top_up["postings"][0]["amount"] = json!("26.00");
    top_up["postings"][1]["amount"] = json!("26.00");
    let (status, refused, _) = ask(
        &wallet_for_a_user(),
        "POST",
        "/v1/entries",
        None,
        top_up.clone(),
    )
    .await;
    assert_eq!(
        (status, &refused["differing_fields"]),
        (422, &json!(["/postings"]))
    );

    top_up["kind"] = json!("manual");
    let (status, taken, _) = ask(&finance(), "POST", "/v1/entries", Some("k-other"), top_up).await;
    assert_eq!(
        (status, &taken["code"]),
        (409, &json!("already_exists")),
        "{taken}"
    );
}

#[tokio::test]
async fn an_entry_that_is_malformed_says_where_and_stores_nothing() {
    open("acc_m1", "EUR").await;
    open("acc_m2", "EUR").await;
    let good = transfer("acc_house_cash_EUR", "acc_m1", "1.00");
    let with = |pointer: &str, value: Value| {
        let mut body = good.clone();
        *body.pointer_mut(pointer).expect("there") = value;
        body
    };
    let mut unknown = good.clone();
    unknown["amount"] = json!("1.00");
    let mut payment = good.clone();
    payment["kind"] = json!("payment");
    for (body, status, code, param) in [
        (
            with("/postings/1/amount", json!("0.99")),
            422,
            "unbalanced",
            Some("/postings"),
        ),
        (
            with("/postings/0/amount", json!(1.5)),
            400,
            "invalid_amount",
            Some("/postings/0/amount"),
        ),
        (
            with("/postings/0/amount", json!("-1.00")),
            400,
            "invalid_amount",
            Some("/postings/0/amount"),
        ),
        (
            with("/postings/1/amount", json!("0.00")),
            400,
            "invalid_amount",
            Some("/postings/1/amount"),
        ),
        (
            with("/postings/1/amount", json!("1.001")),
            400,
            "invalid_amount",
            Some("/postings/1/amount"),
        ),
        (
            with(
                "/postings/1/amount",
                json!("1000000000000000000000000000000"),
            ),
            400,
            "invalid_amount",
            Some("/postings/1/amount"),
        ),
        (
            with("/postings/1/amount", json!("10000000000000.01")),
            400,
            "invalid_amount",
            Some("/postings/1/amount"),
        ),
        (
            with("/postings/1/currency", json!("XTS")),
            400,
            "unsupported_currency",
            Some("/postings/1/currency"),
        ),
        (
            with("/postings/1/direction", json!("up")),
            400,
            "invalid_request",
            Some("/postings/1/direction"),
        ),
        (
            with("/postings/1/account", json!("acc_house_cash_EUR")),
            400,
            "invalid_request",
            Some("/postings/1/account"),
        ),
        (
            with("/postings", json!([])),
            400,
            "invalid_request",
            Some("/postings"),
        ),
        (
            with("/reference", json!("x".repeat(141))),
            400,
            "invalid_request",
            Some("/reference"),
        ),
        (unknown, 400, "invalid_request", Some("/amount")),
        (payment, 400, "invalid_request", Some("/kind")),
        (
            with("/postings/1/account", json!("acc_nobody")),
            404,
            "account_not_found",
            Some("/postings/1"),
        ),
    ] {
        let key = innover_kit::ids::new_uuid();
        let (got, problem, _) =
            ask(&finance(), "POST", "/v1/entries", Some(&key), body.clone()).await;
        let told = (got, problem["code"].as_str(), problem["param"].as_str());
        assert_eq!(told, (status, Some(code), param), "{body}");
    }
    let (status, problem, _) = ask(&finance(), "POST", "/v1/entries", None, good).await;
    assert_eq!(
        (status, &problem["code"]),
        (400, &json!("idempotency_key_required"))
    );
    let (_, account, _) = ask(&finance(), "GET", "/v1/accounts/acc_m1", None, Value::Null).await;
    assert_eq!(
        (&account["balance"]["posted"], &account["version"]),
        (&json!("0.00"), &json!(0))
    );
}

#[tokio::test]
async fn who_may_not_write_or_read_is_told_the_scope() {
    let user = person("anna", "user", "wallet:read wallet:write payment:write");
    let auditor = person("audrey", "auditor", "ledger:read");
    let entry = transfer("acc_house_cash_EUR", "acc_x", "1.00");
    let as_payment = Caller {
        service: "payment",
        ..user.clone()
    };
    for (caller, method, path, body, scope) in [
        (&user, "POST", "/v1/entries", entry.clone(), "ledger:write"),
        (
            &auditor,
            "POST",
            "/v1/entries",
            entry.clone(),
            "ledger:write",
        ),
        (&as_payment, "POST", "/v1/entries", entry, "ledger:write"),
        (
            &auditor,
            "POST",
            "/v1/accounts/acc_x/close",
            Value::Null,
            "ledger:write",
        ),
        (
            &user,
            "GET",
            "/v1/trial-balance",
            Value::Null,
            "ledger:read",
        ),
        (
            &user,
            "GET",
            "/v1/accounts/acc_x",
            Value::Null,
            "ledger:read",
        ),
        (&user, "GET", "/v1/accounts", Value::Null, "ledger:read"),
    ] {
        let (status, problem, _) = ask(caller, method, path, Some("k"), body).await;
        assert_eq!(
            (status, &problem["scope"]),
            (403, &json!(scope)),
            "{method} {path}"
        );
    }
}

#[tokio::test]
async fn an_account_closes_when_it_holds_nothing() {
    open("acc_c1", "EUR").await;
    let fund = transfer("acc_house_cash_EUR", "acc_c1", "1.00");
    assert_eq!(
        ask(&finance(), "POST", "/v1/entries", Some("k-c1"), fund)
            .await
            .0,
        201
    );
    let caller = finance();
    let close = || {
        ask(
            &caller,
            "POST",
            "/v1/accounts/acc_c1/close",
            None,
            Value::Null,
        )
    };
    let (status, problem, _) = close().await;
    assert_eq!(
        (status, &problem["code"]),
        (409, &json!("invalid_state")),
        "{problem}"
    );
    let back = transfer("acc_c1", "acc_house_cash_EUR", "1.00");
    assert_eq!(
        ask(
            &finance(),
            "POST",
            "/v1/entries",
            Some("k-c2"),
            back.clone()
        )
        .await
        .0,
        201
    );
    let (status, account, _) = close().await;
    assert_eq!((status, &account["state"]), (200, &json!("closed")));
    let (status, refused, _) = ask(&finance(), "POST", "/v1/entries", Some("k-c3"), back).await;
    assert_eq!((status, &refused["code"]), (422, &json!("account_closed")));
}

#[tokio::test]
async fn twins_posted_at_once_are_one_entry() {
    open("acc_w1", "EUR").await;
    let fund = transfer("acc_house_cash_EUR", "acc_w1", "7.00");
    let answers: Vec<(u16, Value)> = std::thread::scope(|threads| {
        let twins: Vec<_> = (0..8)
            .map(|_| {
                let fund = fund.clone();
                threads.spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .build()
                        .expect("a runtime");
                    let (status, body, _) = runtime.block_on(ask(
                        &finance(),
                        "POST",
                        "/v1/entries",
                        Some("k-twin"),
                        fund,
                    ));
                    (status, body)
                })
            })
            .collect();
        twins
            .into_iter()
            .map(|twin| twin.join().expect("answered"))
            .collect()
    });
    assert!(
        answers
            .iter()
            .all(|a| a.0 == 201 && a.1["id"] == answers[0].1["id"]),
        "{answers:?}"
    );
    let (_, account, _) = ask(&finance(), "GET", "/v1/accounts/acc_w1", None, Value::Null).await;
    assert_eq!(account["balance"]["posted"], "7.00");
}

#[tokio::test]
async fn the_trial_balance_adds_up_per_currency() {
    open("acc_b1", "JPY").await;
    let fund = json!({"postings": [
        {"account": "acc_house_cash_JPY", "direction": "debit", "amount": 500, "currency": "JPY"},
        {"account": "acc_b1", "direction": "credit", "amount": "500", "currency": "JPY"},
    ]});
    let (status, entry, _) = ask(&finance(), "POST", "/v1/entries", Some("k-b1"), fund).await;
    assert_eq!(status, 201, "{entry}");
    let (status, trial, _) = ask(&finance(), "GET", "/v1/trial-balance", None, Value::Null).await;
    assert_eq!(
        (status, &trial["balanced"], &trial["differing_accounts"]),
        (200, &json!(true), &json!([]))
    );
    let rows = trial["data"].as_array().expect("rows");
    let jpy = rows
        .iter()
        .find(|row| row["currency"] == "JPY")
        .expect("JPY");
    assert_eq!(
        (&jpy["debits"], &jpy["credits"], &jpy["difference"]),
        (&json!("500"), &json!("500"), &json!("0"))
    );
    assert!(rows.iter().all(|r| {
        r["difference"]
            .as_str()
            .is_some_and(|d| d.chars().all(|c| matches!(c, '0' | '.')))
    }));
}

#[tokio::test]
async fn a_delivered_conversion_is_handled_once() {
    open("acc_d1", "NOK").await;
    open("acc_d2", "NOK").await;
    let fund = json!({"postings": [
        {"account": "acc_house_cash_NOK", "direction": "debit", "amount": "9.00", "currency": "NOK"},
        {"account": "acc_d1", "direction": "credit", "amount": "9.00", "currency": "NOK"},
    ]});
    assert_eq!(
        ask(&finance(), "POST", "/v1/entries", Some("k-d1"), fund)
            .await
            .0,
        201
    );
    let event = json!({
        "specversion": "1.0", "id": "0192f3c2-0000-7000-8000-000000000001", "source": "/innover/forex",
        "type": "forex.converted", "subject": "pay_d", "time": "2026-10-30T12:00:00Z", "partitionkey": "pay_d",
        "data": {"payment_id": "pay_d", "payer_account": "acc_d1", "payee_account": "acc_d2",
                 "source_minor": 400, "source_currency": "NOK", "target_minor": 400, "target_currency": "NOK",
                 "margin_minor": 0, "rate": "1", "rate_date": null, "exact": "4.00", "conversion_id": null},
    });
    let bridge = Caller {
        service: "bridge",
        identity: Identity {
            scope: "deliver".into(),
            ..Default::default()
        },
    };
    for _ in 0..2 {
        let (status, answer, _) = ask(&bridge, "POST", "/_events", None, event.clone()).await;
        assert_eq!(
            (status, &answer["results"][0]["status"]),
            (200, &json!(200)),
            "{answer}"
        );
    }
    let (_, account, _) = ask(&finance(), "GET", "/v1/accounts/acc_d2", None, Value::Null).await;
    assert_eq!(account["balance"]["posted"], "4.00");
}

#[tokio::test]
async fn a_payment_given_up_is_refused_for_good_and_a_booked_one_says_so() {
    let payment = Caller {
        service: "payment",
        identity: Identity::default(),
    };
    let path = "/v1/payments/pay_given_up/refuse";
    let (status, answer, _) = ask(&finance(), "POST", path, None, json!({})).await;
    assert_eq!(status, 403, "{answer}");
    let (status, answer, _) = ask(&payment, "POST", path, None, json!({})).await;
    assert_eq!((status, &answer), (200, &json!({"entry_id": null})));
    let again = ask(&payment, "POST", path, None, json!({})).await;
    assert_eq!((again.0, again.1), (200, answer), "asked again, the same");

    open("acc_gu_a", "EUR").await;
    open("acc_gu_b", "EUR").await;
    let fund = transfer("acc_house_cash_EUR", "acc_gu_a", "10.00");
    assert_eq!(
        ask(&finance(), "POST", "/v1/entries", Some("gu-fund"), fund)
            .await
            .0,
        201
    );
    let bridge = Caller {
        service: "bridge",
        identity: Identity {
            scope: service_token::SCOPE_DELIVER.into(),
            ..Default::default()
        },
    };
    let converted = |payment: &str| {
        json!({"specversion": "1.0", "id": format!("ev_{payment}"), "source": "/innover/forex",
               "type": "forex.converted", "partitionkey": payment, "time": "2026-10-30T12:00:00Z",
               "data": {"payment_id": payment, "payer_account": "acc_gu_a", "payee_account": "acc_gu_b",
                        "source_minor": 100, "source_currency": "EUR", "target_minor": 100,
                        "target_currency": "EUR", "margin_minor": 0, "rate": "1", "rate_date": null,
                        "exact": "1", "conversion_id": null}})
    };
    for id in ["pay_given_up", "pay_booked"] {
        let (status, answer, _) = ask(&bridge, "POST", "/_events", None, converted(id)).await;
        assert_eq!(
            (status, &answer["results"][0]["status"]),
            (200, &json!(200)),
            "{answer}"
        );
    }
    let (_, account, _) = ask(
        &finance(),
        "GET",
        "/v1/accounts/acc_gu_b",
        None,
        Value::Null,
    )
    .await;
    assert_eq!(
        account["balance"]["posted"], "1.00",
        "only one of the two was booked"
    );
    let (_, answer, _) = ask(
        &payment,
        "POST",
        "/v1/payments/pay_booked/refuse",
        None,
        json!({}),
    )
    .await;
    assert!(answer["entry_id"].is_string(), "{answer}");
}
