//! The service as its callers see it: cases of both versions, who may do what, and decisions that
//! payments follow. Scoring and payment are stood in for.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{collections::BTreeMap, sync::Mutex};

use innover_kit::{
    contract::Identity,
    testing::{Outgoing, Platform, Reply, answer_calls, person},
};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

static PLATFORM: OnceCell<Platform> = OnceCell::const_new();

/// What the payments of these tests are in, by id; a decision moves them on as the real ones.
static PAYMENTS: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());
/// Every decision that was asked for.
static DECISIONS: Mutex<Vec<Decision>> = Mutex::new(Vec::new());

#[derive(Clone)]
struct Decision {
    path: String,
    identity: Identity,
    key: Option<String>,
}

async fn platform() -> &'static Platform {
    PLATFORM
        .get_or_init(|| async {
            answer_calls(|call| match call.callee {
                "scoring" => Some(score(call)),
                "payment" => Some(payment(call)),
                _ => None,
            });
            Platform::start(
                &cases::SERVICE,
                include_str!("../migrations/0001_init.sql"),
                &["gateway", "bridge"],
            )
        })
        .await
}

fn score(asked: &Outgoing) -> (u16, Value) {
    assert_eq!((asked.method.as_str(), asked.path), ("POST", "/v1/scoring"));
    assert!(asked.identity.has_scope("scoring:write"));
    let features = &asked.body["features"];
    let points = features["amount_eur_minor"].as_i64().unwrap_or(0) / 1_000;
    (
        200,
        json!({"case_id": asked.body["case_id"], "score": points,
               "reasons": [{"code": "amount", "feature": "amount_eur_minor", "points": points}],
               "model": "test-1", "scored_at": "2026-11-20T12:00:00Z"}),
    )
}

fn payment(asked: &Outgoing) -> (u16, Value) {
    let id = asked.path.split('/').nth(3).unwrap().to_owned();
    let mut payments = PAYMENTS.lock().unwrap();
    let Some(state) = payments.get_mut(&id) else {
        return (404, problem("payment_not_found", 404));
    };
    if asked.method == "POST" {
        DECISIONS.lock().unwrap().push(Decision {
            path: asked.path.to_owned(),
            identity: asked.identity.clone(),
            key: asked.idempotency_key.map(str::to_owned),
        });
        match (&**state, asked.body["decision"].as_str().unwrap()) {
            ("busy", _) => return (429, problem("rate_limited", 429)),
            ("review", "approve") => "initiated".clone_into(state),
            ("review", "decline") => "declined".clone_into(state),
            _ => return (409, problem("invalid_state", 409)),
        }
    }
    (
        200,
        json!({"id": id, "state": state, "source": {"amount": "250.00", "currency": "EUR"},
               "target": {"amount": null, "currency": "USD"}, "reason_codes": ["large_amount"]}),
    )
}

fn problem(code: &str, status: u16) -> Value {
    json!({"type": format!("urn:innover:problem:{code}"), "title": code, "status": status,
           "detail": "said the test", "code": code})
}

fn analyst() -> Identity {
    person("usr_analyst", "analyst", "case:read case:write")
}

fn viewer() -> Identity {
    person("usr_viewer", "viewer", "case:read")
}

async fn post(who: &Identity, path: &str, body: Value, key: Option<&str>) -> Reply {
    platform()
        .await
        .send("gateway", who, "POST", path, Some(body.to_string()), key)
        .await
}

async fn get(who: &Identity, path: &str) -> Reply {
    platform().await.call(who, "GET", path, None).await
}

async fn opened(title: &str) -> String {
    let made = post(&analyst(), "/v1/cases", json!({"title": title}), None).await;
    assert_eq!(made.status, 201, "{}", made.body);
    made.body["id"].as_str().unwrap().to_owned()
}

fn bridge() -> Identity {
    Identity {
        scope: "deliver".into(),
        ..Identity::default()
    }
}

