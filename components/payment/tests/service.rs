//! The service as its callers see it, as far as it needs no other: decisions, cancellations,
//! defaults.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use innover_kit::{
    Cx, Db, Event,
    contract::Identity,
    testing::{Outgoing, Platform, Reply, answer_calls, person},
};
use payment::{
    events,
    model::State,
    store::{self, Payment, Writer},
};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// Wallets are active; nobody else answers.
fn answer(call: &Outgoing) -> Option<(u16, Value)> {
    let (_, ids) = call.path.split_once("lookup?ids=")?;
    let wallet = |id: &str| json!({"id": id, "owner": "usr_payer", "currency": "EUR", "state": "active", "account_id": id});
    let data: Vec<Value> = ids.split(',').map(wallet).collect();
    Some((200, json!({ "data": data })))
}

static PLATFORM: OnceCell<Platform> = OnceCell::const_new();

async fn platform() -> &'static Platform {
    PLATFORM
        .get_or_init(|| async {
            answer_calls(answer);
            Platform::start(
                &payment::SERVICE,
                include_str!("../migrations/0001_init.sql"),
                &["gateway", "cases", "refund"],
            )
        })
        .await
}

async fn db() -> Db {
    Db::open_file(&platform().await.database).unwrap()
}

/// A payment of usr_payer to usr_payee.
async fn stored(id: &str, state: State) {
    let payment = Payment {
        id: id.into(),
        state,
        version: 1,
        payer_wallet: "wal_a".into(),
        payee_wallet: "wal_b".into(),
        payer_owner: "usr_payer".into(),
        payee_owner: "usr_payee".into(),
        payer_account: "acc_a".into(),
        payee_account: "acc_b".into(),
        source_minor: 10_000,
        source_currency: "EUR".into(),
        target_minor: None,
        target_currency: "USD".into(),
        margin_minor: None,
        rate: None,
        rate_date: None,
        exact: None,
        entry_id: None,
        quote_id: Some("quo_1".into()),
        reference: "test".into(),
        reason_codes: vec![],
        reason_detail: String::new(),
        rules_version: Some(1),
        traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into(),
        correlation_id: "req-1".into(),
        created_by: "usr_payer".into(),
        withdrawn_by: None,
        created_at: 1,
        updated_at: 1,
    };
    let mut writer = Writer::default();
    writer.insert(&payment, None, &payment.cause());
    writer.finish().commit(&mut db().await).await.unwrap();
}

async fn state(id: &str) -> State {
    store::by_id(&db().await, id).await.unwrap().unwrap().state
}

/// The payment's events, oldest first.
async fn announced(id: &str) -> Vec<String> {
    let sql = format!("SELECT type FROM outbox WHERE key = '{id}' ORDER BY rowid");
    let rows = platform().await.rows(&sql);
    rows.into_iter().map(|mut row| row.remove(0)).collect()
}

fn user(sub: &str) -> Identity {
    person(sub, "user", "payment:read payment:write")
}

fn finance() -> Identity {
    person("usr_finance", "finance", "payment:read payment:write")
}

fn analyst() -> Identity {
    person("usr_analyst", "analyst", "case:write payment:read")
}

async fn post(caller: &str, who: &Identity, path: &str, body: Value, key: &str) -> Reply {
    let body = Some(body.to_string());
    platform()
        .await
        .send(caller, who, "POST", path, body, Some(key))
        .await
}

async fn cancel(who: &Identity, id: &str, key: &str) -> Reply {
    let path = format!("/v1/payments/{id}/cancel");
    post("gateway", who, &path, json!({"reason": "a mistake"}), key).await
}

