//! The service as its callers see it, for payments it has asked about before: who may refund, how
//! much, and once.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use innover_kit::contract::Identity;
use innover_kit::testing::{Platform, Reply, person};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

static PLATFORM: OnceCell<Platform> = OnceCell::const_new();

async fn platform() -> &'static Platform {
    PLATFORM
        .get_or_init(|| async {
            Platform::start(
                &refund::SERVICE,
                include_str!("../migrations/0001_init.sql"),
                &["gateway"],
            )
        })
        .await
}

/// 100.00 EUR that became 111.44 USD after a margin of 0.25, from usr_payer to usr_payee.
async fn captured(payment_id: &str) {
    let connection = rusqlite::Connection::open(&platform().await.database).unwrap();
    connection
        .execute(
            "INSERT INTO captures VALUES (?1, 1, 'ent_1', 'wal_a', 'wal_b', 'usr_payer', 'usr_payee',
                 'acc_a', 'acc_b', 'EUR', 'USD', '1.1172', 10000, 25, 11144, 0, 0, 0)",
            [payment_id],
        )
        .unwrap();
}

/// The payment's refunds leave `pending`, as the ledger's answer has them do.
async fn ended(payment_id: &str, state: &str) {
    let connection = rusqlite::Connection::open(&platform().await.database).unwrap();
    let sql = "UPDATE refunds SET state = ?2 WHERE payment_id = ?1 AND state = 'pending'";
    connection.execute(sql, [payment_id, state]).unwrap();
}

fn user(sub: &str) -> Identity {
    person(sub, "user", "refund:read refund:write")
}

fn payee() -> Identity {
    user("usr_payee")
}

fn refund(payment_id: &str, amount: &str) -> Value {
    json!({"payment_id": payment_id, "amount": amount, "currency": "EUR", "reason": "broken"})
}

async fn post(who: &Identity, body: Value, key: Option<&str>) -> Reply {
    platform()
        .await
        .send(
            "gateway",
            who,
            "POST",
            "/v1/refunds",
            Some(body.to_string()),
            key,
        )
        .await
}

async fn get(who: &Identity, path: &str) -> Reply {
    platform().await.call(who, "GET", path, None).await
}

#[tokio::test]
async fn the_payees_owner_refunds_a_part_and_reads_it_back() {
    captured("pay_1").await;
    let made = post(&payee(), refund("pay_1", "50.00"), Some("k1")).await;
    assert_eq!(made.status, 202, "{}", made.body);
    assert_eq!(made.body["state"], "pending");
    assert_eq!(
        (&made.body["source"], &made.body["margin"]),
        (
            &json!({"amount": "50.00", "currency": "EUR"}),
            &json!({"amount": "0.12", "currency": "EUR"})
        )
    );
    // 49.88 × 1.1172 = 55.725936, rounded up.
    assert_eq!(
        made.body["target"],
        json!({"amount": "55.73", "currency": "USD"})
    );
    let id = made.body["id"].as_str().unwrap();
    assert!(id.starts_with("ref_"));

    let sent = format!("SELECT topic, key_version, payload FROM outbox WHERE key = '{id}'");
    let sent = platform().await.rows(&sent);
    assert_eq!(sent.len(), 1);
    assert_eq!((&*sent[0][0], &*sent[0][1]), ("refund.initiated", "1"));
    let data: Value = serde_json::from_str(&sent[0][2]).unwrap();
    for (field, want) in [
        ("refund_id", json!(id)),
        ("payment_id", json!("pay_1")),
        ("reverses", json!("ent_1")),
        ("payer_account", json!("acc_a")),
        ("payee_account", json!("acc_b")),
        ("source_minor", json!(5000)),
        ("margin_minor", json!(12)),
        ("target_minor", json!(5573)),
    ] {
        assert_eq!(data[field], want, "{field}");
    }

    for who in [payee(), user("usr_payer")] {
        let read = get(&who, &format!("/v1/refunds/{id}")).await;
        assert_eq!((read.status, &read.body), (200, &made.body));
    }
    let stranger = get(&user("usr_c"), &format!("/v1/refunds/{id}")).await;
    assert_eq!((stranger.status, stranger.code()), (403, "not_owner"));
    let missing = get(&payee(), "/v1/refunds/ref_missing").await;
    assert_eq!((missing.status, missing.code()), (404, "refund_not_found"));
}