/// Hands over what the outbox holds of jobs of `case`, as the bridge does, and returns the answers.
/// Each job is handed over once more than needed.
async fn run_jobs(case: &str) -> Vec<(String, u16)> {
    let platform = platform().await;
    let sql = format!(
        "SELECT payload FROM outbox WHERE type LIKE 'task:%' AND payload LIKE '%{case}%'
         ORDER BY created_at, id"
    );
    let mut answers = Vec::new();
    for row in platform.rows(&sql) {
        let job: Value = serde_json::from_str(&row[0]).unwrap();
        for _ in 0..2 {
            let body = json!({ "jobs": [job] }).to_string();
            let reply = platform
                .send("bridge", &bridge(), "POST", "/_tasks", Some(body), None)
                .await;
            let answer = &reply.body["results"][0];
            let status = answer["status"].as_u64().unwrap();
            answers.push((job["task"].as_str().unwrap().to_owned(), status as u16));
        }
    }
    answers
}

fn event(kind: &str, payment_id: &str, n: u32) -> Value {
    let state = kind.split('.').nth(1).unwrap();
    json!({"specversion": "1.0", "id": format!("{payment_id}-{kind}-{n}"), "type": kind,
           "source": "/innover/payment", "subject": payment_id, "time": "2026-11-20T12:00:00Z",
           "partitionkey": payment_id, "correlationid": "req-1", "authid": "usr_payer",
           "data": {"payment_id": payment_id, "state": state, "version": 1,
                    "payer_wallet": "wal_a", "payee_wallet": "wal_b"}})
}

async fn deliver(events: &[Value]) {
    let reply = platform()
        .await
        .send_as(
            "bridge",
            &bridge(),
            "/_events",
            "application/cloudevents-batch+json",
            json!(events).to_string(),
        )
        .await;
    for answer in reply.body["results"].as_array().unwrap() {
        assert_eq!(answer["status"], 200, "{answer}");
    }
}

/// A payment under review and its case.
async fn reviewed(payment_id: &str) -> String {
    let state = "review".to_owned();
    PAYMENTS.lock().unwrap().insert(payment_id.into(), state);
    deliver(&[event("payment.review", payment_id, 1)]).await;
    let path = format!("/v1/cases?payment_id={payment_id}");
    let found = get(&viewer(), &path).await;
    let cases = found.body["data"].as_array().unwrap();
    assert_eq!(cases.len(), 1, "{}", found.body);
    cases[0]["id"].as_str().unwrap().to_owned()
}

async fn decide(who: &Identity, case: &str, decision: &str, key: &str) -> Reply {
    let path = format!("/v1/cases/{case}/decision");
    let body = json!({"decision": decision, "reason": "called the customer"});
    post(who, &path, body, Some(key)).await
}

async fn events_of(case: &str) -> Vec<(String, Value)> {
    let sql = format!("SELECT type, payload FROM outbox WHERE key = '{case}' ORDER BY key_version");
    let rows = platform().await.rows(&sql);
    rows.into_iter()
        .map(|row| (row[0].clone(), serde_json::from_str(&row[1]).unwrap()))
        .collect()
}

#[tokio::test]
async fn both_versions_show_one_store_and_only_the_second_knows_priorities() {
    let body = json!({"title": "Three cards, one address", "priority": "urgent"});
    let first = post(&analyst(), "/v1/cases", body.clone(), None).await;
    assert_eq!(
        (first.status, &first.body["param"]),
        (400, &json!("/priority"))
    );
    let second = post(&analyst(), "/v2/cases", body, None).await;
    assert_eq!(second.status, 201, "{}", second.body);
    let id = second.body["id"].as_str().unwrap();
    assert_eq!(
        (&second.body["priority"], &second.body["owner_id"]),
        (&json!("urgent"), &json!("usr_analyst"))
    );
    let old = get(&viewer(), &format!("/v1/cases/{id}")).await;
    assert_eq!(
        (&old.body["title"], old.body.get("priority")),
        (&second.body["title"], None)
    );
    let path = format!("/v2/cases/{id}");
    let lower = platform()
        .await
        .call(&analyst(), "PATCH", &path, Some(json!({"priority": "low"})))
        .await;
    assert_eq!(
        (
            lower.status,
            &lower.body["priority"],
            &lower.body["version"]
        ),
        (200, &json!("low"), &json!(2))
    );
    let path = format!("/v1/cases/{id}");
    let unknown = platform()
        .await
        .call(&analyst(), "PATCH", &path, Some(json!({"priority": "low"})))
        .await;
    assert_eq!(
        (unknown.status, unknown.code()),
        (405, "method_not_allowed")
    );
    let made_before = get(&viewer(), &format!("/v2/cases/{}", opened("old").await)).await;
    assert_eq!(made_before.body["priority"], "normal");
}

