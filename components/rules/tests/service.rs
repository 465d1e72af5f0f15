//! The service as its callers see it: the shipped set, new versions, explanations, refusals.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use innover_kit::contract::Identity;
use innover_kit::testing::{Platform, person};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

static PLATFORM: OnceCell<Platform> = OnceCell::const_new();

async fn platform() -> &'static Platform {
    PLATFORM
        .get_or_init(|| async {
            let migration = include_str!("../migrations/0001_init.sql");
            Platform::start(
                &rules::SERVICE,
                migration,
                &["gateway", "payment", "wallet"],
            )
        })
        .await
}

fn admin() -> Identity {
    person("usr_admin", "admin", "rules:read rules:write")
}

fn facts(currency: &str, major: i64, eur_minor: Option<i64>) -> Value {
    let mut facts = json!({
        "amount_minor": major * 100, "amount_major": major, "currency": currency,
        "target_currency": currency, "cross_currency": false, "payer_owner": "usr_a",
        "payee_owner": "usr_b", "same_owner": false,
    });
    if let Some(eur) = eur_minor {
        facts["amount_eur_minor"] = eur.into();
    }
    facts
}

async fn evaluate(facts: Value, version: i64) -> Value {
    let body = json!({"facts": facts, "version": version}).to_string();
    let reply = platform()
        .await
        .send(
            "payment",
            &Identity::default(),
            "POST",
            "/v1/evaluate",
            Some(body),
            None,
        )
        .await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.body
}

#[tokio::test]
async fn the_shipped_set_declines_above_50_000_and_reviews_above_10_000_euro() {
    platform()
        .await
        .call(&admin(), "GET", "/v1/rule-sets/active", None)
        .await;
    for (eur_minor, outcome, reasons) in [
        (Some(100), "approve", json!([])),
        (Some(1_000_000), "approve", json!([])),
        (
            Some(1_000_001),
            "review",
            json!(["amount_over_review_limit"]),
        ),
        (
            Some(5_000_000),
            "review",
            json!(["amount_over_review_limit"]),
        ),
        (Some(5_000_001), "decline", json!(["amount_over_limit"])),
        (Some(i64::MAX), "decline", json!(["amount_over_limit"])),
    ] {
        let decision = evaluate(facts("EUR", 1, eur_minor), 1).await;
        assert_eq!(
            (&decision["outcome"], &decision["reason_codes"]),
            (&json!(outcome), &reasons),
            "{eur_minor:?}"
        );
    }
    let small = evaluate(facts("KWD", 1_000, None), 1).await;
    assert_eq!(small["outcome"], "approve");
    let large = evaluate(facts("KWD", 1_001, None), 1).await;
    assert_eq!(
        (&large["outcome"], &large["reason_codes"]),
        (&json!("review"), &json!(["no_eur_equivalent"]))
    );
}

#[tokio::test]
async fn a_decision_explains_itself_with_all_that_matched_and_their_values() {
    platform()
        .await
        .call(&admin(), "GET", "/v1/rule-sets/active", None)
        .await;
    let decision = evaluate(facts("EUR", 60_000, Some(6_000_000)), 1).await;
    assert_eq!(decision["score"], 150);
    assert_eq!(
        decision["matched"],
        json!([
            {"rule": "amount_over_limit", "outcome": "decline", "reason_codes": ["amount_over_limit"],
             "values": {"amount_eur_minor": 6_000_000}},
            {"rule": "amount_over_review_limit", "outcome": "review",
             "reason_codes": ["amount_over_review_limit"], "values": {"amount_eur_minor": 6_000_000}},
        ])
    );
    let absent = evaluate(facts("KWD", 2_000, None), 1).await;
    assert_eq!(
        absent["matched"][0]["values"],
        json!({"amount_eur_minor": null, "amount_major": 2_000})
    );
}

