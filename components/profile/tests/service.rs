//! The service as its callers see it: own profiles, decisions of operations, who may see what.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::{admin, get, platform, put, user};
use innover_kit::contract::Identity;
use innover_kit::testing::{Reply, person};
use serde_json::{Value, json};

async fn decide(who: &Identity, path: &str, body: Value, key: Option<&str>) -> Reply {
    common::post(who, path, body, key).await
}

#[tokio::test]
async fn a_person_makes_a_profile_changes_it_and_reads_it_back() {
    let who = user("usr_1");
    let platform = platform().await;
    let none = platform.call(&who, "GET", "/v1/profiles/me", None).await;
    assert_eq!((none.status, none.code()), (404, "profile_not_found"));
    let made = put(&who, "Ada").await;
    assert_eq!(made.status, 201, "{}", made.body);
    assert_eq!(
        (
            &made.body["kyc_tier"],
            &made.body["state"],
            &made.body["version"]
        ),
        (&json!(1), &json!("active"), &json!(1)),
        "the token carries an address"
    );
    assert_eq!(made.body["next_tier_needs"], "identity_document");
    let body = json!({"display_name": "Ada L.", "country": "GB"});
    let changed = platform
        .call(&who, "PUT", "/v1/profiles/me", Some(body.clone()))
        .await;
    assert_eq!((changed.status, &changed.body["version"]), (200, &json!(2)));
    let same = platform
        .call(&who, "PUT", "/v1/profiles/me", Some(body))
        .await;
    assert_eq!(same.body["version"], 2, "nothing changed");
    let read = platform.call(&who, "GET", "/v1/profiles/me", None).await;
    assert_eq!(read.body, changed.body);
    assert_eq!(
        platform
            .call(&who, "GET", "/v1/profiles/usr_1", None)
            .await
            .body,
        changed.body
    );
    let events =
        platform.rows("SELECT payload FROM outbox WHERE key = 'usr_1' ORDER BY key_version");
    assert_eq!(events.len(), 2);
    assert!(
        !events[1][0].contains("Ada"),
        "events hold no personal data"
    );
}

#[tokio::test]
async fn fields_that_do_not_fit_are_refused_by_name() {
    for (body, param) in [
        (json!({"display_name": ""}), "/display_name"),
        (json!({"display_name": " Ada"}), "/display_name"),
        (json!({"display_name": "A\u{7}"}), "/display_name"),
        (json!({"display_name": "x".repeat(101)}), "/display_name"),
        (json!({"display_name": "Ada", "country": "gb"}), "/country"),
        (json!({"display_name": "Ada", "country": "GBR"}), "/country"),
        (json!({"display_name": "Ada", "kyc_tier": 3}), "/kyc_tier"),
    ] {
        let reply = platform()
            .await
            .call(&user("usr_2"), "PUT", "/v1/profiles/me", Some(body.clone()))
            .await;
        assert_eq!(
            (reply.status, reply.code(), &reply.body["param"]),
            (400, "invalid_request", &json!(param)),
            "{body}"
        );
    }
    assert!(
        platform()
            .await
            .rows("SELECT id FROM profiles WHERE id = 'usr_2'")
            .is_empty()
    );
}

#[tokio::test]
async fn operations_decide_on_the_tier_once_per_key_and_the_reason_is_kept() {
    put(&user("usr_3"), "Ada").await;
    let path = "/v1/profiles/usr_3/tier";
    let body = json!({"tier": 2, "reason": "passport checked"});
    let without = decide(&admin(), path, body.clone(), None).await;
    assert_eq!(
        (without.status, without.code()),
        (400, "idempotency_key_required")
    );
    let first = decide(&admin(), path, body.clone(), Some("k3")).await;
    assert_eq!(
        (
            first.status,
            &first.body["kyc_tier"],
            &first.body["version"]
        ),
        (200, &json!(2), &json!(2))
    );
    let again = decide(&admin(), path, body, Some("k3")).await;
    assert!(again.replayed);
    assert_eq!(again.body, first.body);
    let other = decide(
        &admin(),
        path,
        json!({"tier": 3, "reason": "passport checked"}),
        Some("k3"),
    )
    .await;
    assert_eq!(
        (other.status, other.code()),
        (422, "idempotency_key_reused")
    );
    let rows = platform().await.rows(
        "SELECT before_value, after_value, decided_by FROM decisions WHERE profile_id = 'usr_3'",
    );
    assert_eq!(rows, [["1", "2", "usr_admin"]]);
    let export = get(&user("usr_3"), "/v1/profiles/me/export").await;
    assert_eq!(export.body["decisions"][0]["reason"], "passport checked");
    let events = platform()
        .await
        .rows("SELECT payload FROM outbox WHERE key = 'usr_3' AND key_version = 2");
    let event: Value = serde_json::from_str(&events[0][0]).unwrap();
    assert_eq!(
        event,
        json!({"profile_id": "usr_3", "version": 2, "kyc_tier": 2, "state": "active"})
    );
}

