//! Accounts, their closing, and who may see them.

use serde_json::{Value, json};

use crate::support::{Caller, ask, finance, open, person, transfer, wallet_for_a_user};

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