#[tokio::test]
async fn a_payment_under_review_is_cancelled_by_its_payer_or_the_house_once() {
    for (id, who) in [("pay_c1", user("usr_payer")), ("pay_c2", finance())] {
        stored(id, State::Review).await;
        let done = cancel(&who, id, &format!("key-{id}")).await;
        assert_eq!(
            (done.status, &done.body["state"]),
            (200, &json!("cancelled")),
            "{}",
            done.body
        );
        let again = cancel(&who, id, &format!("key-{id}")).await;
        assert!(again.replayed && again.body == done.body);
        assert_eq!(announced(id).await, ["payment.review", "payment.cancelled"]);
        let path = format!("/v1/payments/{id}/timeline");
        let timeline = platform().await.call(&who, "GET", &path, None).await;
        let steps = timeline.body["data"].as_array().unwrap();
        let decision = steps.iter().find(|s| s["kind"] == "decision").unwrap();
        assert_eq!(decision["name"], "cancelled");
        assert_eq!(
            decision["detail"],
            format!("{}: a mistake", who.preferred_username)
        );
        assert_eq!(steps.last().unwrap()["name"], "cancelled");
        let late = post(
            "gateway",
            &finance(),
            &format!("/v1/payments/{id}/decision"),
            json!({"decision": "approve"}),
            &format!("late-{id}"),
        )
        .await;
        assert_eq!((late.status, late.code()), (409, "invalid_state"));
    }
}

#[tokio::test]
async fn nobody_else_cancels_and_no_payment_that_is_further_on() {
    stored("pay_c3", State::Review).await;
    for who in [user("usr_payee"), user("usr_other")] {
        let refused = cancel(&who, "pay_c3", &who.sub.clone()).await;
        assert_eq!((refused.status, refused.code()), (403, "not_owner"));
    }
    let reader = person("usr_payer", "user", "payment:read");
    let refused = cancel(&reader, "pay_c3", "reader").await;
    assert_eq!(refused.code(), "insufficient_scope");
    assert_eq!(state("pay_c3").await, State::Review);
    for at in [
        State::Converting,
        State::Posting,
        State::Processing,
        State::Completed,
        State::Declined,
        State::Failed,
    ] {
        let id = format!("pay_c3_{}", at.as_str());
        stored(&id, at).await;
        let refused = cancel(&user("usr_payer"), &id, &id).await;
        assert_eq!(
            (refused.status, refused.code()),
            (409, "invalid_state"),
            "{}",
            refused.body
        );
        assert_eq!(state(&id).await, at);
    }
    let missing = cancel(&finance(), "pay_none", "none").await;
    assert_eq!(missing.code(), "payment_not_found");
}

/// Whether the ledger could not be asked, or had failed too often to be.
fn is_lost(reply: &Reply) -> bool {
    ["upstream_error", "upstream_open"].contains(&reply.code())
}

/// Natively the ledger is not there to be asked, as when the answer is lost on the way: the payment
/// is withdrawn, and whichever way the ledger's word comes decides.
#[tokio::test]
async fn a_withdrawn_payment_ends_as_the_ledger_says_also_when_its_answer_is_lost() {
    let (cx, payer) = (Cx::detached("payment"), user("usr_payer"));
    let told = |id: &str, kind: &str, data: Value| -> Event {
        let source = format!("/innover/{}", kind.split('.').next().unwrap());
        serde_json::from_value(json!({
            "specversion": "1.0", "id": format!("{id}-{kind}"), "source": source, "type": kind,
            "subject": id, "partitionkey": id, "time": "2026-10-30T12:00:00Z", "data": data,
        }))
        .unwrap()
    };
    for (id, event, ends) in [
        (
            "pay_w1",
            told(
                "pay_w1",
                "ledger.rejected",
                json!({"payment_id": "pay_w1", "code": "timed_out", "detail": ""}),
            ),
            State::Cancelled,
        ),
        (
            "pay_w2",
            told(
                "pay_w2",
                "ledger.rejected",
                json!({"payment_id": "pay_w2", "code": "insufficient_funds", "detail": ""}),
            ),
            State::Failed,
        ),
        (
            "pay_w3",
            told(
                "pay_w3",
                "ledger.posted",
                json!({"payment_id": "pay_w3", "entry_id": "ent_1"}),
            ),
            State::Processing,
        ),
    ] {
        stored(id, State::Initiated).await;
        let lost = cancel(&payer, id, id).await;
        assert!(is_lost(&lost), "{}", lost.body);
        assert_eq!(state(id).await, State::Initiated, "nothing is decided yet");
        let mut database = db().await;
        let events = [event];
        let handled = match events[0].kind.as_str() {
            "ledger.posted" => events::posted(&cx, &database, &events).await,
            _ => events::rejected(&cx, &database, &events).await,
        };
        handled.unwrap().batch.commit(&mut database).await.unwrap();
        assert_eq!(state(id).await, ends, "{id}");
        // The same request again learns how it ended.
        let again = cancel(&payer, id, id).await;
        let expected = if ends == State::Cancelled { 200 } else { 409 };
        assert_eq!(again.status, expected, "{id}: {}", again.body);
        assert_eq!(
            announced(id)
                .await
                .contains(&"payment.cancelled".to_owned()),
            ends == State::Cancelled
        );
    }
}