#[tokio::test]
async fn a_repeated_request_is_one_refund() {
    captured("pay_2").await;
    let first = post(&payee(), refund("pay_2", "10.00"), Some("k2")).await;
    let again = post(&payee(), refund("pay_2", "10.00"), Some("k2")).await;
    assert_eq!((first.status, first.replayed), (202, false));
    assert_eq!((again.status, again.replayed), (202, true));
    assert_eq!(again.body, first.body);
    let other = post(&payee(), refund("pay_2", "11.00"), Some("k2")).await;
    assert_eq!(
        (other.status, other.code()),
        (422, "idempotency_key_reused")
    );
    assert_eq!(other.body["differing_fields"], json!(["/amount"]));
    let without = post(&payee(), refund("pay_2", "10.00"), None).await;
    assert_eq!(
        (without.status, without.code()),
        (400, "idempotency_key_required")
    );
    let stored = "SELECT refunded FROM captures WHERE payment_id = 'pay_2'";
    assert_eq!(platform().await.rows(stored), [["1000"]]);
}

#[tokio::test]
async fn parts_use_the_payment_up_and_a_refusal_is_final_for_its_key() {
    captured("pay_3").await;
    for (amount, key) in [("33.33", "k3a"), ("33.33", "k3b")] {
        let part = post(&payee(), refund("pay_3", amount), Some(key)).await;
        assert_eq!(part.status, 202, "{}", part.body);
        ended("pay_3", "succeeded").await;
    }
    let too_much = post(&payee(), refund("pay_3", "33.35"), Some("k3c")).await;
    assert_eq!(
        (too_much.status, too_much.code(), &too_much.body["param"]),
        (422, "refund_exceeds_captured", &json!("/amount"))
    );
    let detail = too_much.body["detail"].as_str().unwrap();
    assert!(detail.starts_with("33.34 EUR"), "{detail}");
    let rest = post(&payee(), refund("pay_3", "33.34"), Some("k3d")).await;
    assert_eq!(rest.status, 202, "{}", rest.body);
    let whole = "SELECT refunded = captured AND refunded_margin = captured_margin
                     AND refunded_target = captured_target
                 FROM captures WHERE payment_id = 'pay_3'";
    assert_eq!(platform().await.rows(whole), [["1"]]);

    // As if one of them had failed.
    let connection = rusqlite::Connection::open(&platform().await.database).unwrap();
    let free = "UPDATE captures SET refunded = 3333 WHERE payment_id = 'pay_3'";
    connection.execute(free, []).unwrap();
    let again = post(&payee(), refund("pay_3", "33.35"), Some("k3c")).await;
    assert_eq!((again.status, again.replayed), (422, true));
    assert_eq!(again.body, too_much.body);
}

