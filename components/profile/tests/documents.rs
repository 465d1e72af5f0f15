//! Documents and the tiers that follow from them: rules, decisions of operations, expiry, duplicates,
//! bounds.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use base64::{Engine, engine::general_purpose::STANDARD};
use common::*;
use innover_kit::testing::person;
use serde_json::{Value, json};

async fn decide(id: &str, decision: &str, key: &str) -> innover_kit::testing::Reply {
    let body = json!({"decision": decision, "reason": "looked at it"});
    let path = format!("/v1/documents/{id}/decision");
    post(&operations(), &path, body, Some(key)).await
}

#[tokio::test]
async fn documents_raise_the_tier_step_by_step_and_their_loss_lowers_it() {
    let who = user("usr_d1");
    put(&who, "Ada").await;
    assert_eq!(tier(&who).await, 1);

    let passport_id = submit(&who, passport("C01X00T47")).await;
    assert_eq!(tier(&who).await, 1, "nothing is checked yet");
    let done = verify(&who, &passport_id).await;
    assert_eq!(
        (&done["state"], &done["findings"], &done["number"]),
        (&json!("verified"), &json!([]), &json!("C01X00T47"))
    );
    assert_eq!(tier(&who).await, 2);

    let bill = submit(&who, proof_of_address()).await;
    let waiting = verify(&who, &bill).await;
    assert_eq!(
        (
            &waiting["state"],
            &waiting["manual_review"],
            &waiting["findings"]
        ),
        (&json!("verifying"), &json!(true), &json!(["needs_person"]))
    );
    assert_eq!(tier(&who).await, 2);
    let queue = get(
        &operations(),
        "/v1/documents?state=verifying&profile_id=usr_d1",
    )
    .await;
    assert_eq!(queue.body["data"][0]["id"], json!(bill), "{}", queue.body);
    let decided = decide(&bill, "verified", "d1").await;
    assert_eq!(
        (decided.status, &decided.body["state"]),
        (200, &json!("verified"))
    );
    assert_eq!(tier(&who).await, 3);
    let again = decide(&bill, "verified", "d1").await;
    assert!(again.replayed);
    assert_eq!(again.body, decided.body);
    let twice = decide(&bill, "verified", "d1b").await;
    assert_eq!((twice.status, twice.code()), (409, "invalid_state"));

    let path = format!("{DOCUMENTS}/{passport_id}/withdraw");
    let withdrawn = post(&who, &path, json!({}), Some("w1")).await;
    assert_eq!(
        (&withdrawn.body["state"], &withdrawn.body["number"]),
        (&json!("withdrawn"), &Value::Null)
    );
    assert_eq!(tier(&who).await, 1, "an address proves nobody's identity");
    let file = get(&who, &format!("{DOCUMENTS}/{passport_id}/content")).await;
    assert_eq!((file.status, file.code()), (404, "document_not_found"));

    let export = get(&who, "/v1/profiles/me/export").await;
    let steps: Vec<(String, String, String)> = export.body["decisions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| {
            let text = |name: &str| d[name].as_str().unwrap().to_owned();
            (text("field"), text("after"), text("by"))
        })
        .collect();
    let step = |field: &str, after: &str, by: &str| (field.into(), after.into(), by.into());
    for expected in [
        step("document", "verified", "rules"),
        step("document", "verifying", "rules"),
        step("document", "verified", "usr_ops"),
        step("kyc_tier", "2", "rules"),
        step("kyc_tier", "3", "rules"),
        step("kyc_tier", "1", "rules"),
    ] {
        assert!(steps.contains(&expected), "{expected:?} in {steps:?}");
    }
    assert!(assert_events_fit_their_schemas().await >= 8);
}

#[tokio::test]
async fn what_rules_can_decide_is_rejected_without_a_person() {
    let who = user("usr_d2");
    put(&who, "Ada").await;
    for (change, finding) in [
        (json!({"number": "12"}), "number_format"),
        (json!({"number": null}), "number_missing"),
        (json!({"expires_on": "2020-01-01"}), "past_expiry"),
        (json!({"expires_on": null}), "expiry_missing"),
    ] {
        let mut body = passport("C01X00T48");
        for (name, value) in change.as_object().unwrap() {
            body[name] = value.clone();
        }
        let id = submit(&who, body).await;
        let done = verify(&who, &id).await;
        assert_eq!(
            (&done["state"], &done["findings"]),
            (&json!("rejected"), &json!([finding]))
        );
        let late = decide(&id, "verified", finding).await;
        assert_eq!((late.status, late.code()), (409, "invalid_state"));
    }
    assert_eq!(tier(&who).await, 1);
}