/// Approve, decline and cancel meet at the payment's version.
#[tokio::test]
async fn of_decisions_that_come_at_the_same_moment_one_takes_effect() {
    for round in 0..20 {
        let id = format!("pay_race_{round}");
        stored(&id, State::Review).await;
        let asked: Vec<(String, Value, String)> = (0..6)
            .map(|n| match n % 3 {
                0 => ("cancel", json!({})),
                1 => ("decision", json!({"decision": "approve"})),
                _ => ("decision", json!({"decision": "decline"})),
            })
            .enumerate()
            .map(|(n, (what, body))| {
                (
                    format!("/v1/payments/{id}/{what}"),
                    body,
                    format!("{id}-{n}"),
                )
            })
            .collect();
        std::thread::scope(|scope| {
            for (path, body, key) in &asked {
                scope.spawn(|| {
                    let runtime = tokio::runtime::Runtime::new().unwrap();
                    let reply =
                        runtime.block_on(post("gateway", &finance(), path, body.clone(), key));
                    let known = [200, 409].contains(&reply.status);
                    assert!(known || is_lost(&reply), "{}", reply.body);
                });
            }
        });
        let events = announced(&id).await;
        assert_eq!(events.len(), 2, "{events:?}");
        assert_eq!(events[0], "payment.review");
    }
}

#[tokio::test]
async fn the_cases_service_decides_for_whoever_may_write_cases() {
    stored("pay_d1", State::Review).await;
    let path = "/v1/payments/pay_d1/decision";
    let body = json!({"decision": "approve", "reason": "case 1"});
    for (caller, who, code) in [
        ("gateway", analyst(), "insufficient_scope"),
        ("refund", analyst(), "insufficient_scope"),
        (
            "cases",
            person("usr_v", "viewer", "case:read payment:write"),
            "insufficient_scope",
        ),
        ("gateway", user("usr_payer"), "not_owner"),
    ] {
        let refused = post(caller, &who, path, body.clone(), "refused").await;
        assert_eq!((refused.status, refused.code()), (403, code), "{caller}");
    }
    let done = post("cases", &analyst(), path, body, "decided").await;
    assert_eq!(
        (done.status, &done.body["state"]),
        (200, &json!("initiated")),
        "{}",
        done.body
    );
    let sql = "SELECT payload FROM outbox WHERE key = 'pay_d1' AND type = 'payment.initiated'";
    let payload = platform().await.rows(sql).remove(0).remove(0);
    let data: Value = serde_json::from_str(&payload).unwrap();
    assert_eq!(
        (&data["quote_id"], &data["payer_owner"], &data["created_by"]),
        (&json!("quo_1"), &json!("usr_payer"), &json!("usr_payer"))
    );
}