/// Or the second would be computed on the first, and cost the payee too little once that fails.
#[tokio::test]
async fn parts_of_a_converted_payment_go_one_after_the_other() {
    captured("pay_turn").await;
    let first = post(&payee(), refund("pay_turn", "0.02"), Some("turn-1")).await;
    assert_eq!(first.status, 202, "{}", first.body);
    let early = post(&payee(), refund("pay_turn", "0.01"), Some("turn-2")).await;
    assert_eq!((early.status, early.code()), (409, "conflict"));
    // As the ledger's refusal leaves it.
    ended("pay_turn", "failed").await;
    let connection = rusqlite::Connection::open(&platform().await.database).unwrap();
    let free = "UPDATE captures SET refunded = 0, refunded_margin = 0, refunded_target = 0
                WHERE payment_id = 'pay_turn'";
    connection.execute(free, []).unwrap();
    let later = post(&payee(), refund("pay_turn", "0.01"), Some("turn-2")).await;
    assert_eq!((later.status, later.replayed), (202, false));
    assert_eq!(
        later.body["target"]["amount"], "0.02",
        "1.1172 cents, rounded up"
    );

    // Within a currency nothing is rounded, and refunds go side by side.
    let alike = "INSERT INTO captures VALUES ('pay_alike', 1, 'ent_1', 'wal_a', 'wal_b', 'usr_payer', 'usr_payee',
                     'acc_a', 'acc_b', 'EUR', 'EUR', '1', 10000, 0, 10000, 0, 0, 0)";
    connection.execute(alike, []).unwrap();
    for key in ["alike-1", "alike-2"] {
        let made = post(&payee(), refund("pay_alike", "1.00"), Some(key)).await;
        assert_eq!(made.status, 202, "{}", made.body);
    }
}

#[tokio::test]
async fn neither_the_payer_nor_anyone_else_refunds_but_the_house_does() {
    captured("pay_4").await;
    for who in [user("usr_payer"), user("usr_c")] {
        let refused = post(&who, refund("pay_4", "1.00"), Some("k4a")).await;
        assert_eq!((refused.status, refused.code()), (403, "not_owner"));
    }
    let reader = person("usr_payee", "user", "refund:read");
    let refused = post(&reader, refund("pay_4", "1.00"), Some("k4b")).await;
    assert_eq!(
        (refused.status, refused.code()),
        (403, "insufficient_scope")
    );
    let client = Identity {
        client_id: "shop".into(),
        scope: "refund:write".into(),
        ..Identity::default()
    };
    for (who, key) in [
        (person("usr_f", "finance", "refund:write"), "k4c"),
        (person("usr_a", "admin", "refund:write"), "k4d"),
        (client, "k4e"),
    ] {
        let made = post(&who, refund("pay_4", "1.00"), Some(key)).await;
        assert_eq!(made.status, 202, "{}", made.body);
        ended("pay_4", "succeeded").await;
    }
}

#[tokio::test]
async fn what_does_not_fit_is_refused_by_its_field() {
    captured("pay_5").await;
    let with = |field: &str, value: Value| {
        let mut body = refund("pay_5", "1.00");
        body[field] = value;
        body
    };
    for (body, status, code, param) in [
        (
            with("currency", json!("USD")),
            422,
            "currency_mismatch",
            "/currency",
        ),
        (
            with("amount", json!("0.00")),
            400,
            "invalid_amount",
            "/amount",
        ),
        (
            with("amount", json!("1.001")),
            400,
            "invalid_amount",
            "/amount",
        ),
        (
            with("reason", json!("x".repeat(141))),
            400,
            "invalid_request",
            "/reason",
        ),
        (
            with("surprise", json!(1)),
            400,
            "invalid_request",
            "/surprise",
        ),
        (
            with("payment_id", json!("pay_5/../x")),
            404,
            "payment_not_found",
            "/payment_id",
        ),
        (
            with("payment_id", json!("ref_5")),
            404,
            "payment_not_found",
            "/payment_id",
        ),
    ] {
        let refused = post(&payee(), body.clone(), Some("k5")).await;
        assert_eq!(
            (refused.status, refused.code(), &refused.body["param"]),
            (status, code, &json!(param)),
            "{body}"
        );
    }
}

