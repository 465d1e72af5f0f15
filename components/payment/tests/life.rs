//! A payment's life on a real database, driven by the events and jobs the bridge delivers.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use http::{Method, Request};
use innover_kit::{
    Cause, Cx, Db, Event,
    events::{EventHandler, Handled},
};
use payment::{
    events, jobs,
    model::State,
    store::{self, Payment, Writer},
};
use serde_json::{Value, json};

struct Store {
    _folder: tempfile::TempDir,
    file: std::path::PathBuf,
}

impl Store {
    fn new() -> Store {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("payment.db");
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

    async fn state(&self, id: &str) -> State {
        store::by_id(&self.db(), id).await.unwrap().unwrap().state
    }

    fn outbox(&self) -> Vec<(String, i64)> {
        let connection = rusqlite::Connection::open(&self.file).unwrap();
        let mut rows = connection
            .prepare("SELECT type, key_version FROM outbox ORDER BY rowid")
            .unwrap();
        let rows = rows.query_map([], |r| Ok((r.get(0)?, r.get(1)?))).unwrap();
        rows.map(Result::unwrap).collect()
    }
}

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn cx() -> Cx {
    let (parts, ()) = Request::builder()
        .method(Method::POST)
        .uri("/_events")
        .body(())
        .unwrap()
        .into_parts();
    Cx::new("payment", &parts, None)
}

fn new(id: &str, state: State) -> Payment {
    Payment {
        id: id.into(),
        state,
        version: 1,
        payer_wallet: "wal_a".into(),
        payee_wallet: "wal_b".into(),
        payer_owner: "usr_a".into(),
        payee_owner: "usr_b".into(),
        payer_account: "acc_a".into(),
        payee_account: "acc_b".into(),
        source_minor: 3333,
        source_currency: "EUR".into(),
        target_minor: None,
        target_currency: "USD".into(),
        margin_minor: None,
        rate: None,
        rate_date: None,
        exact: None,
        entry_id: None,
        quote_id: None,
        reference: "test".into(),
        reason_codes: vec![],
        reason_detail: String::new(),
        rules_version: Some(1),
        traceparent: TRACE.into(),
        correlation_id: "req-1".into(),
        created_by: "usr_a".into(),
        withdrawn_by: None,
        created_at: 1,
        updated_at: 1,
    }
}

async fn insert(store: &Store, id: &str, state: State) {
    let mut writer = Writer::default();
    let payment = new(id, state);
    writer.insert(&payment, None, &payment.cause());
    writer.finish().commit(&mut store.db()).await.unwrap();
}

fn event(kind: &str, source: &str, data: Value) -> Event {
    let key = data["payment_id"].as_str().unwrap_or_default().to_owned();
    serde_json::from_value(json!({
        "specversion": "1.0", "id": innover_kit::ids::new_uuid(), "source": source, "type": kind,
        "subject": key, "partitionkey": key, "time": "2026-10-30T12:00:00Z", "traceparent": TRACE,
        "data": data,
    }))
    .unwrap()
}

async fn handle(store: &Store, handler: EventHandler, events: &[Event]) -> Handled {
    let mut db = store.db();
    let mut handled = handler(&cx(), &db, events).await.unwrap();
    std::mem::take(&mut handled.batch)
        .commit(&mut db)
        .await
        .unwrap();
    handled
}

fn converted(id: &str) -> Event {
    event(
        "forex.converted",
        "/innover/forex",
        json!({
            "payment_id": id, "target_minor": 3723, "margin_minor": 0, "rate": "1.1172",
            "rate_date": "2026-10-30", "exact": "37.236276",
        }),
    )
}

fn posted(id: &str) -> Event {
    event(
        "ledger.posted",
        "/innover/ledger",
        json!({"payment_id": id, "entry_id": "ent_1"}),
    )
}

fn wallet_updated(id: &str) -> Event {
    event(
        "wallet.updated",
        "/innover/wallet",
        json!({"payment_id": id, "entry_id": "ent_1"}),
    )
}

async fn confirm(store: &Store, id: &str) -> Handled {
    let mut db = store.db();
    let mut job = jobs::CONFIRM.job(format!("{id}-confirm"), vec![id.into()]);
    job.traceparent = Some(TRACE.into());
    let mut handled = jobs::confirm(&cx(), &db, &[job]).await.unwrap();
    std::mem::take(&mut handled.batch)
        .commit(&mut db)
        .await
        .unwrap();
    handled
}

#[tokio::test]
async fn a_payment_passes_every_state_under_one_trace() {
    let store = Store::new();
    insert(&store, "pay_1", State::Initiated).await;
    let announced = event(
        "payment.initiated",
        "/innover/payment",
        json!({"payment_id": "pay_1"}),
    );
    handle(&store, events::initiated, &[announced]).await;
    assert_eq!(store.state("pay_1").await, State::Converting);
    handle(&store, events::converted, &[converted("pay_1")]).await;
    assert_eq!(store.state("pay_1").await, State::Posting);
    handle(&store, events::posted, &[posted("pay_1")]).await;
    handle(&store, events::wallet_updated, &[wallet_updated("pay_1")]).await;
    assert_eq!(store.state("pay_1").await, State::Processing);
    let done = confirm(&store, "pay_1").await;
    assert_eq!(done.results["pay_1-confirm"], "completed");

    let payment = store::by_id(&store.db(), "pay_1").await.unwrap().unwrap();
    assert_eq!(payment.state, State::Completed);
    assert_eq!(payment.target_minor, Some(3723));
    assert_eq!(payment.exact.as_deref(), Some("37.236276"));
    assert_eq!(payment.entry_id.as_deref(), Some("ent_1"));

    let timeline = store::timeline(&store.db(), "pay_1").await.unwrap();
    let states: Vec<&str> = timeline
        .iter()
        .filter(|s| s.kind == "state")
        .map(|s| s.name.as_str())
        .collect();
    assert_eq!(
        states,
        [
            "initiated",
            "converting",
            "posting",
            "processing",
            "completed"
        ]
    );
    assert!(
        timeline
            .iter()
            .all(|s| s.trace_id == "4bf92f3577b34da6a3ce929d0e0e4736")
    );
    let announced: Vec<_> = store
        .outbox()
        .into_iter()
        .filter(|(k, _)| k.starts_with("payment."))
        .collect();
    assert_eq!(
        announced.iter().map(|(_, v)| *v).collect::<Vec<_>>(),
        [1, 2, 3, 4, 5]
    );
}

#[tokio::test]
async fn late_and_repeated_events_change_nothing() {
    let store = Store::new();
    insert(&store, "pay_1", State::Initiated).await;
    handle(&store, events::converted, &[converted("pay_1")]).await;
    handle(&store, events::posted, &[posted("pay_1")]).await;
    let version = store::by_id(&store.db(), "pay_1")
        .await
        .unwrap()
        .unwrap()
        .version;
    let late = [event(
        "payment.initiated",
        "/innover/payment",
        json!({"payment_id": "pay_1"}),
    )];
    handle(&store, events::initiated, &late).await;
    handle(&store, events::converted, &[converted("pay_1")]).await;
    let refusal = event(
        "forex.rejected",
        "/innover/forex",
        json!({
            "payment_id": "pay_1", "code": "no_rate", "detail": "",
        }),
    );
    handle(&store, events::rejected, &[refusal]).await;
    let payment = store::by_id(&store.db(), "pay_1").await.unwrap().unwrap();
    assert_eq!(
        (payment.state, payment.version),
        (State::Processing, version)
    );
}

#[tokio::test]
async fn a_conversion_that_the_ledgers_event_overtook_is_noted_once() {
    for late_by in [1, 2, 3] {
        let store = Store::new();
        insert(&store, "pay_1", State::Converting).await;
        let steps: [(EventHandler, Event); 2] = [
            (events::posted, posted("pay_1")),
            (events::wallet_updated, wallet_updated("pay_1")),
        ];
        for (handler, event) in steps.iter().take(late_by) {
            handle(&store, *handler, std::slice::from_ref(event)).await;
        }
        if late_by == 3 {
            confirm(&store, "pay_1").await;
        }
        let before = store.state("pay_1").await;
        let announced = store.outbox();
        for _ in 0..2 {
            handle(&store, events::converted, &[converted("pay_1")]).await;
        }
        let paid = store::by_id(&store.db(), "pay_1").await.unwrap().unwrap();
        assert_eq!((paid.state, paid.target_minor), (before, Some(3723)));
        assert_eq!(paid.rate.as_deref(), Some("1.1172"));
        assert_eq!(store.outbox(), announced, "nobody needs to hear of it");
        let lines = store::timeline(&store.db(), "pay_1").await.unwrap();
        let noted = lines.iter().filter(|l| l.name == "forex.converted").count();
        assert_eq!(noted, 1);
    }
}

#[tokio::test]
async fn an_event_of_another_source_never_moves_a_payment() {
    let store = Store::new();
    insert(&store, "pay_1", State::Initiated).await;
    for source in ["external", "/innover/wallet"] {
        let mut forged = posted("pay_1");
        forged.source = source.into();
        let handled = handle(&store, events::posted, &[forged]).await;
        assert!(handled.refused.is_empty(), "it is acknowledged");
    }
    assert_eq!(store.state("pay_1").await, State::Initiated);
}

#[tokio::test]
async fn a_refusal_fails_the_payment_with_its_reason() {
    let store = Store::new();
    insert(&store, "pay_1", State::Initiated).await;
    handle(&store, events::converted, &[converted("pay_1")]).await;
    let refusal = event(
        "ledger.rejected",
        "/innover/ledger",
        json!({
            "payment_id": "pay_1", "code": "insufficient_funds", "detail": "12.00 EUR are missing",
        }),
    );
    handle(&store, events::rejected, &[refusal]).await;
    let payment = store::by_id(&store.db(), "pay_1").await.unwrap().unwrap();
    assert_eq!(
        (payment.state, payment.entry_id.as_deref()),
        (State::Failed, None)
    );
    assert_eq!(payment.reason_codes, ["insufficient_funds"]);
}

#[tokio::test]
async fn what_the_ledger_says_of_a_refund_passes_a_payment_by() {
    let store = Store::new();
    insert(&store, "pay_1", State::Initiated).await;
    let refused = json!({"refund_id": "ref_1", "code": "insufficient_funds", "detail": ""});
    let refused = event("ledger.rejected", "/innover/ledger", refused);
    let booked = json!({"refund_id": "ref_1", "payment_id": null, "entry_id": "ent_2"});
    let booked = event("ledger.posted", "/innover/ledger", booked);
    let handled = handle(&store, events::rejected, &[refused]).await;
    assert!(handled.refused.is_empty(), "it is acknowledged");
    let handled = handle(&store, events::posted, &[booked]).await;
    assert!(handled.refused.is_empty(), "it is acknowledged");
    assert_eq!(store.state("pay_1").await, State::Initiated);
}

#[tokio::test]
async fn a_batch_moves_each_of_its_payments_and_refuses_only_what_does_not_fit() {
    let store = Store::new();
    for n in 0..100 {
        insert(&store, &format!("pay_{n}"), State::Initiated).await;
    }
    let mut events: Vec<Event> = (0..100).map(|n| converted(&format!("pay_{n}"))).collect();
    events[7].data = json!({"payment_id": "pay_7"});
    events.push(converted("pay_unknown"));
    let handled = handle(&store, events::converted, &events).await;
    assert_eq!(handled.refused.keys().collect::<Vec<_>>(), [&events[7].id]);
    for n in 0..100 {
        let expected = if n == 7 {
            State::Initiated
        } else {
            State::Posting
        };
        assert_eq!(store.state(&format!("pay_{n}")).await, expected);
    }
}

#[tokio::test]
async fn a_confirmation_before_the_money_moved_is_refused_and_a_second_one_is_harmless() {
    let store = Store::new();
    insert(&store, "pay_1", State::Initiated).await;
    assert_eq!(confirm(&store, "pay_1").await.refused.len(), 1);
    assert_eq!(confirm(&store, "pay_missing").await.refused.len(), 1);
    handle(&store, events::converted, &[converted("pay_1")]).await;
    handle(&store, events::posted, &[posted("pay_1")]).await;
    confirm(&store, "pay_1").await;
    let again = confirm(&store, "pay_1").await;
    assert_eq!(again.results["pay_1-confirm"], "completed");
    let completed = store
        .outbox()
        .into_iter()
        .filter(|(kind, _)| kind == "payment.completed")
        .count();
    assert_eq!(completed, 1);
}

#[tokio::test]
async fn a_change_decided_on_an_old_version_is_refused() {
    let store = Store::new();
    insert(&store, "pay_1", State::Initiated).await;
    let old = store::by_id(&store.db(), "pay_1").await.unwrap().unwrap();
    handle(&store, events::converted, &[converted("pay_1")]).await;
    let mut writer = Writer::default();
    writer.change(
        &old,
        State::Failed,
        store::Change::default(),
        &Cause::default(),
    );
    let error = writer.finish().commit(&mut store.db()).await.unwrap_err();
    assert_eq!(error.step(), Some("payment"));
    assert_eq!(store.state("pay_1").await, State::Posting);
}
