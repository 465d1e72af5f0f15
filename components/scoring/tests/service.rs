//! The service as its callers see it, with the shipped scorer: scores, history, refusals, one key.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use innover_kit::contract::Identity;
use innover_kit::testing::{Platform, Reply, person};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

static PLATFORM: OnceCell<Platform> = OnceCell::const_new();

async fn platform() -> &'static Platform {
    PLATFORM
        .get_or_init(|| async {
            let migration = include_str!("../migrations/0001_init.sql");
            Platform::start(
                &scoring::SERVICE,
                migration,
                &["gateway", "cases", "wallet"],
            )
        })
        .await
}

fn analyst() -> Identity {
    person("usr_analyst", "analyst", "scoring:read scoring:write")
}

fn case(id: &str, features: Value) -> Value {
    json!({"case_id": id, "title": "a case", "features": features})
}

fn suspicious() -> Value {
    json!({"amount_eur_minor": 300_000, "new_payee": true, "payments_24h": 9, "hour_utc": 3,
           "payer_account_age_days": 4, "reason_codes": [], "currency": "EUR", "target_currency": "USD"})
}

async fn score(body: Value) -> Reply {
    platform()
        .await
        .call(&analyst(), "POST", "/v1/scoring", Some(body))
        .await
}

#[tokio::test]
async fn a_scored_case_is_answered_kept_and_announced_alike() {
    let reply = score(case("cas_kept", suspicious())).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    let answer = &reply.body;
    assert_eq!(
        (&answer["case_id"], &answer["model"]),
        (&json!("cas_kept"), &json!("shipped/1"))
    );
    assert!(answer["score"].as_i64().unwrap() > 500, "{answer}");
    let first = &answer["reasons"][0];
    assert!(first["code"].is_string() && first["feature"].is_string() && first["points"].is_i64());
    assert!(answer["scored_at"].as_str().unwrap().ends_with('Z'));

    let history = platform()
        .await
        .call(&analyst(), "GET", "/v1/scoring/cas_kept", None)
        .await;
    let kept = &history.body["data"][0];
    for field in ["case_id", "score", "reasons", "model", "scored_at"] {
        assert_eq!(kept[field], answer[field], "{field}");
    }
    assert_eq!(
        (
            &kept["features"],
            &kept["title"],
            &kept["scored_by"],
            &kept["version"]
        ),
        (
            &suspicious(),
            &json!("a case"),
            &json!("usr_analyst"),
            &json!(1)
        )
    );
    let events = platform()
        .await
        .rows("SELECT type, key_version, payload FROM outbox WHERE key = 'cas_kept'");
    assert_eq!(
        (events.len(), events[0][0].as_str(), events[0][1].as_str()),
        (1, "score_updated", "1")
    );
    let event: Value = serde_json::from_str(&events[0][2]).unwrap();
    let schema = include_str!("../../../schemas/score_updated/v1.json");
    let schema = jsonschema::validator_for(&serde_json::from_str(schema).unwrap()).unwrap();
    let faults: Vec<String> = schema.iter_errors(&event).map(|e| e.to_string()).collect();
    assert!(faults.is_empty(), "{faults:?}");
    for field in ["case_id", "score", "reasons", "model", "scored_at"] {
        assert_eq!(event[field], answer[field], "{field}");
    }
}