#[tokio::test]
async fn a_tier_that_does_not_exist_or_has_no_reason_is_refused() {
    put(&user("usr_4"), "Ada").await;
    for (body, param) in [
        (json!({"tier": 4, "reason": "r"}), "/tier"),
        (json!({"tier": -1, "reason": "r"}), "/tier"),
        (json!({"tier": 1, "reason": " "}), "/reason"),
        (json!({"tier": 1.5, "reason": "r"}), "/tier"),
        (json!({"reason": "r"}), ""),
    ] {
        let reply = decide(
            &admin(),
            "/v1/profiles/usr_4/tier",
            body.clone(),
            Some("k4"),
        )
        .await;
        assert_eq!(
            (reply.status, &reply.body["param"]),
            (400, &json!(param)),
            "{body}"
        );
    }
    let missing = decide(
        &admin(),
        "/v1/profiles/usr_none/tier",
        json!({"tier": 1, "reason": "r"}),
        Some("k5"),
    )
    .await;
    assert_eq!((missing.status, missing.code()), (404, "profile_not_found"));
    let state = decide(
        &admin(),
        "/v1/profiles/usr_4/state",
        json!({"state": "erased", "reason": "r"}),
        Some("k4s"),
    )
    .await;
    assert_eq!(
        (state.status, &state.body["param"]),
        (400, &json!("/state"))
    );
}

#[tokio::test]
async fn a_tier_of_operations_stands_until_they_give_it_back_to_the_documents() {
    put(&user("usr_8"), "Ada").await;
    let path = "/v1/profiles/usr_8/tier";
    let body = json!({"tier": 3, "reason": "known"});
    let set = decide(&common::operations(), path, body, Some("k8a")).await;
    assert_eq!(
        (&set.body["kyc_tier"], &set.body["tier_source"]),
        (&json!(3), &json!("operations")),
        "{}",
        set.body
    );
    let changed = put(&user("usr_8"), "Ada L.").await;
    assert_eq!(changed.body["kyc_tier"], 3);
    let body = json!({"tier": null, "reason": "not any more"});
    let back = decide(&common::operations(), path, body, Some("k8b")).await;
    assert_eq!(
        (&back.body["kyc_tier"], &back.body["tier_source"]),
        (&json!(1), &json!("documents"))
    );
}

#[tokio::test]
async fn a_suspended_profile_is_not_changed_by_its_owner() {
    put(&user("usr_5"), "Ada").await;
    let path = "/v1/profiles/usr_5/state";
    let suspended = decide(
        &admin(),
        path,
        json!({"state": "suspended", "reason": "r"}),
        Some("k6"),
    )
    .await;
    assert_eq!(suspended.body["state"], "suspended");
    let refused = put(&user("usr_5"), "Eve").await;
    assert_eq!((refused.status, refused.code()), (409, "invalid_state"));
    decide(
        &admin(),
        path,
        json!({"state": "active", "reason": "r"}),
        Some("k7"),
    )
    .await;
    assert_eq!(put(&user("usr_5"), "Eve").await.status, 200);
}

#[tokio::test]
async fn people_see_and_decide_nothing_about_others() {
    put(&user("usr_6"), "Ada").await;
    let platform = platform().await;
    let stranger = user("usr_7");
    let read = platform
        .call(&stranger, "GET", "/v1/profiles/usr_6", None)
        .await;
    assert_eq!((read.status, read.code()), (403, "not_owner"));
    assert_eq!(
        platform
            .call(&stranger, "GET", "/v1/profiles", None)
            .await
            .status,
        403
    );
    for who in [
        &stranger,
        &user("usr_6"),
        &person("usr_f", "finance", "profile:write"),
    ] {
        let body = json!({"tier": 3, "reason": "please"});
        let reply = decide(who, "/v1/profiles/usr_6/tier", body, Some("k8")).await;
        assert_eq!((reply.status, reply.code()), (403, "insufficient_scope"));
    }
    let auditor = person("usr_au", "auditor", "profile:read");
    assert_eq!(
        platform
            .call(&auditor, "GET", "/v1/profiles/usr_6", None)
            .await
            .status,
        200
    );
    let page = platform
        .call(&auditor, "GET", "/v1/profiles?limit=1", None)
        .await;
    assert_eq!(page.body["data"].as_array().unwrap().len(), 1);
}
