//! What a payer did before, counted from payment's events.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use innover_kit::contract::{Identity, time::rfc3339};
use innover_kit::ids;
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
                &["gateway", "payment", "bridge"],
            )
        })
        .await
}

const MINUTE_US: i64 = 60_000_000;

/// An event of a payment, `age` ago.
fn event(kind: &str, payment: &str, payer: &str, eur_minor: Option<i64>, age_us: i64) -> Value {
    let mut data = json!({"payment_id": payment, "payer_owner": payer, "state": "any"});
    if let Some(minor) = eur_minor {
        data["amount_eur_minor"] = minor.into();
    }
    json!({
        "specversion": "1.0", "id": ids::new_uuid(), "source": "/innover/payment", "type": kind,
        "subject": payment, "partitionkey": payment, "time": rfc3339(ids::now_us() - age_us),
        "data": data,
    })
}

/// The statuses of a delivery.
async fn deliver(events: &[Value]) -> Vec<i64> {
    let bridge = person("bridge", "", "deliver");
    let media = "application/cloudevents-batch+json";
    let reply = platform()
        .await
        .send_as(
            "bridge",
            &bridge,
            "/_events",
            media,
            json!(events).to_string(),
        )
        .await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    let results = reply.body["results"].as_array().unwrap();
    results
        .iter()
        .map(|r| r["status"].as_i64().unwrap())
        .collect()
}

/// `[count 1h, sum 1h, count 24h, sum 24h]` of a payer, as a rule sees them.
async fn seen(payer: &str) -> [i64; 4] {
    seen_before(payer, None).await
}

/// The same before one of the payer's payments.
async fn seen_before(payer: &str, payment: Option<&str>) -> [i64; 4] {
    let created = RULES
        .get_or_init(|| async {
            let all = "payer_count_1h payer_sum_eur_minor_1h payer_count_24h payer_sum_eur_minor_24h";
            let when: Vec<String> = all.split(' ').map(|f| format!("facts.{f} >= 0")).collect();
            let rules = json!({"rules": [
                {"id": "all", "when": when.join(" && "), "outcome": "approve", "reason_codes": []}]});
            let admin = person("usr_admin", "admin", "rules:read rules:write");
            let reply = platform().await.call(&admin, "POST", "/v1/rule-sets", Some(rules)).await;
            assert_eq!(reply.status, 201, "{}", reply.body);
            reply.body["version"].as_i64().unwrap()
        })
        .await;
    let facts = json!({
        "amount_minor": 100, "amount_major": 1, "currency": "EUR", "target_currency": "EUR",
        "cross_currency": false, "payer_owner": payer, "payee_owner": "b", "same_owner": false});
    let body = json!({"facts": facts, "version": created, "payment_id": payment}).to_string();
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
    let values = &reply.body["matched"][0]["values"];
    [
        "payer_count_1h",
        "payer_sum_eur_minor_1h",
        "payer_count_24h",
        "payer_sum_eur_minor_24h",
    ]
    .map(|fact| values[fact].as_i64().unwrap())
}

static RULES: OnceCell<i64> = OnceCell::const_new();

#[tokio::test]
async fn a_payer_nobody_heard_of_has_zeros() {
    assert_eq!(seen("nobody").await, [0, 0, 0, 0]);
}

#[tokio::test]
async fn a_payment_that_is_decided_on_later_is_not_one_of_those_before_it() {
    deliver(&[
        event(
            "payment.initiated",
            "pay_again_1",
            "later",
            Some(100),
            MINUTE_US,
        ),
        event(
            "payment.review",
            "pay_again_2",
            "later",
            Some(2_000),
            MINUTE_US,
        ),
    ])
    .await;
    assert_eq!(seen("later").await, [2, 2_100, 2, 2_100]);
    assert_eq!(
        seen_before("later", Some("pay_again_2")).await,
        [1, 100, 1, 100]
    );
    assert_eq!(
        seen_before("later", Some("pay_unheard_of")).await,
        [2, 2_100, 2, 2_100]
    );
    assert_eq!(
        seen_before("other", Some("pay_again_2")).await,
        [0, 0, 0, 0]
    );
}

#[tokio::test]
async fn payments_count_in_the_windows_they_lie_in() {
    let events = [
        event("payment.initiated", "pay_w1", "windows", Some(100), 0),
        event(
            "payment.review",
            "pay_w2",
            "windows",
            Some(1_000),
            59 * MINUTE_US,
        ),
        event(
            "payment.initiated",
            "pay_w3",
            "windows",
            Some(10_000),
            61 * MINUTE_US,
        ),
        event(
            "payment.initiated",
            "pay_w4",
            "windows",
            Some(100_000),
            (24 * 60 - 1) * MINUTE_US,
        ),
        event(
            "payment.initiated",
            "pay_w5",
            "windows",
            Some(1_000_000),
            (24 * 60 + 1) * MINUTE_US,
        ),
        event("payment.initiated", "pay_w6", "somebody else", Some(7), 0),
        // Without a rate it counts, but adds nothing.
        event("payment.initiated", "pay_w7", "windows", None, 0),
    ];
    assert_eq!(deliver(&events).await, [200; 7]);
    assert_eq!(seen("windows").await, [3, 1_100, 5, 111_100]);
}