#[tokio::test]
async fn the_history_of_a_case_is_newest_first_and_paged() {
    for amount in [100, 200, 300] {
        let reply = score(case("cas_history", json!({"amount_eur_minor": amount}))).await;
        assert_eq!(reply.status, 200);
    }
    let get = |query: String| async move {
        let path = format!("/v1/scoring/cas_history{query}");
        platform()
            .await
            .call(&analyst(), "GET", &path, None)
            .await
            .body
    };
    let first = get("?limit=2".into()).await;
    let versions = |page: &Value| -> Vec<i64> {
        let data = page["data"].as_array().unwrap();
        data.iter()
            .map(|s| s["version"].as_i64().unwrap())
            .collect()
    };
    assert_eq!(versions(&first), [3, 2]);
    let second = get(format!(
        "?cursor={}",
        first["next_cursor"].as_str().unwrap()
    ))
    .await;
    assert_eq!(
        (versions(&second), &second["next_cursor"]),
        (vec![1], &Value::Null)
    );
    let never = platform()
        .await
        .call(&analyst(), "GET", "/v1/scoring/cas_never", None)
        .await;
    assert_eq!((never.status, &never.body["data"]), (200, &json!([])));
}

#[tokio::test]
async fn scorings_of_one_case_at_the_same_moment_are_all_kept_and_counted() {
    let bodies = (0..8).map(|n| score(case("cas_race", json!({"payments_24h": n}))));
    let replies = futures::future::join_all(bodies).await;
    assert!(replies.iter().all(|reply| reply.status == 200));
    assert_eq!(
        platform()
            .await
            .rows("SELECT COUNT(*), MIN(seq), MAX(seq) FROM scorings WHERE case_id = 'cas_race'"),
        [["8", "1", "8"]]
    );
}

#[tokio::test]
async fn features_the_model_does_not_take_are_ignored_and_null_is_absent() {
    let plain = score(case("cas_ignored", json!({"amount_eur_minor": 100}))).await;
    let more = score(case(
        "cas_ignored",
        json!({"amount_eur_minor": 100, "shoe_size": 42, "colours": ["red"], "new_payee": null}),
    ))
    .await;
    assert_eq!(
        (&plain.body["score"], &plain.body["reasons"]),
        (&more.body["score"], &more.body["reasons"])
    );
    let nothing = score(case("cas_nothing", json!({}))).await;
    assert_eq!(
        (nothing.status, &nothing.body["reasons"]),
        (200, &json!([]))
    );
}

#[tokio::test]
async fn what_is_no_feature_is_refused_by_name_and_stores_nothing() {
    let many: serde_json::Map<String, Value> =
        (0..201).map(|n| (format!("f{n}"), json!(1))).collect();
    for (features, status, code, param) in [
        (
            json!({"amount_eur_minor": 1.5}),
            400,
            "invalid_request",
            "/features/amount_eur_minor",
        ),
        (
            json!({"unknown": 1.5}),
            400,
            "invalid_request",
            "/features/unknown",
        ),
        (
            json!({"unknown": {"a": 1}}),
            400,
            "invalid_request",
            "/features/unknown",
        ),
        (
            json!({"unknown": [1, "a"]}),
            400,
            "invalid_request",
            "/features/unknown",
        ),
        (
            json!({"unknown": 9_223_372_036_854_775_808_u64}),
            400,
            "invalid_request",
            "/features/unknown",
        ),
        (
            json!({"unknown": "x".repeat(1_025)}),
            400,
            "invalid_request",
            "/features/unknown",
        ),
        (
            json!({"unknown": vec![1; 201]}),
            400,
            "invalid_request",
            "/features/unknown",
        ),
        (Value::Object(many), 400, "invalid_request", "/features"),
        (json!([]), 400, "invalid_request", "/features"),
        (
            json!({"amount_eur_minor": "100"}),
            422,
            "invalid_features",
            "/features/amount_eur_minor",
        ),
        (
            json!({"new_payee": 1}),
            422,
            "invalid_features",
            "/features/new_payee",
        ),
        (
            json!({"reason_codes": [1]}),
            422,
            "invalid_features",
            "/features/reason_codes",
        ),
    ] {
        let reply = score(case("cas_refused", features.clone())).await;
        assert_eq!(
            (reply.status, reply.code(), &reply.body["param"]),
            (status, code, &json!(param)),
            "{features}: {}",
            reply.body
        );
    }
    for (body, param) in [
        (json!({"case_id": "a b", "features": {}}), "/case_id"),
        (json!({"case_id": "", "features": {}}), "/case_id"),
        (
            json!({"case_id": "cas_refused", "title": "x".repeat(501), "features": {}}),
            "/title",
        ),
        (
            json!({"case_id": "cas_refused", "features": {}, "colour": 1}),
            "/colour",
        ),
    ] {
        let reply = score(body.clone()).await;
        assert_eq!(
            (reply.status, &reply.body["param"]),
            (400, &json!(param)),
            "{body}"
        );
    }
    let stored = platform()
        .await
        .rows("SELECT COUNT(*) FROM scorings WHERE case_id = 'cas_refused'");
    assert_eq!(stored, [["0"]]);
}