#[tokio::test]
async fn a_new_version_decides_once_it_is_activated_and_an_older_one_can_come_back() {
    let platform = platform().await;
    let rule = |limit: i64| {
        json!({"id": "own_limit", "when": format!("facts.amount_major > {limit}"), "outcome": "decline",
               "reason_codes": ["own_limit"], "weight": 7})
    };
    let created = platform
        .call(
            &admin(),
            "POST",
            "/v1/rule-sets",
            Some(json!({"description": "lower", "rules": [rule(5)]})),
        )
        .await;
    assert_eq!(
        (created.status, &created.body["active"]),
        (201, &json!(false)),
        "{}",
        created.body
    );
    let version = created.body["version"].as_i64().unwrap();
    let body = || Some(json!({"facts": facts("EUR", 6, Some(600))}));
    let before = platform
        .call(&admin(), "POST", "/v1/evaluate", body())
        .await;
    assert_eq!(
        before.body["outcome"], "approve",
        "it does not decide before it is activated"
    );
    let path = format!("/v1/rule-sets/{version}/activate");
    let activated = platform.call(&admin(), "POST", &path, None).await;
    assert_eq!(activated.status, 200, "{}", activated.body);
    let after = platform
        .call(&admin(), "POST", "/v1/evaluate", body())
        .await;
    assert_eq!(
        (&after.body["outcome"], &after.body["version"]),
        (&json!("decline"), &json!(version))
    );
    let listed = platform
        .call(&admin(), "GET", "/v1/rule-sets?limit=1", None)
        .await;
    assert!(listed.body["next_cursor"].is_string());
    let again = platform
        .call(&admin(), "POST", "/v1/rule-sets/1/activate", None)
        .await;
    assert_eq!(again.body["version"], 1);
    let active = platform
        .call(&admin(), "GET", "/v1/rule-sets/active", None)
        .await;
    assert_eq!(
        (&active.body["version"], &active.body["active"]),
        (&json!(1), &json!(true))
    );
    let events = platform.rows("SELECT type, payload FROM outbox ORDER BY key_version");
    assert_eq!(events.len(), 2);
    assert_eq!(events[0][0], "rules.activated");
}

#[tokio::test]
async fn a_rule_set_that_is_not_acceptable_stores_nothing() {
    let platform = platform().await;
    let good = json!({"id": "a", "when": "true", "outcome": "review", "reason_codes": ["a"]});
    let with = |name: &str, value: Value| {
        let mut rule = good.clone();
        rule[name] = value;
        rule
    };
    let before = platform.rows("SELECT COUNT(*) FROM rule_sets WHERE created_by = 'usr_x'");
    for (rules, status, code, param) in [
        (json!([]), 422, "invalid_rule", "/rules"),
        (json!([good, good]), 422, "invalid_rule", "/rules/1/id"),
        (
            json!([with("id", json!("A B"))]),
            422,
            "invalid_rule",
            "/rules/0/id",
        ),
        (
            json!([good, with("when", json!("facts.nope > 1"))]),
            422,
            "invalid_rule",
            "/rules/1/id",
        ),
        (
            json!([with("when", json!("facts.nope > 1"))]),
            422,
            "invalid_rule",
            "/rules/0/when",
        ),
        (
            json!([with("when", json!("facts.currency > 1"))]),
            422,
            "invalid_rule",
            "/rules/0/when",
        ),
        (
            json!([with("when", json!("facts.amount_minor"))]),
            422,
            "invalid_rule",
            "/rules/0/when",
        ),
        (
            json!([with("reason_codes", json!([]))]),
            422,
            "invalid_rule",
            "/rules/0/reason_codes",
        ),
        (
            json!([with("weight", json!(-1))]),
            422,
            "invalid_rule",
            "/rules/0/weight",
        ),
        (
            json!([with("outcome", json!("maybe"))]),
            400,
            "invalid_request",
            "/rules/0/outcome",
        ),
        (
            json!([with("colour", json!("red"))]),
            400,
            "invalid_request",
            "/rules/0/colour",
        ),
    ] {
        let body = json!({"rules": rules});
        let reply = platform
            .call(
                &person("usr_x", "admin", "rules:write"),
                "POST",
                "/v1/rule-sets",
                Some(body),
            )
            .await;
        assert_eq!(
            (reply.status, reply.code()),
            (status, code),
            "{rules}: {}",
            reply.body
        );
        assert_eq!(reply.body["param"], param, "{rules}: {}", reply.body);
    }
    assert_eq!(
        platform.rows("SELECT COUNT(*) FROM rule_sets WHERE created_by = 'usr_x'"),
        before
    );
}

