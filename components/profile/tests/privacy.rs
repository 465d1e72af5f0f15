//! What is personal: nowhere in clear, exported whole, destroyed for good.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::*;
use innover_kit::testing::person;
use serde_json::{Value, json};

const NAME: &str = "Wilhelmina Featherstonehaugh";
const NUMBER: &str = "ZX81QL48K";

/// Writes everything a person can write; returns the ids of the documents.
async fn life(sub: &str, number: &str) -> [String; 2] {
    let who = user(sub);
    let body = json!({"display_name": NAME, "country": "GB"});
    let platform = platform().await;
    let made = platform
        .send(
            "gateway",
            &who,
            "PUT",
            "/v1/profiles/me",
            Some(body.to_string()),
            Some("first"),
        )
        .await;
    assert_eq!(made.status, 201, "{}", made.body);
    let passport = post(&who, DOCUMENTS, passport(number), Some("passport")).await;
    let bill = submit(&who, proof_of_address()).await;
    let passport = passport.body["id"].as_str().unwrap().to_owned();
    verify(&who, &passport).await;
    verify(&who, &bill).await;
    let body = json!({"decision": "verified", "reason": format!("{NAME} lives there")});
    let path = format!("/v1/documents/{bill}/decision");
    let decided = post(&operations(), &path, body, Some(sub)).await;
    assert_eq!(decided.status, 200, "{}", decided.body);
    [passport, bill]
}

fn personal(sub: &str, number: &str) -> Vec<String> {
    vec![
        NAME.to_owned(),
        "Featherstone".to_owned(),
        number.to_owned(),
        format!("{sub}@innover.local"),
        "a scan".to_owned(),
        "a bill".to_owned(),
        "lives there".to_owned(),
    ]
}

#[tokio::test]
async fn nothing_personal_is_in_the_database_in_clear() {
    life("usr_p1", NUMBER).await;
    let bytes = stored_bytes().await;
    assert!(contains(&bytes, "usr_p1"), "the subject is searchable");
    for text in personal("usr_p1", NUMBER) {
        assert!(!contains(&bytes, &text), "{text} is stored in clear");
        let encoded = base64(&text);
        assert!(!contains(&bytes, &encoded), "{text} is stored in base64");
    }
    assert!(assert_events_fit_their_schemas().await > 5);
}

/// The middle of a text's base64, wherever it starts in a group of three.
fn base64(text: &str) -> String {
    use base64::Engine;
    let encoded = base64::engine::general_purpose::STANDARD.encode(text);
    encoded[..encoded.len() / 4 * 4 - 4].to_owned()
}

#[tokio::test]
async fn a_repeated_key_gets_the_answer_of_the_first_time_though_it_is_stored_sealed() {
    life("usr_p2", "ZX81QL49K").await;
    let who = user("usr_p2");
    put(&who, "Someone else by now").await;
    let body = json!({"display_name": NAME, "country": "GB"});
    let platform = platform().await;
    let again = |body: Value| {
        platform.send(
            "gateway",
            &who,
            "PUT",
            "/v1/profiles/me",
            Some(body.to_string()),
            Some("first"),
        )
    };
    let replayed = again(body).await;
    assert!(replayed.replayed);
    assert_eq!(
        (
            replayed.status,
            &replayed.body["display_name"],
            &replayed.body["version"]
        ),
        (201, &json!(NAME), &json!(1))
    );
    let other = again(json!({"display_name": NAME, "country": "IE"})).await;
    assert_eq!(
        (other.status, other.code()),
        (422, "idempotency_key_reused")
    );
    assert_eq!(other.body["differing_fields"], json!(["/country"]));
}

#[tokio::test]
async fn of_concurrent_first_writes_one_makes_the_profile_and_twins_get_its_answer() {
    let who = user("usr_p3");
    let platform = platform().await;
    let body = json!({"display_name": "Ada"}).to_string();
    let send = || {
        let body = Some(body.clone());
        platform.send(
            "gateway",
            &who,
            "PUT",
            "/v1/profiles/me",
            body,
            Some("twin"),
        )
    };
    let (a, b, c) = tokio::join!(send(), send(), send());
    for reply in [&a, &b, &c] {
        assert_eq!(
            (reply.status, &reply.body["version"]),
            (201, &json!(1)),
            "{}",
            reply.body
        );
    }
    let keys = platform.rows("SELECT id FROM data_keys WHERE owner = 'person:usr_p3'");
    assert_eq!(keys.len(), 1);
}