#[tokio::test]
async fn one_key_makes_one_scoring() {
    let post = |body: Value| async move {
        platform()
            .await
            .send(
                "gateway",
                &analyst(),
                "POST",
                "/v1/scoring",
                Some(body.to_string()),
                Some("key-1"),
            )
            .await
    };
    let body = case("cas_once", suspicious());
    let (first, second) = (post(body.clone()).await, post(body).await);
    assert_eq!(
        (first.status, first.replayed, second.status, second.replayed),
        (200, false, 200, true)
    );
    assert_eq!(first.body, second.body);
    let stored = platform()
        .await
        .rows("SELECT COUNT(*) FROM scorings WHERE case_id = 'cas_once'");
    assert_eq!(stored, [["1"]]);
    let other = post(case("cas_once", json!({}))).await;
    assert_eq!(
        (other.status, other.code()),
        (422, "idempotency_key_reused")
    );
    assert_eq!(other.body["differing_fields"], json!(["/features"]));
}

#[tokio::test]
async fn cases_scores_on_anyones_behalf_and_others_need_the_scope() {
    let nobody = person("usr_u", "user", "wallet:read");
    let body = case("cas_scopes", json!({})).to_string();
    let send = |caller: &'static str, who: Identity, method: &'static str, path: &'static str| {
        let body = (method == "POST").then(|| body.clone());
        async move {
            platform()
                .await
                .send(caller, &who, method, path, body, None)
                .await
        }
    };
    for caller in ["gateway", "wallet"] {
        let reply = send(caller, nobody.clone(), "POST", "/v1/scoring").await;
        assert_eq!(
            (reply.status, &reply.body["scope"]),
            (403, &json!("scoring:write")),
            "{caller}"
        );
    }
    for path in ["/v1/scoring/cas_scopes", "/v1/features"] {
        let reply = send("gateway", nobody.clone(), "GET", path).await;
        assert_eq!(
            (reply.status, &reply.body["scope"]),
            (403, &json!("scoring:read")),
            "{path}"
        );
    }
    let reader = person("usr_r", "auditor", "scoring:read");
    assert_eq!(
        send("gateway", reader, "POST", "/v1/scoring").await.status,
        403
    );
    assert_eq!(
        send("cases", nobody, "POST", "/v1/scoring").await.status,
        200
    );
    // A job of cases works for nobody.
    assert_eq!(
        send("cases", Identity::default(), "POST", "/v1/scoring")
            .await
            .status,
        200
    );
    assert_eq!(
        send("cases", Identity::default(), "GET", "/v1/features")
            .await
            .status,
        200
    );
    let by = platform()
        .await
        .rows("SELECT scored_by FROM scorings WHERE case_id = 'cas_scopes' ORDER BY seq");
    assert_eq!(by, [["usr_u"], ["cases"]]);
}

#[tokio::test]
async fn the_features_are_those_of_the_plugged_model() {
    let reply = platform()
        .await
        .call(&analyst(), "GET", "/v1/features", None)
        .await;
    let features = reply.body["data"].as_array().unwrap();
    assert_eq!(features.len(), 12);
    assert_eq!(
        features[0],
        json!({"name": "amount_eur_minor", "type": "integer", "required": false})
    );
}
