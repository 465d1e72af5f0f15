//! `payment.initiated` in, `forex.converted` or `forex.rejected` out, on the shipped rates.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use innover_kit::testing::Platform;
use innover_kit::{config, contract::Identity};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

static PLATFORM: OnceCell<Platform> = OnceCell::const_new();

async fn platform() -> &'static Platform {
    PLATFORM
        .get_or_init(|| async {
            config::set("fx_margin_bps", "0");
            config::set("rates_max_age_days", "36500");
            Platform::start(
                &forex::SERVICE,
                include_str!("../migrations/0001_init.sql"),
                &["gateway", "bridge"],
            )
        })
        .await
}

fn initiated(id: &str, payment: &str, minor: i64, from: &str, to: &str) -> Value {
    json!({
        "specversion": "1.0", "id": id, "source": "/innover/payment", "type": "payment.initiated",
        "subject": payment, "time": "2026-10-30T12:00:00Z", "partitionkey": payment,
        "data": {
            "payment_id": payment, "payer_wallet": "wal_a", "payee_wallet": "wal_b",
            "payer_account": "acc_wal_a", "payee_account": "acc_wal_b", "source_minor": minor,
            "source_currency": from, "target_currency": to, "reference": "r",
        },
    })
}

/// Delivers events as the bridge does and returns the status of each.
async fn deliver(events: &[Value]) -> Vec<u64> {
    let bridge = Identity {
        scope: "deliver".into(),
        ..Identity::default()
    };
    let platform = platform().await;
    let mut statuses = Vec::new();
    for event in events {
        let reply = platform
            .send(
                "bridge",
                &bridge,
                "POST",
                "/_events",
                Some(event.to_string()),
                None,
            )
            .await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        statuses.push(reply.body["results"][0]["status"].as_u64().unwrap());
    }
    statuses
}

/// What was put on the outbox for a payment, as (type, payload).
async fn emitted(payment: &str) -> Vec<(String, Value)> {
    let sql = format!("SELECT type, payload FROM outbox WHERE key = '{payment}' ORDER BY rowid");
    let rows = platform().await.rows(&sql);
    rows.into_iter()
        .map(|r| (r[0].clone(), serde_json::from_str(&r[1]).unwrap()))
        .collect()
}

#[tokio::test]
async fn eur_33_33_becomes_usd_37_23_and_the_exact_product_is_kept() {
    assert_eq!(
        deliver(&[initiated("e1", "pay_1", 3333, "EUR", "USD")]).await,
        [200]
    );
    let out = emitted("pay_1").await;
    assert_eq!(out.len(), 1);
    let (kind, data) = &out[0];
    assert_eq!(kind, "forex.converted");
    let conversion = data["conversion_id"].as_str().unwrap().to_owned();
    let expected = json!({
        "payment_id": "pay_1", "payer_account": "acc_wal_a", "payee_account": "acc_wal_b",
        "source_minor": 3333, "source_currency": "EUR", "target_minor": 3723,
        "target_currency": "USD", "margin_minor": 0, "rate": "1.1172", "rate_date": "2026-10-30",
        "exact": "37.236276", "conversion_id": conversion,
    });
    assert_eq!(data, &expected);
    let rows = platform().await.rows(
        "SELECT id, source_minor, target_minor, exact, rate_date FROM conversions WHERE payment_id = 'pay_1'",
    );
    assert_eq!(
        rows,
        [[
            conversion.as_str(),
            "3333",
            "3723",
            "37.236276",
            "2026-10-30"
        ]]
    );
}

#[tokio::test]
async fn one_currency_passes_unchanged_and_is_no_conversion() {
    deliver(&[initiated("e2", "pay_2", 500, "JPY", "JPY")]).await;
    let out = emitted("pay_2").await;
    assert_eq!(out[0].0, "forex.converted");
    let data = &out[0].1;
    assert_eq!(data["target_minor"], 500);
    assert_eq!(
        (&data["rate"], &data["rate_date"]),
        (&json!("1"), &Value::Null)
    );
    assert_eq!(
        (&data["exact"], &data["conversion_id"]),
        (&json!("500"), &Value::Null)
    );
    assert!(
        platform()
            .await
            .rows("SELECT id FROM conversions WHERE payment_id = 'pay_2'")
            .is_empty()
    );
}

