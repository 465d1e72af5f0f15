//! Every event on the bus against its schema in `schemas/<type>/v1.json`.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use innover_manifest::Manifest;
use innover_tests::{PATIENCE, Platform, repository};
use jsonschema::Validator;
use reqwest::Method;
use serde_json::{Value, json};

fn schemas() -> BTreeMap<String, Validator> {
    let folders = std::fs::read_dir(repository().join("schemas")).unwrap();
    folders
        .map(|folder| {
            let folder = folder.unwrap();
            let kind = folder.file_name().into_string().unwrap();
            let text = std::fs::read_to_string(folder.path().join("v1.json")).unwrap();
            let schema: Value = serde_json::from_str(&text).unwrap();
            let id = schema["$id"].as_str().unwrap();
            assert!(id.contains(&kind), "{id} is the schema of {kind}");
            let validator = jsonschema::options()
                .should_validate_formats(true)
                .with_draft(jsonschema::Draft::Draft202012)
                .build(&schema)
                .unwrap_or_else(|e| panic!("{kind}: {e}"));
            (kind, validator)
        })
        .collect()
}

fn audited() -> BTreeSet<String> {
    let text = std::fs::read_to_string(repository().join("spin.toml")).unwrap();
    let manifest = Manifest::parse(&text).unwrap();
    let audit = &manifest.components["audit"].innover;
    audit.subscribes.iter().cloned().collect()
}

/// What the services do for people: payments that complete, fail, wait and are declined, refunds,
/// a case, a profile, rules, an account, an item.
async fn main_flows(p: &Platform) {
    let payer = p.funded("user", "50000.00", "EUR").await;
    let payee = p.wallet("finance", "USD").await;
    let paid = p.pay("user", &payer, &payee, "100.00", "EUR").await.id();
    assert_eq!(p.settled(&paid).await["state"], "completed");
    let refund = json!({"payment_id": paid, "amount": "40.00", "currency": "EUR"});
    let refund = p.post("finance", "/api/refund/v1/refunds", refund).await;
    assert_eq!(refund.status, 202, "{}", refund.text);
    let poor = p.wallet("user", "EUR").await;
    let failed = p.pay("user", &poor, &payee, "1.00", "EUR").await.id();
    assert_eq!(p.settled(&failed).await["state"], "failed");
    let too_much = p.pay("user", &payer, &payee, "50000.01", "EUR").await;
    assert_eq!(too_much.json["state"], "declined", "{}", too_much.text);
    for decision in ["approve", "decline"] {
        let waits = p.pay("user", &payer, &payee, "20000.00", "EUR").await;
        assert_eq!(waits.json["state"], "review", "{}", waits.text);
        let path = format!("/api/payment/v1/payments/{}/decision", waits.id());
        let body = json!({ "decision": decision });
        assert_eq!(p.post("finance", &path, body).await.status, 200);
        p.settled(&waits.id()).await;
    }
    let held = json!({"amount": "10.00", "currency": "EUR"});
    let path = format!("/api/wallet/v1/wallets/{payer}/holds");
    let held = p.post("user", &path, held).await;
    assert_eq!(held.status, 201, "{}", held.text);
    let path = format!("/api/wallet/v1/holds/{}/capture", held.id());
    let part = json!({"amount": "4.00"});
    assert_eq!(p.post("finance", &path, part).await.status, 200);
    let case = p
        .post("analyst", "/v2/cases", json!({"title": "By hand"}))
        .await;
    let at = |what: &str| format!("/v1/cases/{}/{what}", case.id());
    assert_eq!(p.post("analyst", &at("start"), json!({})).await.status, 200);
    let comment = json!({"body": "seen"});
    assert_eq!(
        p.post("analyst", &at("comments"), comment).await.status,
        201
    );
    let decision = json!({"decision": "reject", "reason": "seen"});
    assert_eq!(
        p.post("analyst", &at("decision"), decision).await.status,
        200
    );
    let profile = p.request("user", Method::PUT, "/api/profile/v1/profiles/me");
    let profile = profile
        .await
        .json(&json!({"display_name": "Ada"}))
        .send()
        .await;
    assert!(profile.status < 300, "{}", profile.text);
    let item = p
        .post("user", "/api/v1/items", json!({"name": "lamp"}))
        .await;
    assert_eq!(item.status, 201, "{}", item.text);
    let active = p.get("admin", "/api/rules/v1/rule-sets/active").await;
    let again = json!({"rules": active.json["rules"], "activate": true});
    let again = p.post("admin", "/api/rules/v1/rule-sets", again).await;
    assert_eq!(again.status, 201, "{}", again.text);
}

/// The events on the bus, once all subscribers have had them and nothing is in an outbox.
async fn on_the_bus(p: &Platform) -> Vec<Value> {
    let deadline = Instant::now() + PATIENCE;
    let mut seen = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let bus = rusqlite::Connection::open(p.state().join("bridge.db")).unwrap();
        let mut statement = bus
            .prepare("SELECT envelope FROM event_log ORDER BY seq")
            .unwrap();
        let events: Vec<Value> = statement
            .query_map([], |row| row.get::<_, String>(0))
            .unwrap()
            .map(|text| serde_json::from_str(&text.unwrap()).unwrap())
            .collect();
        if events.len() == seen && seen > 0 {
            return events;
        }
        seen = events.len();
        assert!(Instant::now() < deadline, "the bus does not get quiet");
    }
}

#[tokio::test]
async fn every_event_of_the_main_flows_fits_its_schema_and_every_type_has_one() {
    let p = Platform::start().await;
    main_flows(&p).await;
    let schemas = schemas();
    let mut without = BTreeSet::new();
    let mut unfit = Vec::new();
    let mut seen = BTreeSet::new();
    let mut parts = Vec::new();
    for event in on_the_bus(&p).await {
        let kind = event["type"].as_str().unwrap();
        assert_eq!(event["dataschema"], format!("/schemas/{kind}/v1.json"));
        seen.insert(kind.to_owned());
        if kind == "ledger.posted" && event["data"]["transfer_id"].is_string() {
            parts.push(event["data"]["transfer_minor"].clone());
        }
        let Some(schema) = schemas.get(kind) else {
            without.insert(kind.to_owned());
            continue;
        };
        for error in schema.iter_errors(&event["data"]) {
            unfit.push(format!("{kind}{}: {error}", error.instance_path()));
        }
    }
    assert!(unfit.is_empty(), "{unfit:#?}");
    assert_eq!(parts, [400], "the part of a hold that was captured");
    assert!(
        without.is_empty(),
        "types on the bus without a schema: {without:?}"
    );
    for kind in [
        "payment.completed",
        "ledger.posted",
        "case.decided",
        "item.created",
    ] {
        assert!(
            seen.contains(kind),
            "the flows never made a {kind}: {seen:?}"
        );
    }
}

#[test]
fn the_trail_is_told_of_every_type_there_is_a_schema_of() {
    let kinds: BTreeSet<String> = schemas().into_keys().collect();
    let missing: Vec<_> = kinds.difference(&audited()).cloned().collect();
    assert!(
        missing.is_empty(),
        "add them to audit's `subscribes` in spin.toml: {missing:?}"
    );
}

#[test]
fn every_type_the_trail_is_told_of_has_a_schema() {
    let kinds: BTreeSet<String> = schemas().into_keys().collect();
    let missing: Vec<_> = audited().difference(&kinds).cloned().collect();
    assert!(
        missing.is_empty(),
        "write schemas/<type>/v1.json for them: {missing:?}"
    );
}
