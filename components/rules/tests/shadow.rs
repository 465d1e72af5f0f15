//! A candidate in shadow: what it would have decided is counted and listed, and decides nothing.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use innover_kit::contract::Identity;
use innover_kit::testing::{Platform, Reply, person};
use serde_json::{Value, json};

fn admin() -> Identity {
    person("usr_admin", "admin", "rules:read rules:write")
}

async fn create(p: &Platform, rules: Value) -> i64 {
    let reply = p
        .call(
            &admin(),
            "POST",
            "/v1/rule-sets",
            Some(json!({"rules": rules})),
        )
        .await;
    assert_eq!(reply.status, 201, "{}", reply.body);
    reply.body["version"].as_i64().unwrap()
}

/// As payment asks; each call is a request of its own unless it has the same amount as one before,
/// since all have one request id.
async fn pay(p: &Platform, caller: &str, major: i64, version: Option<i64>) -> Value {
    let mut body = json!({"facts": {
        "amount_minor": major * 100, "amount_major": major, "amount_eur_minor": major * 100,
        "currency": "EUR", "target_currency": "EUR", "cross_currency": false,
        "payer_owner": "usr_a", "payee_owner": "usr_b", "same_owner": false}});
    if let Some(version) = version {
        body["version"] = version.into();
    }
    let reply = p
        .send_with_request_id(caller, &admin(), "/v1/evaluate", body, "req-1")
        .await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.body
}

async fn shadow(p: &Platform, method: &str, version: i64) -> Reply {
    p.call(
        &admin(),
        method,
        &format!("/v1/rule-sets/{version}/shadow"),
        None,
    )
    .await
}

fn counts(of: &Value) -> [i64; 3] {
    ["evaluated", "differing", "failed"].map(|name| of[name].as_i64().unwrap())
}