#[tokio::test]
async fn a_number_that_someone_else_has_is_for_a_person_and_neither_owner_learns_of_it() {
    let (ada, eve) = (user("usr_d3"), user("usr_d4"));
    put(&ada, "Ada").await;
    put(&eve, "Eve").await;
    let first = submit(&ada, passport("L0GK9J3X1")).await;
    assert_eq!(verify(&ada, &first).await["state"], "verified");
    let second = submit(&eve, passport("l0gk 9j3-x1")).await;
    let waiting = verify(&eve, &second).await;
    assert_eq!(
        (&waiting["state"], &waiting["findings"]),
        (&json!("verifying"), &json!([]))
    );
    let seen = get(&operations(), &format!("/v1/documents/{second}")).await;
    assert_eq!(seen.body["findings"], json!(["duplicate_number"]));
    let export = get(&eve, "/v1/profiles/me/export").await;
    assert_eq!(export.body["documents"][0]["findings"], json!([]));
    let elsewhere = submit(&eve, {
        let mut other = passport("L0GK9J3X1");
        other["country"] = json!("FR");
        other
    })
    .await;
    assert_eq!(verify(&eve, &elsewhere).await["state"], "verified");
}

#[tokio::test]
async fn two_that_send_the_same_number_at_the_same_moment_are_never_both_verified() {
    let people = [user("usr_d5"), user("usr_d6")];
    for who in &people {
        put(who, "Twin").await;
    }
    let ids = [
        submit(&people[0], passport("RACE00001")).await,
        submit(&people[1], passport("RACE00001")).await,
    ];
    let (a, b) = tokio::join!(verify(&people[0], &ids[0]), verify(&people[1], &ids[1]));
    assert_eq!(
        (&a["state"], &b["state"]),
        (&json!("verifying"), &json!("verifying"))
    );
}

#[tokio::test]
async fn documents_of_one_person_that_are_decided_at_once_all_count() {
    let who = user("usr_d7");
    put(&who, "Ada").await;
    let (card, bill) = (
        submit(&who, {
            let mut card = passport("T220001293");
            card["type"] = json!("id_card");
            card
        })
        .await,
        submit(&who, proof_of_address()).await,
    );
    verify(&who, &bill).await;
    let (checked, decided) = tokio::join!(
        run("profile.verify_kyc", json!([card])),
        decide(&bill, "verified", "d7")
    );
    assert_eq!((&checked["status"], decided.status), (&json!(200), 200));
    assert_eq!(tier(&who).await, 3);
}

#[tokio::test]
async fn a_job_that_comes_twice_checks_once() {
    let who = user("usr_d8");
    put(&who, "Ada").await;
    let id = submit(&who, passport("C01X00T55")).await;
    let job = json!({"id": "0192f3c2-0000-7000-8000-000000000001", "task": "profile.verify_kyc", "args": [id]});
    let first = deliver(job.clone()).await;
    assert_eq!(first["result"], json!({"state": "verified"}));
    assert_eq!(deliver(job).await["result"], first["result"]);
    let other = run("profile.verify_kyc", json!([id])).await;
    assert_eq!(other["result"], first["result"]);
    let events = platform().await.rows(&format!(
        "SELECT type FROM outbox WHERE key = '{id}' ORDER BY key_version"
    ));
    assert_eq!(events, [["document.submitted"], ["document.verified"]]);
    let none = run("profile.verify_kyc", json!(["doc_none"])).await;
    assert_eq!(none["status"], 404);
}