#[tokio::test]
async fn what_cannot_be_converted_is_rejected_with_its_reason() {
    for (at, (minor, from, to, code)) in [
        (1_000, "EUR", "KWD", "no_rate"),
        (1_000, "KWD", "EUR", "no_rate"),
        (1, "IDR", "EUR", "amount_too_small"),
        (0, "EUR", "USD", "invalid_amount"),
        (-5, "EUR", "EUR", "invalid_amount"),
        (100, "EUR", "XXX", "unsupported_currency"),
        (100, "BGN", "EUR", "unsupported_currency"),
        (i64::MAX, "EUR", "IDR", "invalid_amount"),
    ]
    .into_iter()
    .enumerate()
    {
        let payment = format!("pay_refused_{at}");
        deliver(&[initiated(&format!("r{at}"), &payment, minor, from, to)]).await;
        let out = emitted(&payment).await;
        assert_eq!(
            (out.len(), out[0].0.as_str()),
            (1, "forex.rejected"),
            "{minor} {from}→{to}"
        );
        assert_eq!(out[0].1["code"], code, "{minor} {from}→{to}: {}", out[0].1);
    }
}

#[tokio::test]
async fn an_event_delivered_twice_takes_effect_once() {
    let event = initiated("e3", "pay_3", 100, "EUR", "GBP");
    assert_eq!(deliver(&[event.clone(), event]).await, [200, 200]);
    assert_eq!(emitted("pay_3").await.len(), 1);
}

#[tokio::test]
async fn a_payment_initiated_again_gets_the_conversion_it_has() {
    let events = [
        initiated("e4", "pay_4", 100, "USD", "JPY"),
        initiated("e5", "pay_4", 100, "USD", "JPY"),
    ];
    deliver(&events).await;
    let out = emitted("pay_4").await;
    assert_eq!(out.len(), 2);
    assert_eq!(out[0].1, out[1].1);
    assert_eq!(
        platform()
            .await
            .rows("SELECT id FROM conversions WHERE payment_id = 'pay_4'")
            .len(),
        1
    );
}

#[tokio::test]
async fn an_event_that_payment_did_not_emit_moves_nothing() {
    let mut event = initiated("e6", "pay_6", 100, "EUR", "USD");
    event["source"] = json!("external");
    assert_eq!(deliver(&[event]).await, [200]);
    assert!(emitted("pay_6").await.is_empty());
}

#[tokio::test]
async fn a_hundred_events_are_one_delivery_with_an_answer_each() {
    let bridge = Identity {
        scope: "deliver".into(),
        ..Identity::default()
    };
    let mut events: Vec<Value> = (0..100)
        .map(|n| {
            initiated(
                &format!("b{n}"),
                &format!("pay_b{n}"),
                100 + n,
                "USD",
                "JPY",
            )
        })
        .collect();
    events[7]["data"] = json!({"payment_id": "pay_b7"});
    let platform = platform().await;
    let token_call = platform
        .send_as(
            "bridge",
            &bridge,
            "/_events",
            "application/cloudevents-batch+json",
            Value::from(events).to_string(),
        )
        .await;
    let results = token_call.body["results"].as_array().unwrap();
    let refused: Vec<&Value> = results.iter().filter(|r| r["status"] != 200).collect();
    assert_eq!((results.len(), refused.len()), (100, 1));
    assert_eq!(
        (&refused[0]["id"], &refused[0]["status"]),
        (&json!("b7"), &json!(422))
    );
    let stored = platform.rows("SELECT COUNT(*) FROM conversions WHERE payment_id LIKE 'pay_b%'");
    assert_eq!(stored, [["99"]]);
}

