//! A refund's life on a real database: what the ledger tells ends it once, and what fails is free
//! again.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use innover_kit::{
    Batch, Cx, Db, Event,
    events::{EventHandler, Handled},
};
use innover_money::{Currency, Rate};
use refund::{
    events, jobs,
    model::{Legs, State, Terms},
    store::{self, Capture, Refund},
};
use serde_json::{Value, json};

struct Store {
    _folder: tempfile::TempDir,
    file: std::path::PathBuf,
}

impl Store {
    fn new() -> Store {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("refund.db");
        let schema = include_str!("../migrations/0001_init.sql");
        rusqlite::Connection::open(&file)
            .unwrap()
            .execute_batch(schema)
            .unwrap();
        Store {
            _folder: folder,
            file,
        }
    }

    fn db(&self) -> Db {
        Db::open_file(&self.file).unwrap()
    }

    async fn refund(&self, id: &str) -> Refund {
        store::by_id(&self.db(), id).await.unwrap().unwrap()
    }

    async fn refunded(&self, payment_id: &str) -> Legs {
        let capture = store::capture(&self.db(), payment_id).await.unwrap();
        capture.unwrap().refunded
    }

    fn outbox(&self) -> Vec<String> {
        let connection = rusqlite::Connection::open(&self.file).unwrap();
        let mut rows = connection
            .prepare("SELECT type || ' ' || key || ' ' || key_version FROM outbox ORDER BY rowid")
            .unwrap();
        let rows = rows.query_map([], |r| r.get(0)).unwrap();
        rows.map(Result::unwrap).collect()
    }
}

/// 33.33 EUR that became 37.23 USD.
fn capture(payment_id: &str) -> Capture {
    let captured = Legs {
        source: 3333,
        margin: 0,
        target: 3723,
    };
    let usd = Currency::parse("USD").unwrap();
    let rate = Rate::parse("1.1172").unwrap();
    Capture {
        payment_id: payment_id.into(),
        version: 0,
        entry_id: "ent_paid".into(),
        payer_wallet: "wal_a".into(),
        payee_wallet: "wal_b".into(),
        payer_owner: "usr_a".into(),
        payee_owner: "usr_b".into(),
        payer_account: "acc_a".into(),
        payee_account: "acc_b".into(),
        terms: Terms::new(captured, Currency::EUR, usd, rate).unwrap(),
        refunded: Legs::default(),
    }
}

/// What a handler does, once: reads, computes the part, commits. `None` when too little is left.
async fn attempt(
    db: &mut Db,
    payment_id: &str,
    id: &str,
    amount: i64,
) -> Option<Result<(), Option<&'static str>>> {
    let capture = store::capture(db, payment_id)
        .await
        .unwrap()
        .unwrap_or_else(|| capture(payment_id));
    let legs = capture.terms.part(capture.refunded, amount).ok()?;
    let refund = Refund {
        id: id.into(),
        payment_id: payment_id.into(),
        state: State::Pending,
        version: 1,
        legs,
        entry_id: None,
        reason: "test".into(),
        failure_code: String::new(),
        failure_detail: String::new(),
        traceparent: String::new(),
        correlation_id: "req-1".into(),
        created_by: "usr_b".into(),
        created_at: 1,
        updated_at: 1,
        payer_owner: "usr_a".into(),
        payee_owner: "usr_b".into(),
        source_currency: "EUR".into(),
        target_currency: "USD".into(),
    };
    let mut batch = Batch::new();
    store::reserve(&mut batch, &capture, &refund, &refund.cause());
    Some(batch.commit(db).await.map_err(|e| e.step()))
}

async fn reserve(store: &Store, payment_id: &str, id: &str, amount: i64) {
    let done = attempt(&mut store.db(), payment_id, id, amount).await;
    assert_eq!(done, Some(Ok(())));
}

fn event(kind: &str, source: &str, data: Value) -> Event {
    let key = data["refund_id"].as_str().unwrap_or_default().to_owned();
    serde_json::from_value(json!({
        "specversion": "1.0", "id": innover_kit::ids::new_uuid(), "source": source, "type": kind,
        "subject": key, "partitionkey": key, "time": "2026-10-30T12:00:00Z", "data": data,
    }))
    .unwrap()
}