#[tokio::test]
async fn a_repeated_request_opens_one_case() {
    let body = json!({"title": "Once", "owner_id": "usr_b"});
    let first = post(&analyst(), "/v1/cases", body.clone(), Some("once")).await;
    let again = post(&analyst(), "/v1/cases", body, Some("once")).await;
    assert_eq!(
        (first.status, again.status, again.replayed),
        (201, 201, true)
    );
    assert_eq!(first.body, again.body);
    let other = json!({"title": "Twice", "owner_id": "usr_b"});
    let other = post(&analyst(), "/v1/cases", other, Some("once")).await;
    assert_eq!(
        (other.status, other.code(), &other.body["differing_fields"]),
        (422, "idempotency_key_reused", &json!(["/title"]))
    );
    let stored = platform()
        .await
        .rows("SELECT id FROM cases WHERE title IN ('Once', 'Twice')");
    assert_eq!(stored.len(), 1);
}

#[tokio::test]
async fn fields_that_do_not_fit_are_refused_by_name() {
    for (body, param) in [
        (json!({}), ""),
        (json!({"title": " "}), "/title"),
        (json!({"title": "x".repeat(201)}), "/title"),
        (json!({"title": "a\nb"}), "/title"),
        (json!({"title": "a", "owner_id": ""}), "/owner_id"),
        (json!({"title": "a", "owner_id": "a b"}), "/owner_id"),
        (json!({"title": "a", "state": "open"}), "/state"),
    ] {
        let reply = post(&analyst(), "/v1/cases", body.clone(), None).await;
        assert_eq!(
            (reply.status, reply.code()),
            (400, "invalid_request"),
            "{body}"
        );
        assert_eq!(
            reply.body["param"].as_str().unwrap_or_default(),
            param,
            "{body}"
        );
    }
    let reply = get(&viewer(), "/v1/cases?state=lost").await;
    assert_eq!((reply.status, reply.code()), (400, "invalid_request"));
}