#[tokio::test]
async fn lists_are_of_a_payment_and_of_ones_own() {
    captured("pay_6").await;
    for n in 0..3 {
        let key = format!("k6-{n}");
        let made = post(&payee(), refund("pay_6", "1.00"), Some(&key)).await;
        assert_eq!(made.status, 202);
        ended("pay_6", "succeeded").await;
    }
    let path = "/v1/refunds?payment_id=pay_6&limit=2";
    let first = get(&user("usr_payer"), path).await;
    assert_eq!(first.body["data"].as_array().unwrap().len(), 2);
    let cursor = first.body["next_cursor"].as_str().unwrap();
    let rest = get(&payee(), &format!("{path}&cursor={cursor}")).await;
    assert_eq!(rest.body["data"].as_array().unwrap().len(), 1);
    assert_eq!(rest.body["next_cursor"], Value::Null);
    let stranger = get(&user("usr_c"), path).await;
    assert_eq!((stranger.status, &stranger.body["data"]), (200, &json!([])));
    let auditor = get(&person("usr_au", "auditor", "refund:read"), path).await;
    assert_eq!(auditor.body["data"].as_array().unwrap().len(), 2);
}

/// Posts a form to `/refund`, without a key.
async fn by_hand(who: &Identity, form: &str) -> Reply {
    let media = "application/x-www-form-urlencoded";
    platform()
        .await
        .send_as("gateway", who, "/refund", media, form.into())
        .await
}

#[tokio::test]
async fn a_line_of_a_form_refunds_once_however_often_it_is_sent() {
    captured("pay_hand").await;
    let made = by_hand(&payee(), "payment_id=pay_hand&amount=40").await;
    assert_eq!(made.status, 202, "{}", made.body);
    assert_eq!(
        made.body["source"],
        json!({"amount": "40.00", "currency": "EUR"})
    );
    for again in [
        "payment_id=pay_hand&amount=40",
        "payment_id=pay_hand&amount=40.00",
    ] {
        let reply = by_hand(&payee(), again).await;
        assert!(reply.replayed, "{again}: {}", reply.body);
        assert_eq!(reply.body["id"], made.body["id"]);
    }
    ended("pay_hand", "succeeded").await;
    // Another amount is another refund; the same one once more says so with a key.
    let other = by_hand(
        &payee(),
        "payment_id=pay_hand&amount=20&currency=EUR&reason=late",
    )
    .await;
    assert_eq!((other.status, other.replayed), (202, false));
    ended("pay_hand", "succeeded").await;
    let body = json!({"payment_id": "pay_hand", "amount": "40"}).to_string();
    let who = payee();
    let keyed = platform()
        .await
        .send(
            "gateway",
            &who,
            "POST",
            "/refund",
            Some(body),
            Some("once-more"),
        )
        .await;
    assert_eq!(
        (keyed.status, keyed.replayed),
        (202, false),
        "{}",
        keyed.body
    );
    let taken = platform()
        .await
        .rows("SELECT refunded FROM captures WHERE payment_id = 'pay_hand'");
    assert_eq!(taken, [["10000"]]);
}

#[tokio::test]
async fn a_refund_by_hand_asks_for_what_any_other_does() {
    captured("pay_hand_2").await;
    for (who, form, status, code) in [
        (
            user("usr_other"),
            "payment_id=pay_hand_2&amount=1",
            403,
            "not_owner",
        ),
        (
            payee(),
            "payment_id=pay_hand_2&amount=1&currency=USD",
            422,
            "currency_mismatch",
        ),
        (
            payee(),
            "payment_id=pay_hand_2&amount=1.001",
            400,
            "invalid_amount",
        ),
        (
            payee(),
            "payment_id=pay_hand_2&amount=100.01",
            422,
            "refund_exceeds_captured",
        ),
        (payee(), "payment_id=pay_hand_2", 400, "invalid_request"),
        (
            payee(),
            "payment_id=nothing&amount=1",
            404,
            "payment_not_found",
        ),
        (
            person("usr_payee", "user", "payment:write"),
            "payment_id=pay_hand_2&amount=1",
            403,
            "insufficient_scope",
        ),
    ] {
        let reply = by_hand(&who, form).await;
        assert_eq!(
            (reply.status, reply.code()),
            (status, code),
            "{form}: {}",
            reply.body
        );
    }
}