#[tokio::test]
async fn a_rule_that_cannot_be_computed_fails_the_evaluation_and_names_itself() {
    let platform = platform().await;
    let rules = json!([
        {"id": "always", "when": "true", "outcome": "decline", "reason_codes": ["always"]},
        {"id": "doubling", "when": "facts.amount_minor * 2 > 0 || true", "outcome": "review", "reason_codes": ["d"]},
    ]);
    let created = platform
        .call(
            &admin(),
            "POST",
            "/v1/rule-sets",
            Some(json!({"rules": rules})),
        )
        .await;
    let mut facts = facts("EUR", 1, None);
    facts["amount_minor"] = i64::MAX.into();
    let body = json!({"facts": facts, "version": created.body["version"]});
    let reply = platform
        .call(&admin(), "POST", "/v1/evaluate", Some(body))
        .await;
    assert_eq!((reply.status, reply.code()), (422, "evaluation_failed"));
    assert!(
        reply.body["detail"]
            .as_str()
            .unwrap()
            .contains("rule `doubling`"),
        "{}",
        reply.body
    );
}

#[tokio::test]
async fn facts_that_do_not_fit_are_refused_by_name() {
    let platform = platform().await;
    for (name, value) in [
        ("amount_minor", json!(1.5)),
        ("colour", json!("red")),
        ("currency", Value::Null),
    ] {
        let mut facts = facts("EUR", 1, None);
        facts[name] = value;
        let reply = platform
            .call(
                &admin(),
                "POST",
                "/v1/evaluate",
                Some(json!({"facts": facts})),
            )
            .await;
        assert_eq!((reply.status, reply.code()), (400, "invalid_request"));
        assert_eq!(reply.body["param"], format!("/facts/{name}"));
    }
}

#[tokio::test]
async fn only_payment_and_readers_evaluate_and_only_writers_change() {
    let platform = platform().await;
    let body = json!({"facts": facts("EUR", 1, None)}).to_string();
    let nobody = person("usr_u", "user", "wallet:read");
    for caller in ["gateway", "wallet"] {
        let reply = platform
            .send(
                caller,
                &nobody,
                "POST",
                "/v1/evaluate",
                Some(body.clone()),
                None,
            )
            .await;
        assert_eq!(
            (reply.status, reply.code()),
            (403, "insufficient_scope"),
            "{caller}"
        );
    }
    let reply = platform
        .send("payment", &nobody, "POST", "/v1/evaluate", Some(body), None)
        .await;
    assert_eq!(reply.status, 200);
    let reader = person("usr_r", "auditor", "rules:read");
    let rules =
        json!({"rules": [{"id": "a", "when": "true", "outcome": "approve", "reason_codes": []}]});
    let refused = platform
        .call(&reader, "POST", "/v1/rule-sets", Some(rules))
        .await;
    assert_eq!(refused.body["scope"], "rules:write");
    assert_eq!(
        platform
            .call(&reader, "POST", "/v1/rule-sets/1/activate", None)
            .await
            .status,
        403
    );
    assert_eq!(
        platform
            .call(&reader, "GET", "/v1/rule-sets/999999", None)
            .await
            .status,
        404
    );
    assert_eq!(
        platform
            .call(&reader, "GET", "/v1/rule-sets/x", None)
            .await
            .status,
        404
    );
}

#[tokio::test]
async fn one_key_makes_one_version() {
    let platform = platform().await;
    let body = json!({"description": "once", "rules": [
        {"id": "a", "when": "true", "outcome": "approve", "reason_codes": []}]})
    .to_string();
    let post = |body: String| async move {
        platform
            .send(
                "gateway",
                &admin(),
                "POST",
                "/v1/rule-sets",
                Some(body),
                Some("key-1"),
            )
            .await
    };
    let (first, second) = (post(body.clone()).await, post(body.clone()).await);
    assert_eq!(
        (first.status, first.replayed, second.status, second.replayed),
        (201, false, 201, true)
    );
    assert_eq!(first.body, second.body);
    assert_eq!(
        platform.rows("SELECT COUNT(*) FROM rule_sets WHERE description = 'once'"),
        [["1"]]
    );
    let other = post(body.replace("once", "twice")).await;
    assert_eq!(
        (other.status, other.code()),
        (422, "idempotency_key_reused")
    );
}
