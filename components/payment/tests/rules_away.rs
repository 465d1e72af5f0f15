//! A payment the rules could not be asked about: a job asks them again, and a person may be faster.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use innover_kit::{
    contract::Identity,
    testing::{Outgoing, Platform, answer_calls, person},
};
use serde_json::{Value, json};

/// Whether the wallet `wal_frozen` is.
static FROZEN: AtomicBool = AtomicBool::new(false);

/// Wallets are named `wal_<owner>`; rules are away until they are asked about a payment that is there,
/// and then say what the payee's name says.
fn answer(call: &Outgoing) -> Option<(u16, Value)> {
    match call.callee {
        "wallet" => {
            let (_, ids) = call.path.split_once("ids=")?;
            let wallet = |id: &str| {
                let owner = id.trim_start_matches("wal_");
                let state = match FROZEN.load(Relaxed) && owner == "frozen" {
                    true => "frozen",
                    false => "active",
                };
                json!({"id": id, "owner": owner, "currency": "EUR", "state": state, "account_id": id})
            };
            let data: Vec<Value> = ids.split(',').map(wallet).collect();
            Some((200, json!({ "data": data })))
        }
        "rules" => {
            if call.body["payment_id"].is_null() {
                return None;
            }
            let facts = &call.body["facts"];
            assert_eq!(facts["amount_eur_minor"], 1234);
            match facts["payee_owner"].as_str()? {
                "unclear" => Some((
                    422,
                    json!({"code": "evaluation_failed", "detail": "", "status": 422,
                    "title": "A rule could not be evaluated", "type": "about:blank"}),
                )),
                "away" => None,
                "frozen" => Some((
                    200,
                    json!({"outcome": "approve", "reason_codes": ["fine"], "version": 7}),
                )),
                said => Some((
                    200,
                    json!({"outcome": said, "reason_codes": [format!("said_{said}")], "version": 7}),
                )),
            }
        }
        _ => None,
    }
}

struct Test {
    platform: Platform,
    user: Identity,
}

impl Test {
    /// Posts a payment; returns its id and the job that is to ask again.
    async fn pay(&self, payee: &str) -> (String, Value) {
        let body = json!({"payer_wallet": "wal_usr_a", "payee_wallet": format!("wal_{payee}"),
            "amount": "12.34", "currency": "EUR"});
        let key = format!("pay-{payee}");
        let paid = self.platform.send(
            "gateway",
            &self.user,
            "POST",
            "/v1/process",
            Some(body.to_string()),
            Some(&key),
        );
        let paid = paid.await;
        assert_eq!(
            (paid.status, &paid.body["state"], &paid.body["reason_codes"]),
            (202, &json!("review"), &json!(["rules_unavailable"])),
            "{}",
            paid.body
        );
        let id = paid.body["id"].as_str().unwrap().to_owned();
        let sql = format!(
            "SELECT payload FROM outbox WHERE type = 'task:payment.ask_rules' AND key = '{id}-rules'"
        );
        let job: Value = serde_json::from_str(&self.platform.rows(&sql)[0][0]).unwrap();
        assert!(
            job["eta"].as_i64().is_some() && job["priority"] == 9,
            "{job}"
        );
        (id, job)
    }

    /// The answer to a delivery of the job.
    async fn run(&self, job: &Value) -> Value {
        let bridge = person("bridge", "", "deliver");
        let body = json!({ "jobs": [job] }).to_string();
        let done = self
            .platform
            .send_as("bridge", &bridge, "/_tasks", "application/json", body);
        done.await.body["results"][0].clone()
    }

    async fn payment(&self, id: &str) -> Value {
        let path = format!("/v1/payments/{id}");
        self.platform
            .call(&self.user, "GET", &path, None)
            .await
            .body
    }

    async fn decisions(&self, id: &str) -> Vec<String> {
        let path = format!("/v1/payments/{id}/timeline");
        let timeline = self
            .platform
            .call(&self.user, "GET", &path, None)
            .await
            .body;
        let steps = timeline["data"].as_array().unwrap();
        let decisions = steps.iter().filter(|step| step["kind"] == "decision");
        decisions
            .map(|step| step["name"].as_str().unwrap().to_owned())
            .collect()
    }
}