#[tokio::test]
async fn a_quote_holds_its_price_for_the_payment_that_names_it_and_for_no_other() {
    let payer = innover_kit::testing::person("usr_1", "user", "payment:write");
    let body = json!({"from": "EUR", "to": "CHF", "amount": "10.00"});
    let quote = platform()
        .await
        .call(&payer, "POST", "/v1/quotes", Some(body))
        .await;
    assert_eq!(quote.status, 201, "{}", quote.body);
    let id = quote.body["id"].as_str().unwrap();
    let naming = |event: &str, payment: &str, minor: i64, quote: &str, time: &str| {
        let mut event = initiated(event, payment, minor, "EUR", "CHF");
        event["data"]["quote_id"] = quote.into();
        event["data"]["created_by"] = "usr_1".into();
        event["time"] = time.into();
        event
    };
    let in_time = quote.body["created_at"].as_str().unwrap();
    for (at, (event, code)) in [
        (
            naming("q1", "pay_q1", 1_000, "quo_none", in_time),
            "quote_not_found",
        ),
        (naming("q2", "pay_q2", 1_001, id, in_time), "quote_mismatch"),
        (
            naming("q3", "pay_q3", 1_000, id, "2099-01-01T00:00:00Z"),
            "quote_expired",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        deliver(&[event]).await;
        let out = emitted(&format!("pay_q{}", at + 1)).await;
        assert_eq!(
            (out[0].0.as_str(), &out[0].1["code"]),
            ("forex.rejected", &json!(code))
        );
    }
    deliver(&[
        naming("q4", "pay_q4", 1_000, id, in_time),
        naming("q5", "pay_q5", 1_000, id, in_time),
    ])
    .await;
    let (used, refused) = (emitted("pay_q4").await, emitted("pay_q5").await);
    assert_eq!(
        (used[0].0.as_str(), refused[0].0.as_str()),
        ("forex.converted", "forex.rejected")
    );
    assert_eq!(refused[0].1["code"], "quote_used");
    let conversion = used[0].1["conversion_id"].as_str().unwrap();
    let read = platform()
        .await
        .call(&payer, "GET", &format!("/v1/quotes/{id}"), None)
        .await;
    assert_eq!(
        (&read.body["state"], &read.body["conversion_id"]),
        (&json!("used"), &json!(conversion))
    );
    let auditor = innover_kit::testing::person("usr_a", "auditor", "forex:read");
    let read = platform()
        .await
        .call(
            &auditor,
            "GET",
            &format!("/v1/conversions/{conversion}"),
            None,
        )
        .await;
    assert_eq!(
        (&read.body["quote_id"], &read.body["payment_id"]),
        (&json!(id), &json!("pay_q4"))
    );
}

/// A quote of `usr_1` from EUR to `to`; its id.
async fn quoted(to: &str, amount: &str, side: &str) -> Value {
    let payer = innover_kit::testing::person("usr_1", "user", "payment:write");
    let body = json!({"from": "EUR", "to": to, "amount": amount, "amount_side": side});
    let quote = platform()
        .await
        .call(&payer, "POST", "/v1/quotes", Some(body))
        .await;
    assert_eq!(quote.status, 201, "{}", quote.body);
    quote.body
}

fn with_quote(payment: &str, minor: i64, to: &str, quote: &Value) -> Value {
    let mut event = initiated(payment, payment, minor, "EUR", to);
    event["data"]["quote_id"] = quote["id"].clone();
    event["data"]["created_by"] = "usr_1".into();
    event["time"] = quote["created_at"].clone();
    event
}

#[tokio::test]
async fn a_quote_is_its_owners_alone() {
    let quote = quoted("SEK", "10.00", "source").await;
    let mut stranger = with_quote("pay_stranger", 1_000, "SEK", &quote);
    stranger["data"]["created_by"] = "usr_2".into();
    stranger["data"]["payer_owner"] = "usr_2".into();
    let mut nobody = with_quote("pay_nobody", 1_000, "SEK", &quote);
    nobody["data"]["created_by"] = "".into();
    deliver(&[stranger, nobody]).await;
    for payment in ["pay_stranger", "pay_nobody"] {
        assert_eq!(emitted(payment).await[0].1["code"], "quote_not_found");
    }
    // Whoever pays for the owner of the wallet uses the owner's.
    let mut finance = with_quote("pay_for_owner", 1_000, "SEK", &quote);
    finance["data"]["created_by"] = "usr_f".into();
    finance["data"]["payer_owner"] = "usr_1".into();
    deliver(&[finance]).await;
    assert_eq!(emitted("pay_for_owner").await[0].0, "forex.converted");
}

#[tokio::test]
async fn a_payment_in_one_currency_cannot_name_a_quote() {
    let quote = quoted("SEK", "10.00", "source").await;
    deliver(&[with_quote("pay_one", 1_000, "EUR", &quote)]).await;
    let out = emitted("pay_one").await;
    assert_eq!(
        (out[0].0.as_str(), &out[0].1["code"]),
        ("forex.rejected", &json!("quote_mismatch"))
    );
}

#[tokio::test]
async fn a_target_fixed_quote_delivers_exactly_that_amount() {
    let quote = quoted("USD", "37.23", "target").await;
    // 37.23 / 1.1172 = 33.3243…, rounded up.
    assert_eq!(quote["source"]["amount"], "33.33");
    assert_eq!(quote["amount_side"], "target");
    deliver(&[with_quote("pay_target", 3_333, "USD", &quote)]).await;
    let out = emitted("pay_target").await;
    assert_eq!(
        (&out[0].1["source_minor"], &out[0].1["target_minor"]),
        (&json!(3_333), &json!(3_723))
    );
    // A yen is worth more than half a cent: the source-fixed price of the same payment would give 175.
    let quote = quoted("JPY", "174", "target").await;
    let source = quote["source"]["amount"].as_str().unwrap();
    assert_eq!(source, "1.00");
    deliver(&[with_quote("pay_yen", 100, "JPY", &quote)]).await;
    let out = emitted("pay_yen").await;
    assert_eq!(out[0].1["target_minor"], 174, "{}", out[0].1);
    assert_eq!(out[0].1["exact"], "175.68");
}

/// Deliveries meet at the quote's row: all of them read it while it is open.
#[tokio::test]
async fn of_payments_that_use_a_quote_at_the_same_moment_one_is_converted() {
    let quote = quoted("NOK", "10.00", "source").await;
    let bridge = Identity {
        scope: "deliver".into(),
        ..Identity::default()
    };
    let platform = platform().await;
    let deliver = async |batch: u32| {
        let mut open: Vec<Value> = (0..10)
            .map(|n| with_quote(&format!("pay_race_{batch}_{n}"), 1_000, "NOK", &quote))
            .collect();
        // What met the guard is told to come again, as the bridge does.
        for _ in 0..20 {
            let reply = platform
                .send_as(
                    "bridge",
                    &bridge,
                    "/_events",
                    "application/cloudevents-batch+json",
                    Value::from(open.clone()).to_string(),
                )
                .await;
            assert_eq!(reply.status, 200, "{}", reply.body);
            let results = reply.body["results"].as_array().unwrap().clone();
            let taken = |event: &Value| {
                results
                    .iter()
                    .any(|r| r["id"] == event["id"] && r["status"] == 200)
            };
            open.retain(|event| !taken(event));
            if open.is_empty() {
                return;
            }
        }
        panic!("{} events were never taken", open.len());
    };
    std::thread::scope(|scope| {
        for batch in 0..10 {
            let deliver = &deliver;
            scope.spawn(move || {
                tokio::runtime::Runtime::new()
                    .unwrap()
                    .block_on(deliver(batch));
            });
        }
    });
    let count = |what: &str| {
        let sql = format!("SELECT COUNT(*) FROM {what}");
        platform.rows(&sql)[0][0].parse::<i64>().unwrap()
    };
    assert_eq!(count("conversions WHERE payment_id LIKE 'pay_race_%'"), 1);
    assert_eq!(
        count("outbox WHERE key LIKE 'pay_race_%' AND type = 'forex.converted'"),
        1
    );
    assert_eq!(
        count(
            "outbox WHERE key LIKE 'pay_race_%' AND type = 'forex.rejected' AND payload LIKE '%quote_used%'"
        ),
        99
    );
}