#[tokio::test]
async fn an_export_holds_everything_and_who_asked_for_it() {
    let [passport, _] = life("usr_p4", "ZX81QL50K").await;
    let body = json!({"reason": "ticket 4711"});
    let path = "/v1/profiles/usr_p4/export";
    let without = post(&operations(), path, body.clone(), None).await;
    assert_eq!(without.code(), "idempotency_key_required");
    for stranger in [user("usr_p5"), person("usr_au", "auditor", "profile:read")] {
        let refused = post(&stranger, path, body.clone(), Some("x")).await;
        assert_eq!(
            (refused.status, refused.code()),
            (403, "insufficient_scope")
        );
    }
    let asked = post(&operations(), path, body.clone(), Some("x4")).await;
    assert_eq!(asked.status, 200, "{}", asked.body);
    assert_eq!(asked.body["profile"]["display_name"], NAME);
    assert_eq!(asked.body["profile"]["kyc_tier"], 3);
    assert_eq!(asked.body["documents"][0]["id"], json!(passport));
    assert_eq!(asked.body["documents"][0]["number"], "ZX81QL50K");
    assert!(asked.body["documents"][0]["content_base64"].is_string());
    let replayed = post(&operations(), path, body, Some("x4")).await;
    assert!(replayed.replayed);
    let own = get(&user("usr_p4"), "/v1/profiles/me/export").await;
    let looks: Vec<&Value> = own.body["decisions"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|d| d["field"] == "export")
        .collect();
    assert_eq!(looks.len(), 1, "once per key");
    assert_eq!(
        (&looks[0]["reason"], &looks[0]["by"]),
        (&json!("ticket 4711"), &json!("usr_ops"))
    );
}