#[tokio::test]
async fn a_case_is_assigned_started_commented_on_and_listed() {
    let id = opened("To be worked on").await;
    let at = |what: &str| format!("/v1/cases/{id}/{what}");
    let given = post(
        &analyst(),
        &at("assign"),
        json!({"owner_id": "usr_list"}),
        None,
    )
    .await;
    assert_eq!(given.body["owner_id"], "usr_list");
    let started = post(&analyst(), &at("start"), json!({}), None).await;
    assert_eq!(
        (&started.body["state"], &started.body["owner_id"]),
        (&json!("in_progress"), &json!("usr_list"))
    );
    let twice = post(&analyst(), &at("start"), json!({}), None).await;
    assert_eq!((twice.status, twice.code()), (409, "invalid_state"));
    for body in ["first\nline", "second"] {
        let made = post(&analyst(), &at("comments"), json!({ "body": body }), None).await;
        assert_eq!(
            (made.status, &made.body["author"]),
            (201, &json!("usr_analyst"))
        );
    }
    let comments = get(&viewer(), &at("comments")).await;
    let bodies: Vec<&Value> = comments.body["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| &c["body"])
        .collect();
    assert_eq!(bodies, [&json!("first\nline"), &json!("second")]);
    let found = get(&viewer(), "/v1/cases?owner=usr_list&state=in_progress").await;
    assert_eq!(found.body["data"][0]["id"], json!(id));
    let none = get(&viewer(), "/v1/cases?owner=usr_list&state=open").await;
    assert_eq!(none.body["data"], json!([]));
    let changes: Vec<String> = events_of(&id)
        .await
        .iter()
        .filter_map(|(_, data)| Some(data["change"].as_str()?.to_owned()))
        .collect();
    assert_eq!(changes, ["assigned", "started", "commented", "commented"]);
}

#[tokio::test]
async fn writing_needs_the_scope_deciding_the_role_and_a_user_sees_only_their_own() {
    let id = opened("Not yours").await;
    let refused = post(&viewer(), "/v1/cases", json!({"title": "a"}), None).await;
    assert_eq!(
        (refused.status, refused.code()),
        (403, "insufficient_scope")
    );
    let clerk = person("usr_clerk", "ops_user", "case:read case:write");
    let refused = decide(&clerk, &id, "approve", "clerk").await;
    assert_eq!(
        (refused.status, refused.code()),
        (403, "insufficient_scope")
    );
    let user = person("usr_u", "user", "case:read");
    let refused = get(&user, &format!("/v1/cases/{id}")).await;
    assert_eq!((refused.status, refused.code()), (403, "not_owner"));
    let body = json!({"title": "Theirs", "owner_id": "usr_u"});
    let theirs = post(&analyst(), "/v1/cases", body, None).await;
    let own = get(&user, "/v1/cases").await;
    let ids: Vec<&Value> = own.body["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| &c["id"])
        .collect();
    assert_eq!(ids, [&theirs.body["id"]]);
    let others = get(&user, "/v1/cases?owner=usr_analyst").await;
    assert_eq!((others.status, others.code()), (403, "not_owner"));
    let missing = get(&viewer(), "/v1/cases/case_none").await;
    assert_eq!((missing.status, missing.code()), (404, "case_not_found"));
}

#[tokio::test]
async fn a_case_opened_by_hand_is_scored_by_its_job_once() {
    let id = opened("Score me").await;
    assert_eq!(
        run_jobs(&id).await,
        [("cases.rescore".into(), 200), ("cases.rescore".into(), 200)]
    );
    let case = get(&viewer(), &format!("/v1/cases/{id}")).await.body;
    assert_eq!(
        (
            &case["score_state"],
            &case["score"],
            &case["score_model"],
            &case["version"]
        ),
        (&json!("scored"), &json!(0), &json!("test-1"), &json!(2))
    );
    assert_eq!(case["score_reasons"][0]["code"], "amount");
    // Whoever wants to know again says so.
    for (kwargs, result) in [
        (json!({}), json!("not due")),
        (
            json!({"force": true}),
            json!({"score_state": "scored", "score": 0}),
        ),
    ] {
        let job = json!({"id": format!("again-{kwargs}"), "task": "cases.rescore",
                         "args": [id], "kwargs": kwargs});
        let body = json!({ "jobs": [job] }).to_string();
        let reply = platform()
            .await
            .send("bridge", &bridge(), "POST", "/_tasks", Some(body), None)
            .await;
        assert_eq!(reply.body["results"][0]["result"], result, "{}", reply.body);
    }
    let case = get(&viewer(), &format!("/v1/cases/{id}")).await.body;
    assert_eq!(case["version"], 3);
}

#[tokio::test]
async fn a_payment_under_review_has_one_case_however_often_it_is_told() {
    let id = reviewed("pay_1").await;
    deliver(&[event("payment.review", "pay_1", 1)]).await;
    deliver(&[
        event("payment.review", "pay_1", 2),
        event("payment.review", "pay_1", 3),
    ])
    .await;
    let mut foreign = event("payment.review", "pay_foreign", 1);
    foreign["source"] = "/innover/rules".into();
    deliver(&[foreign]).await;
    let stored = "SELECT id FROM cases WHERE payment_id IN ('pay_1', 'pay_foreign')";
    assert_eq!(platform().await.rows(stored), [[id.clone()]]);
    run_jobs(&id).await;
    let case = get(&viewer(), &format!("/v1/cases/{id}")).await.body;
    assert_eq!(
        (
            &case["score"],
            &case["payment_id"],
            &case["owner_id"],
            &case["created_by"]
        ),
        (&json!(25), &json!("pay_1"), &json!(null), &json!(null)),
        "scored by what the payment service says: 250 EUR"
    );
}

#[tokio::test]
async fn eight_deliveries_of_one_review_at_the_same_moment_open_one_case() {
    platform().await;
    std::thread::scope(|scope| {
        for n in 0..8 {
            scope.spawn(move || alone(deliver(&[event("payment.review", "pay_8", n)])));
        }
    });
    let stored = "SELECT COUNT(*) FROM cases WHERE payment_id = 'pay_8'";
    assert_eq!(platform().await.rows(stored), [["1"]]);
}

/// Runs a future on a thread of its own.
fn alone<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

#[tokio::test]
async fn a_decision_is_recorded_first_and_the_payment_follows_on_behalf_of_who_decided() {
    let id = reviewed("pay_2").await;
    let decided = decide(&analyst(), &id, "approve", "k-pay-2").await;
    assert_eq!(
        (&decided.body["state"], &decided.body["payment_follows"]),
        (&json!("approved"), &json!("asked"))
    );
    let again = decide(&analyst(), &id, "approve", "k-pay-2").await;
    assert_eq!((again.replayed, &again.body), (true, &decided.body));
    let other = decide(&analyst(), &id, "reject", "k-other").await;
    assert_eq!((other.status, other.code()), (409, "invalid_state"));

    run_jobs(&id).await;
    let asked: Vec<Decision> = DECISIONS
        .lock()
        .unwrap()
        .iter()
        .filter(|asked| asked.path.contains("/pay_2/"))
        .cloned()
        .collect();
    assert_eq!(asked.len(), 1);
    assert_eq!(
        (&*asked[0].identity.sub, &*asked[0].identity.email),
        ("usr_analyst", "")
    );
    assert!(asked[0].identity.has_scope("case:write"));
    assert_eq!(asked[0].key, Some(format!("{id}-decision")));
    let case = get(&viewer(), &format!("/v1/cases/{id}")).await.body;
    assert_eq!(
        (&case["payment_follows"], &case["decided_by"]),
        (&json!("followed"), &json!("usr_analyst"))
    );
    // The payment's own event, which comes too, changes nothing more.
    deliver(&[event("payment.initiated", "pay_2", 1)]).await;
    deliver(&[event("payment.cancelled", "pay_2", 1)]).await;
    let after = get(&viewer(), &format!("/v1/cases/{id}")).await.body;
    assert_eq!(after, case);
    let kinds: Vec<String> = events_of(&id).await.into_iter().map(|(k, _)| k).collect();
    assert_eq!(kinds, ["case.opened", "case.decided", "case.updated"]);
}

#[tokio::test]
async fn the_payments_event_may_come_before_the_job_and_the_job_has_nothing_left_to_do() {
    let id = reviewed("pay_3").await;
    decide(&analyst(), &id, "reject", "k-pay-3").await;
    deliver(&[event("payment.declined", "pay_3", 1)]).await;
    let case = get(&viewer(), &format!("/v1/cases/{id}")).await.body;
    assert_eq!(
        (&case["state"], &case["payment_follows"]),
        (&json!("rejected"), &json!("followed"))
    );
    run_jobs(&id).await;
    let asked = DECISIONS.lock().unwrap();
    assert!(!asked.iter().any(|asked| asked.path.contains("/pay_3/")));
}

#[tokio::test]
async fn while_the_payment_service_is_too_busy_the_job_fails_and_the_decision_stands() {
    let id = reviewed("pay_4").await;
    PAYMENTS
        .lock()
        .unwrap()
        .insert("pay_4".into(), "busy".into());
    decide(&analyst(), &id, "reject", "k-pay-4").await;
    let answers = run_jobs(&id).await;
    let decided: Vec<u16> = answers
        .iter()
        .filter(|(task, _)| task == "cases.decide_payment")
        .map(|(_, status)| *status)
        .collect();
    assert_eq!(decided, [429, 429], "{answers:?}");
    let case = get(&viewer(), &format!("/v1/cases/{id}")).await.body;
    assert_eq!(
        (&case["state"], &case["payment_follows"]),
        (&json!("rejected"), &json!("asked"))
    );
    // Its tries are used up; half an hour later the sweep has it asked again.
    let connection = rusqlite::Connection::open(&platform().await.database).unwrap();
    connection
        .execute(
            "UPDATE cases SET decided_at = decided_at - 1900000000 WHERE payment_id = 'pay_4'",
            [],
        )
        .unwrap();
    PAYMENTS
        .lock()
        .unwrap()
        .insert("pay_4".into(), "review".into());
    let jobs = json!({"jobs": [{"id": "sweep-1", "task": "cases.sweep", "args": []}]});
    let swept = platform()
        .await
        .send(
            "bridge",
            &bridge(),
            "POST",
            "/_tasks",
            Some(jobs.to_string()),
            None,
        )
        .await;
    assert_eq!(swept.body["results"][0]["status"], 200, "{}", swept.body);
    run_jobs(&id).await;
    let case = get(&viewer(), &format!("/v1/cases/{id}")).await.body;
    assert_eq!(case["payment_follows"], "followed");
    assert_eq!(PAYMENTS.lock().unwrap()["pay_4"], "declined");
}

#[tokio::test]
async fn a_payment_decided_elsewhere_closes_the_case_with_that_outcome() {
    for (payment, kind, state) in [
        ("pay_5", "payment.initiated", "approved"),
        ("pay_6", "payment.declined", "rejected"),
        ("pay_7", "payment.cancelled", "rejected"),
    ] {
        let id = reviewed(payment).await;
        deliver(&[event(kind, payment, 1)]).await;
        let case = get(&viewer(), &format!("/v1/cases/{id}")).await.body;
        assert_eq!(
            (
                &case["state"],
                &case["payment_follows"],
                &case["decided_by"]
            ),
            (&json!(state), &json!("followed"), &json!(null)),
            "{kind}"
        );
        let late = decide(&analyst(), &id, "approve", payment).await;
        assert_eq!((late.status, late.code()), (409, "invalid_state"));
        let last = events_of(&id).await.pop().unwrap();
        assert_eq!(
            (&*last.0, &last.1["state"]),
            ("case.decided", &json!(state))
        );
    }
}

#[tokio::test]
async fn a_review_that_is_told_after_its_end_has_a_case_that_closes_by_its_first_scoring() {
    for (payment, kind, state) in [
        ("pay_11", "payment.initiated", "approved"),
        ("pay_12", "payment.cancelled", "rejected"),
    ] {
        deliver(&[event(kind, payment, 1)]).await;
        let id = reviewed(payment).await;
        let now = kind.split('.').nth(1).unwrap().to_owned();
        PAYMENTS.lock().unwrap().insert(payment.into(), now);
        run_jobs(&id).await;
        let case = get(&viewer(), &format!("/v1/cases/{id}")).await.body;
        assert_eq!(
            (&case["state"], &case["payment_follows"]),
            (&json!(state), &json!("followed")),
            "{kind}"
        );
    }
}

#[tokio::test]
async fn a_decision_that_comes_too_late_for_its_payment_is_replaced() {
    // Approved here; declined over there before the job could say so.
    let id = reviewed("pay_9").await;
    PAYMENTS
        .lock()
        .unwrap()
        .insert("pay_9".into(), "declined".into());
    decide(&analyst(), &id, "approve", "k-pay-9").await;
    run_jobs(&id).await;
    let case = get(&viewer(), &format!("/v1/cases/{id}")).await.body;
    assert_eq!(
        (
            &case["state"],
            &case["payment_follows"],
            &case["decided_by"]
        ),
        (&json!("rejected"), &json!("overruled"), &json!(null))
    );
    // The same told by the event.
    let id = reviewed("pay_10").await;
    decide(&analyst(), &id, "reject", "k-pay-10").await;
    deliver(&[event("payment.initiated", "pay_10", 1)]).await;
    let case = get(&viewer(), &format!("/v1/cases/{id}")).await.body;
    assert_eq!(
        (&case["state"], &case["payment_follows"]),
        (&json!("approved"), &json!("overruled"))
    );
}

#[tokio::test]
async fn a_person_scores_a_case_now_but_not_a_decided_one() {
    let id = opened("Now").await;
    let path = format!("/v2/cases/{id}/score");
    let scored = post(&analyst(), &path, json!({}), Some("now")).await;
    assert_eq!(
        (scored.status, &scored.body["score_state"]),
        (200, &json!("scored"))
    );
    let again = post(&analyst(), &path, json!({}), Some("now")).await;
    assert_eq!((again.replayed, &again.body), (true, &scored.body));
    // The job that was waiting finds nothing due.
    run_jobs(&id).await;
    let case = get(&viewer(), &format!("/v2/cases/{id}")).await.body;
    assert_eq!(case["version"], 2);
    decide(&analyst(), &id, "approve", "k-now").await;
    let late = post(&analyst(), &path, json!({}), None).await;
    assert_eq!((late.status, late.code()), (409, "invalid_state"));
}