fn posted(id: &str) -> Event {
    let data = json!({"entry_id": "ent_back", "kind": "refund", "payment_id": null,
                      "refund_id": id, "reference": "pay_1", "accounts": []});
    event("ledger.posted", "/innover/ledger", data)
}

fn rejected(id: &str) -> Event {
    let data = json!({"refund_id": id, "code": "insufficient_funds", "detail": "not enough"});
    event("ledger.rejected", "/innover/ledger", data)
}

async fn handle(store: &Store, handler: EventHandler, events: &[Event]) -> Handled {
    let mut db = store.db();
    let mut handled = handler(&Cx::detached("refund"), &db, events).await.unwrap();
    std::mem::take(&mut handled.batch)
        .commit(&mut db)
        .await
        .unwrap();
    handled
}

#[tokio::test]
async fn a_booked_refund_succeeds_once() {
    let store = Store::new();
    reserve(&store, "pay_1", "ref_1", 1111).await;
    handle(&store, events::posted, &[posted("ref_1")]).await;
    // Again under another id, and a refusal that comes late.
    handle(&store, events::posted, &[posted("ref_1")]).await;
    handle(&store, events::rejected, &[rejected("ref_1")]).await;
    let refund = store.refund("ref_1").await;
    assert_eq!(
        (refund.state, refund.version, refund.entry_id.as_deref()),
        (State::Succeeded, 2, Some("ent_back"))
    );
    assert_eq!(store.refunded("pay_1").await, refund.legs);
    assert_eq!(
        store.outbox(),
        ["refund.initiated ref_1 1", "refund.succeeded ref_1 2"]
    );
}

#[tokio::test]
async fn a_refused_refund_fails_with_its_reason_and_frees_its_amount_once() {
    let store = Store::new();
    reserve(&store, "pay_1", "ref_1", 1111).await;
    reserve(&store, "pay_1", "ref_2", 2222).await;
    let nothing_left = attempt(&mut store.db(), "pay_1", "ref_3", 1).await;
    assert_eq!(nothing_left, None);
    for _ in 0..2 {
        handle(&store, events::rejected, &[rejected("ref_1")]).await;
    }
    let refund = store.refund("ref_1").await;
    assert_eq!(
        (refund.state, refund.failure_code.as_str(), refund.entry_id),
        (State::Failed, "insufficient_funds", None)
    );
    assert_eq!(store.refunded("pay_1").await.source, 2222);
    reserve(&store, "pay_1", "ref_3", 1111).await;
    assert_eq!(
        store.refunded("pay_1").await,
        capture("pay_1").terms.captured()
    );
}

#[tokio::test]
async fn refunds_of_one_payment_that_fail_together_free_all_they_took() {
    let store = Store::new();
    let ids: Vec<String> = (0..33).map(|n| format!("ref_{n}")).collect();
    for id in &ids {
        reserve(&store, "pay_1", id, 101).await;
    }
    reserve(&store, "pay_2", "ref_other", 50).await;
    let mut refusals: Vec<Event> = ids.iter().map(|id| rejected(id)).collect();
    refusals.push(rejected("ref_other"));
    handle(&store, events::rejected, &refusals).await;
    assert_eq!(store.refunded("pay_1").await, Legs::default());
    assert_eq!(store.refunded("pay_2").await, Legs::default());
}