async fn form(who: &Identity, path: &str, form: &str) -> Reply {
    let media = "application/x-www-form-urlencoded";
    platform()
        .await
        .send_as("gateway", who, path, media, form.into())
        .await
}

#[tokio::test]
async fn an_order_that_lacks_something_says_what_to_set() {
    for (path, sent, status, code, param) in [
        (
            "/pay",
            "order_id=1&amount=100",
            400,
            "invalid_request",
            "/payee_wallet",
        ),
        (
            "/pay-dynamic",
            "order_id=1&amount=100",
            400,
            "invalid_request",
            "/payee_wallet",
        ),
        ("/pay", "amount=100", 400, "invalid_request", ""),
        ("/pay", "order_id=1", 400, "invalid_request", ""),
        (
            "/pay",
            "order_id=%01&amount=1",
            400,
            "invalid_request",
            "/order_id",
        ),
        (
            "/pay",
            "order_id=1&amount=1&colour=red",
            400,
            "invalid_request",
            "/colour",
        ),
        (
            "/pay",
            "order_id=1&amount=1&amount=2",
            400,
            "duplicate_key",
            "/amount",
        ),
        (
            "/pay",
            "order_id=1&amount=1&payer_wallet=wal_a&payee_wallet=nobody",
            404,
            "wallet_not_found",
            "/payee_wallet",
        ),
        (
            "/pay",
            "order_id=1&amount=1&payer_wallet=wal_a&payee_wallet=wal_a",
            400,
            "invalid_request",
            "/payee_wallet",
        ),
    ] {
        let reply = form(&user("usr_new"), path, sent).await;
        assert_eq!(
            (reply.status, reply.code(), &reply.body["param"]),
            (status, code, &json!(param)),
            "{sent}: {}",
            reply.body
        );
    }
    let reply = form(&user("usr_new"), "/pay", "order_id=1&amount=100").await;
    let detail = reply.body["detail"].as_str().unwrap();
    assert!(detail.contains("PUT /api/payment/v1/defaults"), "{detail}");
    let reader = person("usr_new", "user", "payment:read");
    for path in ["/pay", "/pay-dynamic"] {
        let refused = form(&reader, path, "order_id=1&amount=100").await;
        assert_eq!(refused.code(), "insufficient_scope");
    }
}

#[tokio::test]
async fn defaults_are_set_as_a_whole_and_are_ones_own() {
    let put = async |who: &Identity, body: Value| {
        platform()
            .await
            .call(who, "PUT", "/v1/defaults", Some(body))
            .await
    };
    let get = async |who: &Identity| {
        platform()
            .await
            .call(who, "GET", "/v1/defaults", None)
            .await
    };
    let (me, other) = (user("usr_defaults"), user("usr_defaults_2"));
    let unset = json!({"payer_wallet": null, "payee_wallet": null, "currency": null});
    assert_eq!(get(&me).await.body, unset);
    let set = put(&me, json!({"currency": "EUR"})).await;
    assert_eq!((set.status, &set.body["currency"]), (200, &json!("EUR")));
    assert_eq!(get(&me).await.body["currency"], "EUR");
    assert_eq!(get(&other).await.body, unset);
    assert_eq!(put(&me, json!({})).await.status, 200);
    assert_eq!(get(&me).await.body, unset);
    for (body, code, param) in [
        (
            json!({"currency": "XAU"}),
            "unsupported_currency",
            "/currency",
        ),
        (
            json!({"payer_wallet": "nobody"}),
            "wallet_not_found",
            "/payer_wallet",
        ),
        (
            json!({"payer_wallet": "wal_a", "payee_wallet": "wal_a"}),
            "invalid_request",
            "/payee_wallet",
        ),
        (json!({"colour": "red"}), "invalid_request", "/colour"),
    ] {
        let refused = put(&me, body.clone()).await;
        assert_eq!(
            (refused.code(), &refused.body["param"]),
            (code, &json!(param)),
            "{body}"
        );
    }
}