#[tokio::test]
async fn a_candidate_in_shadow_is_compared_and_decides_nothing() {
    let migration = include_str!("../migrations/0001_init.sql");
    let p = Platform::start(&rules::SERVICE, migration, &["gateway", "payment"]);
    let p = &p;
    pay(p, "payment", 1, None).await;
    let over = |limit: i64, code: &str| {
        json!({"id": code, "when": format!("facts.amount_major > {limit}"), "outcome": "review",
               "reason_codes": [code]})
    };
    // The shipped set reviews above 10,000: this one above 500, and fails from 9e16 on.
    let candidate = create(p, json!([
        over(500, "own_limit"),
        {"id": "fails", "when": "facts.amount_major * 1000 > 0", "outcome": "approve", "reason_codes": []},
    ]))
    .await;

    let started = shadow(p, "POST", candidate).await;
    assert_eq!(
        (
            started.status,
            &started.body["running"],
            counts(&started.body)
        ),
        (200, &json!(true), [0, 0, 0]),
        "{}",
        started.body
    );
    for (major, outcome) in [
        (100, "approve"),
        (600, "approve"),
        (700, "approve"),
        (20_000, "review"),
    ] {
        assert_eq!(pay(p, "payment", major, None).await["outcome"], outcome);
    }
    // Repeated by a retry: the same request, the same facts.
    pay(p, "payment", 600, None).await;
    // Tried by a person, and a version asked for: neither decides on a payment.
    pay(p, "gateway", 800, None).await;
    pay(p, "payment", 900, Some(1)).await;
    let seen = shadow(p, "GET", candidate).await;
    assert_eq!(counts(&seen.body), [4, 3, 0], "{}", seen.body);

    let path = format!("/v1/rule-sets/{candidate}/shadow/differences");
    let page = p
        .call(&admin(), "GET", &format!("{path}?limit=2"), None)
        .await;
    let newest = &page.body["data"][0];
    assert_eq!(
        (
            &newest["active_outcome"],
            &newest["active_reason_codes"],
            &newest["outcome"],
            &newest["reason_codes"],
            &newest["facts"]["amount_major"],
            &newest["error"]
        ),
        (
            &json!("review"),
            &json!(["amount_over_review_limit"]),
            &json!("review"),
            &json!(["own_limit"]),
            &json!(20_000),
            &Value::Null
        )
    );
    assert_eq!(
        newest["facts"]["payer_count_1h"], 0,
        "what was added is kept as well"
    );
    let cursor = page.body["next_cursor"].as_str().unwrap();
    let rest = p
        .call(&admin(), "GET", &format!("{path}?cursor={cursor}"), None)
        .await;
    assert_eq!(
        (
            rest.body["data"].as_array().unwrap().len(),
            &rest.body["data"][0]["facts"]["amount_major"]
        ),
        (1, &json!(600))
    );

    // A candidate that cannot decide costs the payment nothing.
    let decided = pay(p, "payment", 90_000_000_000_000_000, None).await;
    assert_eq!(decided["outcome"], "decline");
    let seen = shadow(p, "GET", candidate).await;
    assert_eq!(counts(&seen.body), [5, 4, 1]);
    let page = p.call(&admin(), "GET", &path, None).await;
    let failed = &page.body["data"][0];
    assert_eq!(
        (&failed["outcome"], &failed["reason_codes"]),
        (&Value::Null, &json!([]))
    );
    assert!(
        failed["error"].as_str().unwrap().contains("fails"),
        "{failed}"
    );

    let stopped = shadow(p, "DELETE", candidate).await;
    assert_eq!(
        (stopped.status, &stopped.body["running"]),
        (200, &json!(false))
    );
    pay(p, "payment", 601, None).await;
    assert_eq!(counts(&shadow(p, "GET", candidate).await.body), [5, 4, 1]);

    // The one that decides is not compared with itself, and activating ends its shadow.
    assert_eq!(shadow(p, "POST", 1).await.code(), "invalid_state");
    assert_eq!(shadow(p, "POST", 999).await.status, 404);
    assert_eq!(shadow(p, "POST", candidate).await.status, 200);
    assert_eq!(
        shadow(p, "POST", candidate).await.status,
        200,
        "again changes nothing"
    );
    let path = format!("/v1/rule-sets/{candidate}/activate");
    assert_eq!(p.call(&admin(), "POST", &path, None).await.status, 200);
    assert_eq!(shadow(p, "GET", candidate).await.body["running"], false);
    assert_eq!(pay(p, "payment", 602, None).await["outcome"], "review");
    assert_eq!(counts(&shadow(p, "GET", candidate).await.body), [5, 4, 1]);

    let reader = person("usr_r", "auditor", "rules:read");
    for method in ["POST", "DELETE"] {
        let path = format!("/v1/rule-sets/{candidate}/shadow");
        let reply = p.call(&reader, method, &path, None).await;
        assert_eq!(
            (reply.status, &reply.body["scope"]),
            (403, &json!("rules:write"))
        );
    }

    let events = p.rows("SELECT type, payload FROM outbox ORDER BY id");
    let told: Vec<Value> = events
        .iter()
        .filter(|event| event[0] == "rules.shadow_changed")
        .map(|event| serde_json::from_str::<Value>(&event[1]).unwrap()["version"].clone())
        .collect();
    assert_eq!(
        told,
        [json!(candidate), Value::Null, json!(candidate), Value::Null]
    );
    let schemas = [
        (
            "rules.shadow_changed",
            include_str!("../../../schemas/rules.shadow_changed/v1.json"),
        ),
        (
            "rules.activated",
            include_str!("../../../schemas/rules.activated/v1.json"),
        ),
    ];
    for (kind, schema) in schemas {
        let schema = jsonschema::validator_for(&serde_json::from_str(schema).unwrap()).unwrap();
        let of_kind: Vec<_> = events.iter().filter(|event| event[0] == kind).collect();
        assert!(!of_kind.is_empty(), "{kind}");
        for event in of_kind {
            let data: Value = serde_json::from_str(&event[1]).unwrap();
            let faults: Vec<String> = schema.iter_errors(&data).map(|e| e.to_string()).collect();
            assert!(faults.is_empty(), "{kind}: {faults:?}");
        }
    }
}