#[tokio::test]
async fn a_payment_counts_once_however_often_it_is_told() {
    let asked = event("payment.review", "pay_o1", "once", Some(50), 0);
    // Delivered twice, told again by another event when it is approved, and once more.
    let approved = event("payment.initiated", "pay_o1", "once", None, 0);
    for events in [
        vec![asked.clone()],
        vec![asked, approved.clone()],
        vec![approved],
    ] {
        assert!(deliver(&events).await.iter().all(|status| *status == 200));
    }
    assert_eq!(seen("once").await, [1, 50, 1, 50]);
}

#[tokio::test]
async fn concurrent_deliveries_of_one_event_count_it_once() {
    let asked = event("payment.initiated", "pay_c1", "twins", Some(50), 0);
    let events = std::slice::from_ref(&asked);
    let all = futures::future::join_all((0..8).map(|_| deliver(events))).await;
    assert!(all.iter().flatten().all(|status| *status == 200));
    assert_eq!(seen("twins").await, [1, 50, 1, 50]);
}

#[tokio::test]
async fn a_payment_that_ends_without_money_counts_no_more_in_whatever_order_it_is_told() {
    for (n, kind) in ["payment.declined", "payment.failed", "payment.cancelled"]
        .into_iter()
        .enumerate()
    {
        let (first, late) = (format!("pay_e{n}"), format!("pay_l{n}"));
        let asked = |payment: &str| event("payment.initiated", payment, "ends", Some(50), 0);
        let ended = |payment: &str| event(kind, payment, "ends", None, 0);
        deliver(&[asked(&first)]).await;
        deliver(&[ended(&first)]).await;
        // Told from the dead letters, after its end.
        deliver(&[ended(&late)]).await;
        deliver(&[asked(&late)]).await;
    }
    assert_eq!(seen("ends").await, [0, 0, 0, 0]);
    deliver(&[event("payment.initiated", "pay_stays", "ends", Some(9), 0)]).await;
    assert_eq!(seen("ends").await, [1, 9, 1, 9]);
}

#[tokio::test]
async fn only_payment_is_believed_and_what_does_not_fit_is_refused() {
    let mut forged = event("payment.initiated", "pay_f1", "forged", Some(50), 0);
    forged["source"] = "external".into();
    let mut broken = event("payment.initiated", "pay_f2", "forged", Some(50), 0);
    broken["data"]["payer_owner"] = Value::Null;
    let good = event("payment.initiated", "pay_f3", "forged", Some(50), 0);
    assert_eq!(deliver(&[forged, broken, good]).await, [200, 422, 200]);
    assert_eq!(seen("forged").await, [1, 50, 1, 50]);
}

#[tokio::test]
async fn a_request_may_bring_its_own_velocity_to_try_a_rule() {
    let reader = person("usr_r", "analyst", "rules:read rules:write");
    let rules = json!({"rules": [{"id": "busy", "when": "facts.payer_count_1h > 10",
        "outcome": "review", "reason_codes": ["velocity_high"]}]});
    let created = platform()
        .await
        .call(&reader, "POST", "/v1/rule-sets", Some(rules))
        .await;
    let mut facts = json!({
        "amount_minor": 100, "amount_major": 1, "currency": "EUR", "target_currency": "EUR",
        "cross_currency": false, "payer_owner": "nobody", "payee_owner": "b", "same_owner": false});
    for (count, outcome) in [
        (None, "approve"),
        (Some(10), "approve"),
        (Some(11), "review"),
    ] {
        if let Some(count) = count {
            facts["payer_count_1h"] = count.into();
        }
        let body = json!({"facts": facts, "version": created.body["version"]});
        let reply = platform()
            .await
            .call(&reader, "POST", "/v1/evaluate", Some(body))
            .await;
        assert_eq!(reply.body["outcome"], outcome, "{count:?}");
    }
}

#[tokio::test]
async fn what_no_window_reaches_is_forgotten() {
    let hours = |n: i64| n * 60 * MINUTE_US;
    deliver(&[
        event(
            "payment.initiated",
            "pay_g1",
            "forgotten",
            Some(1),
            hours(47),
        ),
        event(
            "payment.initiated",
            "pay_g2",
            "forgotten",
            Some(1),
            hours(49),
        ),
    ])
    .await;
    let job = json!({"jobs": [{"id": ids::new_uuid(), "task": "rules.forget", "args": [], "kwargs": {}}]});
    let bridge = person("bridge", "", "deliver");
    let reply = platform()
        .await
        .send(
            "bridge",
            &bridge,
            "POST",
            "/_tasks",
            Some(job.to_string()),
            None,
        )
        .await;
    assert_eq!(reply.body["results"][0]["status"], 200, "{}", reply.body);
    let kept = platform()
        .await
        .rows("SELECT payment_id FROM payments WHERE payer_owner = 'forgotten'");
    assert_eq!(kept, [["pay_g1"]]);
}