#[tokio::test]
async fn only_the_ledger_ends_a_refund_and_entries_of_others_pass_by() {
    let store = Store::new();
    reserve(&store, "pay_1", "ref_1", 1111).await;
    for source in ["external", "/innover/payment", "ledger", ""] {
        let mut forged = posted("ref_1");
        forged.source = source.into();
        assert!(
            handle(&store, events::posted, &[forged])
                .await
                .refused
                .is_empty()
        );
    }
    let of_a_payment = json!({"entry_id": "ent_1", "payment_id": "pay_1", "refund_id": null});
    let of_a_payment = event("ledger.posted", "/innover/ledger", of_a_payment);
    let before_refunds = json!({"payment_id": "pay_1", "code": "timed_out", "detail": ""});
    let before_refunds = event("ledger.rejected", "/innover/ledger", before_refunds);
    let unknown = posted("ref_unknown");
    let broken = event(
        "ledger.posted",
        "/innover/ledger",
        json!({"refund_id": "ref_1"}),
    );
    let events = [of_a_payment, unknown, broken.clone()];
    let handled = handle(&store, events::posted, &events).await;
    assert_eq!(handled.refused.keys().collect::<Vec<_>>(), [&broken.id]);
    let handled = handle(&store, events::rejected, &[before_refunds]).await;
    assert!(handled.refused.is_empty());
    assert_eq!(store.refund("ref_1").await.state, State::Pending);
}

#[tokio::test]
async fn a_part_computed_on_a_total_that_moved_takes_nothing() {
    let store = Store::new();
    // Two that read at the same moment: the row does not exist for either.
    let first = capture("pay_1");
    reserve(&store, "pay_1", "ref_1", 1000).await;
    let mut refund = store.refund("ref_1").await;
    refund.id = "ref_2".into();
    let mut batch = Batch::new();
    store::reserve(&mut batch, &first, &refund, &refund.cause());
    let error = batch.commit(&mut store.db()).await.unwrap_err();
    assert_eq!(error.step(), Some("capture"));
    assert_eq!(store.refunded("pay_1").await.source, 1000);
    assert!(store::by_id(&store.db(), "ref_2").await.unwrap().is_none());

    // A version that holds does not help either: the sum is a condition of its own.
    let mut now = store::capture(&store.db(), "pay_1").await.unwrap().unwrap();
    refund.legs.source = 2334;
    now.refunded = Legs::default();
    let mut batch = Batch::new();
    store::reserve(&mut batch, &now, &refund, &refund.cause());
    let error = batch.commit(&mut store.db()).await.unwrap_err();
    assert_eq!(error.step(), Some("capture"));
}

#[test]
fn refunds_that_race_never_exceed_what_was_captured() {
    let store = Store::new();
    let took: usize = std::thread::scope(|scope| {
        let store = &store;
        let racers: Vec<_> = (0..8)
            .map(|racer| {
                scope.spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build()
                        .unwrap();
                    runtime.block_on(async {
                        let mut db = store.db();
                        let mut took = 0;
                        for n in 0.. {
                            let id = format!("ref_{racer}_{n}");
                            match attempt(&mut db, "pay_1", &id, 100).await {
                                None => break,
                                Some(Ok(())) => took += 1,
                                // Someone was faster, or holds the database: the next attempt.
                                Some(Err(step)) => {
                                    assert!(step.is_none_or(|s| s == "capture"), "{step:?}");
                                }
                            }
                        }
                        took
                    })
                })
            })
            .collect();
        racers.into_iter().map(|r| r.join().unwrap()).sum()
    });
    // 33.33 in parts of 1.00.
    assert_eq!(took, 33);
    let connection = rusqlite::Connection::open(&store.file).unwrap();
    let sum = "SELECT c.refunded = 3300 AND c.refunded = SUM(f.source_minor)
                  AND c.refunded_target = SUM(f.target_minor) AND c.version = COUNT(*)
               FROM captures c JOIN refunds f ON f.payment_id = c.payment_id";
    let agrees: bool = connection.query_row(sum, [], |row| row.get(0)).unwrap();
    assert!(agrees);
}

#[tokio::test]
async fn the_sweep_decides_nothing_without_the_ledger() {
    let store = Store::new();
    reserve(&store, "pay_1", "ref_1", 1111).await;
    let db = store.db();
    let job = jobs::SWEEP.job("sweep-1", vec![]);
    let handled = jobs::sweep(&Cx::detached("refund"), &db, &[job])
        .await
        .unwrap();
    assert!(handled.batch.is_empty());
    assert_eq!(handled.results["sweep-1"], json!({"swept": 0}));
    assert_eq!(store.refund("ref_1").await.state, State::Pending);
}