#[tokio::test]
async fn a_document_that_lost_its_job_is_found_again() {
    let who = user("usr_d9");
    put(&who, "Ada").await;
    let id = submit(&who, passport("C01X00T56")).await;
    let connection = rusqlite::Connection::open(&platform().await.database).unwrap();
    connection
        .execute("UPDATE documents SET updated_at = 0 WHERE id = ?1", [&id])
        .unwrap();
    let swept = run("profile.verify_kyc", json!([])).await;
    assert!(
        swept["result"]["enqueued"].as_i64().unwrap() >= 1,
        "{swept}"
    );
    let jobs = platform().await.rows(&format!(
        "SELECT payload FROM outbox WHERE type = 'task:profile.verify_kyc' AND payload LIKE '%{id}%'"
    ));
    assert_eq!(jobs.len(), 2);
    let job: Value = serde_json::from_str(&jobs[1][0]).unwrap();
    assert_eq!(deliver(job).await["result"], json!({"state": "verified"}));
}

#[tokio::test]
async fn a_document_whose_last_day_is_over_does_not_count_any_more() {
    let who = user("usr_d10");
    put(&who, "Ada").await;
    let id = submit(&who, passport("C01X00T57")).await;
    verify(&who, &id).await;
    assert_eq!(tier(&who).await, 2);
    let connection = rusqlite::Connection::open(&platform().await.database).unwrap();
    connection
        .execute(
            "UPDATE documents SET expires_on = '2026-01-01' WHERE id = ?1",
            [&id],
        )
        .unwrap();
    let ended = run("profile.expire", json!([])).await;
    assert_eq!(ended["result"], json!({"expired": 1}));
    assert_eq!(tier(&who).await, 1);
    let read = get(&who, &format!("{DOCUMENTS}/{id}")).await;
    assert_eq!(
        (&read.body["state"], &read.body["findings"]),
        (&json!("expired"), &json!(["past_expiry"]))
    );
    let again = run("profile.expire", json!([])).await;
    assert_eq!(again["result"], json!({"expired": 0}));
    let updated = platform()
        .await
        .rows("SELECT payload FROM outbox WHERE key = 'usr_d10' ORDER BY key_version DESC LIMIT 1");
    let updated: Value = serde_json::from_str(&updated[0][0]).unwrap();
    assert_eq!(updated["kyc_tier"], 1);
}

#[tokio::test]
async fn a_file_comes_back_as_it_was_sent_and_a_look_of_operations_is_on_record() {
    let who = user("usr_d11");
    put(&who, "Ada").await;
    let id = submit(&who, proof_of_address()).await;
    let own = get(&who, &format!("{DOCUMENTS}/{id}/content")).await;
    let content = own.body["content_base64"].as_str().unwrap();
    assert_eq!(STANDARD.decode(content).unwrap(), b"\xff\xd8\xff a bill");
    assert_eq!(own.body["media_type"], "image/jpeg");
    let looked = get(&operations(), &format!("/v1/documents/{id}/content")).await;
    assert_eq!(looked.body, own.body);
    let export = get(&who, "/v1/profiles/me/export").await;
    assert_eq!(
        (
            &export.body["decisions"][0]["field"],
            &export.body["decisions"][0]["by"]
        ),
        (&json!("content_read"), &json!("usr_ops"))
    );
    assert_eq!(
        export.body["documents"][0]["content_base64"],
        json!(content)
    );
}

#[tokio::test]
async fn nobody_reaches_the_documents_of_others() {
    let who = user("usr_d12");
    put(&who, "Ada").await;
    put(&user("usr_d13"), "Eve").await;
    let id = submit(&who, passport("C01X00T58")).await;
    let stranger = user("usr_d13");
    for path in ["", "/content"] {
        let reply = get(&stranger, &format!("{DOCUMENTS}/{id}{path}")).await;
        assert_eq!((reply.status, reply.code()), (404, "document_not_found"));
    }
    let withdraw = post(
        &stranger,
        &format!("{DOCUMENTS}/{id}/withdraw"),
        json!({}),
        None,
    )
    .await;
    assert_eq!(withdraw.status, 404);
    let auditor = person("usr_au", "auditor", "profile:read");
    for reader in [&stranger, &who, &auditor] {
        for path in [
            "/v1/documents".to_owned(),
            format!("/v1/documents/{id}"),
            format!("/v1/documents/{id}/content"),
        ] {
            let reply = get(reader, &path).await;
            assert_eq!(
                (reply.status, reply.code()),
                (403, "insufficient_scope"),
                "{path}"
            );
        }
        let body = json!({"decision": "verified", "reason": "please"});
        let reply = post(
            reader,
            &format!("/v1/documents/{id}/decision"),
            body,
            Some("p"),
        )
        .await;
        assert_eq!(reply.status, 403);
    }
    let ops = operations();
    let mut own = ops.clone();
    own.scope = "profile:read profile:write".into();
    put(&own, "Ops").await;
    let own_bill = submit(&own, proof_of_address()).await;
    verify(&own, &own_bill).await;
    let refused = decide(&own_bill, "verified", "d13").await;
    assert_eq!(
        (refused.status, refused.code()),
        (403, "insufficient_scope")
    );
}