#[tokio::test]
async fn an_erased_person_is_gone_and_stays_gone() {
    let number = "ZX81QL51K";
    let [passport_id, _] = life("usr_p6", number).await;
    let who = user("usr_p6");
    let wrapped = platform()
        .await
        .rows("SELECT wrapped FROM data_keys WHERE owner = 'person:usr_p6'");
    let wrapped = wrapped[0][0].clone();
    let body = json!({"reason": "asked for it"});
    let stranger = post(
        &user("usr_p7"),
        "/v1/profiles/usr_p6/erase",
        body.clone(),
        Some("e"),
    )
    .await;
    assert_eq!(
        (stranger.status, stranger.code()),
        (403, "insufficient_scope")
    );
    let erased = post(&who, "/v1/profiles/me/erase", body.clone(), Some("e6")).await;
    assert_eq!(
        (erased.status, &erased.body["state"]),
        (200, &json!("erased")),
        "{}",
        erased.body
    );
    let again = post(&who, "/v1/profiles/me/erase", body.clone(), Some("e6")).await;
    assert!(again.replayed);
    assert_eq!(again.body, erased.body);
    let once_more = post(
        &operations(),
        "/v1/profiles/usr_p6/erase",
        body.clone(),
        Some("e6b"),
    )
    .await;
    assert_eq!(once_more.body, erased.body, "it is erased once");

    let gone = |reply: innover_kit::testing::Reply| {
        assert_eq!(
            (reply.status, reply.code()),
            (410, "profile_erased"),
            "{}",
            reply.body
        );
    };
    for path in [
        "/v1/profiles/me",
        "/v1/profiles/usr_p6",
        "/v1/profiles/me/export",
        DOCUMENTS,
    ] {
        gone(get(&who, path).await);
    }
    gone(get(&who, &format!("{DOCUMENTS}/{passport_id}")).await);
    gone(put(&who, "Back again").await);
    gone(post(&who, DOCUMENTS, passport("ZX81QL52K"), None).await);
    gone(
        post(
            &admin(),
            "/v1/profiles/usr_p6/tier",
            json!({"tier": 1, "reason": "r"}),
            Some("t6"),
        )
        .await,
    );
    gone(
        post(
            &operations(),
            "/v1/profiles/usr_p6/export",
            body,
            Some("x6"),
        )
        .await,
    );
    let replay = post(&who, DOCUMENTS, passport(number), Some("passport")).await;
    gone(replay);

    let p = platform().await;
    let left = p.rows(
        "SELECT username, email, display_name, country, kyc_tier, state FROM profiles WHERE id = 'usr_p6'",
    );
    assert_eq!(left, [["", "", "", "null", "0", "erased"]]);
    let documents = p.rows(
        "SELECT DISTINCT country, number, number_digest, expires_on, state FROM documents
         WHERE profile_id = 'usr_p6'",
    );
    assert_eq!(documents, [["", "null", "null", "null", "withdrawn"]]);
    let contents = "SELECT document_id FROM document_contents WHERE profile_id = 'usr_p6'";
    assert!(p.rows(contents).is_empty());
    let decided = p.rows("SELECT field, after_value, decided_by FROM decisions WHERE profile_id = 'usr_p6' ORDER BY id DESC LIMIT 1");
    assert_eq!(decided, [["state", "erased", "usr_p6"]]);
    let events = p.rows(
        "SELECT type FROM outbox WHERE key = 'usr_p6' ORDER BY key_version DESC, type LIMIT 2",
    );
    assert_eq!(events, [["profile.erased"], ["profile.updated"]]);
    assert_events_fit_their_schemas().await;

    let list = get(&admin(), "/v1/profiles?limit=200").await;
    let row = list.body["data"]
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["id"] == "usr_p6")
        .unwrap();
    assert_eq!(
        (&row["state"], &row["email"]),
        (&json!("erased"), &json!(""))
    );

    // The key's bytes are overwritten in place, so that the file holds nothing that opens a copy of
    // a ciphertext. What the journal still holds goes with its next reset.
    let connection = rusqlite::Connection::open(&p.database).unwrap();
    let mut busy = 1;
    while busy != 0 {
        busy = connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| {
                row.get::<_, i64>(0)
            })
            .unwrap();
    }
    let file = std::fs::read(&p.database).unwrap();
    assert!(
        !contains(&file, &wrapped),
        "the wrapped key is still in the file"
    );
    for text in personal("usr_p6", number) {
        assert!(!contains(&file, &text));
    }
}

#[tokio::test]
async fn ciphertexts_that_were_swapped_do_not_open_and_the_error_says_where() {
    life("usr_p8", "ZX81QL53K").await;
    life("usr_p9", "ZX81QL54K").await;
    let p = platform().await;
    let connection = rusqlite::Connection::open(&p.database).unwrap();
    connection
        .busy_timeout(std::time::Duration::from_secs(5))
        .unwrap();
    let restore: (String, String) = connection
        .query_row(
            "SELECT email, username FROM profiles WHERE id = 'usr_p8'",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .unwrap();
    for swap in [
        "UPDATE profiles SET email = (SELECT email FROM profiles WHERE id = 'usr_p9') WHERE id = 'usr_p8'",
        "UPDATE profiles SET email = username WHERE id = 'usr_p8'",
        "UPDATE profiles SET email = '' WHERE id = 'usr_p8'",
    ] {
        connection.execute(swap, []).unwrap();
        let reply = get(&user("usr_p8"), "/v1/profiles/me").await;
        assert_eq!((reply.status, reply.code()), (500, "internal"), "{swap}");
        let detail = reply.body["detail"].as_str().unwrap();
        assert!(detail.contains("profiles.email"), "{detail}");
        connection
            .execute(
                "UPDATE profiles SET email = ?1, username = ?2 WHERE id = 'usr_p8'",
                [&restore.0, &restore.1],
            )
            .unwrap();
    }
    // A whole data key of someone else does not open it either.
    connection
        .execute(
            "UPDATE data_keys SET wrapped = (SELECT wrapped FROM data_keys WHERE owner = 'person:usr_p9')
             WHERE owner = 'person:usr_p8'",
            [],
        )
        .unwrap();
    let reply = get(&user("usr_p8"), "/v1/profiles/me").await;
    assert_eq!(
        (reply.status, reply.code()),
        (503, "not_ready"),
        "{}",
        reply.body
    );
}