#[tokio::test]
async fn the_rules_are_asked_again_and_decide_unless_a_person_has() {
    let platform = Platform::start(
        &payment::SERVICE,
        include_str!("../migrations/0001_init.sql"),
        &["gateway", "bridge"],
    );
    answer_calls(answer);
    let user = person("usr_a", "user", "payment:read payment:write");
    let t = Test { platform, user };

    for (said, state) in [
        ("approve", "initiated"),
        ("decline", "declined"),
        ("review", "review"),
    ] {
        let (id, job) = t.pay(said).await;
        let done = t.run(&job).await;
        assert_eq!(
            (&done["status"], &done["result"]),
            (&json!(200), &json!(state)),
            "{done}"
        );
        let payment = t.payment(&id).await;
        assert_eq!(
            (&payment["state"], &payment["reason_codes"]),
            (&json!(state), &json!([format!("said_{said}")]))
        );
        assert_eq!(
            t.decisions(&id).await,
            ["rules.review".to_owned(), format!("rules.{said}")]
        );
        // Delivered again, it changes nothing.
        let again = json!({"id": "by-hand", "task": "payment.ask_rules", "args": [id]});
        assert_eq!(t.run(&again).await["result"], "decided");
        assert_eq!(t.payment(&id).await, payment);
        let sql = format!("SELECT type FROM outbox WHERE key = '{id}' ORDER BY rowid");
        let told = t.platform.rows(&sql).concat();
        match state {
            "review" => assert_eq!(told, ["payment.review"]),
            _ => assert_eq!(
                told,
                ["payment.review".to_owned(), format!("payment.{state}")]
            ),
        }
    }

    // A wallet that was frozen meanwhile: nobody's approval lets money leave it.
    let (id, job) = t.pay("frozen").await;
    FROZEN.store(true, Relaxed);
    let done = t.run(&job).await;
    assert_eq!(
        (&done["status"], &done["result"]),
        (&json!(200), &json!("review")),
        "{done}"
    );
    assert_eq!(
        t.payment(&id).await["reason_codes"],
        json!(["fine", "wallet_not_active"])
    );
    let finance = person("usr_f", "finance", "payment:read payment:write");
    let path = format!("/v1/payments/{id}/decision");
    let approve = json!({"decision": "approve", "reason": "looks fine"});
    let decide = || {
        let body = Some(approve.to_string());
        t.platform
            .send("gateway", &finance, "POST", &path, body, Some("d-1"))
    };
    let refused = decide().await;
    assert_eq!(
        (refused.status, refused.code(), &refused.body["param"]),
        (422, "wallet_not_active", &json!("/payee_wallet")),
        "{}",
        refused.body
    );
    FROZEN.store(false, Relaxed);
    let decided = decide().await;
    assert_eq!(
        (decided.status, &decided.body["state"]),
        (200, &json!("initiated")),
        "{}",
        decided.body
    );

    // What the rules cannot evaluate stays a person's, and the job is done.
    let (id, job) = t.pay("unclear").await;
    let done = t.run(&job).await;
    assert_eq!(
        (&done["status"], &done["result"]),
        (&json!(200), &json!("review"))
    );
    assert_eq!(
        t.payment(&id).await["reason_codes"],
        json!(["rules_unavailable"])
    );

    // A person was faster.
    let (id, job) = t.pay("decline_late").await;
    let finance = person("usr_finance", "finance", "payment:read payment:write");
    let path = format!("/v1/payments/{id}/decision");
    let body = Some(json!({"decision": "approve"}).to_string());
    let approved = t
        .platform
        .send("gateway", &finance, "POST", &path, body, Some("decide"));
    assert_eq!(approved.await.status, 200);
    assert_eq!(t.run(&job).await["result"], "decided");
    assert_eq!(t.payment(&id).await["state"], "initiated");

    // Still away: the queue tries later.
    let (id, job) = t.pay("away").await;
    let done = t.run(&job).await;
    assert!(done["status"].as_i64().unwrap() >= 500, "{done}");
    assert_eq!(
        t.payment(&id).await["reason_codes"],
        json!(["rules_unavailable"])
    );
}