#[tokio::test]
async fn what_is_no_document_is_refused_by_field_and_a_repeated_key_submits_once() {
    let who = user("usr_d14");
    let without = post(&who, DOCUMENTS, passport("C01X00T59"), None).await;
    assert_eq!((without.status, without.code()), (404, "profile_not_found"));
    put(&who, "Ada").await;
    for (name, value, param) in [
        ("country", json!("de"), "/country"),
        ("number", json!(""), "/number"),
        ("expires_on", json!("2026-02-30"), "/expires_on"),
        ("expires_on", json!("20260101"), "/expires_on"),
        ("content_base64", json!("%%%"), "/content_base64"),
        (
            "content_base64",
            json!(STANDARD.encode("GIF89a")),
            "/content_base64",
        ),
        ("type", json!("library_card"), "/type"),
        ("more", json!(1), "/more"),
    ] {
        let mut body = passport("C01X00T59");
        body[name] = value;
        let reply = post(&who, DOCUMENTS, body.clone(), None).await;
        assert_eq!(
            (reply.status, reply.body["param"].as_str()),
            (400, Some(param)),
            "{}",
            reply.body
        );
    }
    let first = post(&who, DOCUMENTS, passport("C01X00T59"), Some("once")).await;
    let again = post(&who, DOCUMENTS, passport("C01X00T59"), Some("once")).await;
    assert!(again.replayed);
    assert_eq!((again.status, &again.body), (first.status, &first.body));
    let other = post(&who, DOCUMENTS, passport("C01X00T60"), Some("once")).await;
    assert_eq!(
        (other.status, other.code()),
        (422, "idempotency_key_reused")
    );
    assert_eq!(other.body["differing_fields"], json!(["/number"]));
    let list = get(&who, DOCUMENTS).await;
    assert_eq!(list.body["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_person_holds_no_more_files_than_an_export_can_carry_under_any_race() {
    let who = user("usr_d15");
    put(&who, "Ada").await;
    // 720 KiB each: five fit into 4 MiB.
    let mut scan = b"%PDF-".to_vec();
    scan.resize(720 * 1024, 7);
    let body = json!({"type": "selfie", "country": "DE", "content_base64": STANDARD.encode(&scan)});
    let sends = (0..8).map(|_| post(&who, DOCUMENTS, body.clone(), None));
    let mut statuses: Vec<u16> = Vec::new();
    let mut ids = Vec::new();
    for reply in futures_all(sends).await {
        statuses.push(reply.status);
        if reply.status == 202 {
            ids.push(reply.body["id"].as_str().unwrap().to_owned());
        } else {
            assert_eq!(reply.code(), "invalid_state", "{}", reply.body);
        }
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [202, 202, 202, 202, 202, 409, 409, 409]);
    let export = get(&who, "/v1/profiles/me/export").await;
    assert_eq!(export.body["documents"].as_array().unwrap().len(), 5);
    let path = format!("{DOCUMENTS}/{}/withdraw", ids[0]);
    assert_eq!(post(&who, &path, json!({}), None).await.status, 200);
    assert_eq!(
        post(&who, DOCUMENTS, body, None).await.status,
        202,
        "there is room again"
    );
}

async fn futures_all<F: Future>(all: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut running: Vec<std::pin::Pin<Box<F>>> = all.into_iter().map(Box::pin).collect();
    let mut done: Vec<Option<F::Output>> = running.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, slot) in running.iter_mut().zip(&mut done) {
            if slot.is_none()
                && let std::task::Poll::Ready(output) = future.as_mut().poll(context)
            {
                *slot = Some(output);
            }
        }
        match done.iter().all(Option::is_some) {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
    done.into_iter().flatten().collect()
}
