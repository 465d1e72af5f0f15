//! From outbox to subscriber.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{collections::HashSet, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use innover_bridge::{
    Bridge, Clock, Commits, Delivery, Door, DoorError, NoGate,
    inspect::{self, LetterFilter},
};
use serde_json::json;
use support::{Answer, FakeDoor, Platform, START, emit, until};

#[tokio::test]
async fn an_event_reaches_its_subscribers_as_a_cloudevent_and_leaves_the_outbox() {
    let platform = Platform::new(&[
        ("payment", &["ledger.posted"]),
        ("forex", &["payment.initiated"]),
    ]);
    let door = FakeDoor::ok();
    let commits = Commits::new(&platform.services);
    let bridge = platform.start_with(&door, commits.clone()).await;
    emit(
        &platform.open("payment"),
        "e1",
        "payment.initiated",
        "pay_1",
        r#"{"amount":12345678901234567890}"#,
    );
    commits.committed("payment");
    until("delivered", || !door.seen().is_empty()).await;
    let seen = door.seen().remove(0);
    assert_eq!(seen.service, "forex");
    let mut body = seen.body;
    assert_eq!(
        body["data"]["amount"].to_string(),
        "12345678901234567890",
        "the payload is not rewritten"
    );
    body["data"] = json!({});
    assert_eq!(
        body,
        json!({
            "specversion": "1.0", "id": "e1", "source": "/innover/payment", "type": "payment.initiated",
            "subject": "pay_1", "partitionkey": "pay_1", "time": "2026-10-30T12:00:00.000000Z",
            "datacontenttype": "application/json", "dataschema": "/schemas/payment.initiated/v1.json",
            "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "correlationid": "req-1", "data": {},
        })
    );
    assert!(
        seen.traceparent.is_some(),
        "one event's delivery is part of its trace"
    );
    until("deleted", || platform.outbox("payment") == 0).await;
    bridge.shutdown().await;
    assert_eq!(door.seen().len(), 1);
}

#[tokio::test]
async fn rows_of_a_writer_nobody_announces_are_found_by_polling() {
    let platform = Platform::new(&[("payment", &[]), ("forex", &["payment.initiated"])]);
    let door = FakeDoor::ok();
    let bridge = platform.start(&door).await;
    platform.emit("payment", "e1", "payment.initiated", "pay_1");
    until("delivered", || door.ids("forex") == ["e1"]).await;
    bridge.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn later_events_of_a_key_wait_behind_a_failing_one_and_other_keys_flow() {
    let mut platform = Platform::new(&[("payment", &[]), ("forex", &["payment.initiated"])]);
    platform.clock = Clock::tokio(START);
    let door = FakeDoor::new(|_, event, before| match event["id"].as_str() {
        Some("a1") if before < 4 => Answer::Status(409),
        _ => Answer::Status(200),
    });
    let bridge = platform.start(&door).await;
    for (id, key) in [
        ("a1", "a"),
        ("b1", "b"),
        ("a2", "a"),
        ("b2", "b"),
        ("a3", "a"),
    ] {
        platform.emit("payment", id, "payment.initiated", key);
    }
    until("a3 is delivered", || {
        door.ids("forex").iter().filter(|id| *id == "a3").count() > 0
    })
    .await;
    until("settled", || {
        inspect::subscribers(&platform.store())
            .unwrap()
            .iter()
            .all(|s| s.retrying == 0)
    })
    .await;
    let acknowledged = acknowledged(&door);
    let place = |id: &str| acknowledged.iter().rposition(|a| a == id).unwrap();
    assert!(
        place("a1") < place("a2") && place("a2") < place("a3"),
        "{acknowledged:?}"
    );
    assert!(
        place("b2") < place("a1"),
        "another key did not wait: {acknowledged:?}"
    );
    bridge.shutdown().await;
}

fn acknowledged(door: &FakeDoor) -> Vec<String> {
    let seen = door.seen().into_iter();
    seen.filter(|s| matches!(s.answer, Answer::Status(200)))
        .map(|s| s.id)
        .collect()
}

#[tokio::test(start_paused = true)]
async fn refused_events_are_parked_at_once_and_hopeless_ones_after_25_tries() {
    let mut platform = Platform::new(&[("payment", &[]), ("forex", &["payment.initiated"])]);
    platform.clock = Clock::tokio(START);
    let door = FakeDoor::new(|_, event, _| match event["id"].as_str() {
        Some("refused") => Answer::Status(422),
        Some("hopeless") => Answer::Status(409),
        Some("forgotten") => Answer::LeftOut,
        _ => Answer::Status(204),
    });
    let bridge = platform.start(&door).await;
    for id in ["refused", "hopeless", "forgotten", "good"] {
        platform.emit("payment", id, "payment.initiated", id);
    }
    let letters = || {
        inspect::dead_letters(
            &platform.store(),
            &LetterFilter {
                kind: Some("event"),
                target: Some("forex".into()),
                ..LetterFilter::default()
            },
            10,
        )
        .unwrap()
    };
    until("three dead letters", || letters().len() == 3).await;
    let mut letters: Vec<_> = letters()
        .into_iter()
        .map(|l| (l.id, l.attempts, l.error))
        .collect();
    letters.sort();
    assert_eq!(
        letters,
        [
            (
                "forgotten".into(),
                25,
                "502 the answer leaves this event out".into()
            ),
            ("hopeless".into(), 25, "409 as told".into()),
            ("refused".into(), 1, "422 as told".into()),
        ]
    );
    assert!(
        platform.clock.now() - START > 60 * 60 * 1_000_000,
        "25 tries take over an hour of backoff"
    );
    assert!(
        bridge
            .metrics()
            .contains("innover_events_dead_total{subscriber=\"forex\"} 3"),
        "{}",
        bridge.metrics()
    );
    bridge.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_poison_event_is_isolated_from_its_batch() {
    let mut platform = Platform::new(&[("payment", &[]), ("forex", &["payment.initiated"])]);
    platform.clock = Clock::tokio(START);
    for poison in [Answer::Whole(500), Answer::Silence, Answer::Whole(400)] {
        let door = FakeDoor::new(move |_, event, _| match event["id"].as_str() {
            Some(id) if id.ends_with("poison") => poison.clone(),
            _ => Answer::Status(200),
        });
        let connection = platform.open("payment");
        let run = platform.clock.now();
        for n in 0..20 {
            let id = if n == 7 {
                format!("{run}-poison")
            } else {
                format!("{run}-{n}")
            };
            emit(
                &connection,
                &id,
                "payment.initiated",
                &format!("{run}-{}", n % 10),
                "{}",
            );
        }
        let bridge = platform.start(&door).await;
        let good = |id: &str| door.seen().iter().any(|s| s.id == id && s.of == 1);
        until("the others are delivered", || {
            (0..20)
                .filter(|n| n % 10 != 7)
                .all(|n| good(&format!("{run}-{n}")))
        })
        .await;
        until("the poison is a dead letter", || {
            inspect::dead_letters(
                &platform.store(),
                &LetterFilter {
                    kind: Some("event"),
                    ..LetterFilter::default()
                },
                100,
            )
            .unwrap()
            .iter()
            .any(|l| l.id == format!("{run}-poison"))
        })
        .await;
        until("the one behind it is delivered then", || {
            door.seen()
                .iter()
                .any(|s| s.id == format!("{run}-17") && s.of == 1)
        })
        .await;
        bridge.shutdown().await;
    }
}

#[tokio::test(start_paused = true)]
async fn events_wait_without_losing_tries_while_the_service_cannot_be_reached() {
    let mut platform = Platform::new(&[("payment", &[]), ("forex", &["payment.initiated"])]);
    platform.clock = Clock::tokio(START);
    let door = FakeDoor::new(|_, _, before| {
        if before < 100 {
            Answer::Unavailable
        } else {
            Answer::Status(200)
        }
    });
    let bridge = platform.start(&door).await;
    platform.emit("payment", "e1", "payment.initiated", "a");
    until("tried", || door.seen().len() > 3).await;
    let readiness = bridge.readiness();
    assert!(
        !readiness.ready && readiness.problems[0].contains("forex"),
        "{readiness:?}"
    );
    until("delivered", || door.seen().len() == 101).await;
    until("ready again", || bridge.readiness().ready).await;
    assert_eq!(
        inspect::dead_letters(
            &platform.store(),
            &LetterFilter {
                ..LetterFilter::default()
            },
            10
        )
        .unwrap(),
        []
    );
    bridge.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn events_wait_when_the_service_has_no_door_for_them() {
    let mut platform = Platform::new(&[("payment", &[]), ("forex", &["payment.initiated"])]);
    platform.clock = Clock::tokio(START);
    let door = FakeDoor::new(|_, _, before| {
        if before < 60 {
            Answer::Whole(404)
        } else {
            Answer::Status(200)
        }
    });
    for id in ["e1", "e2"] {
        platform.emit("payment", id, "payment.initiated", id);
    }
    let bridge = platform.start(&door).await;
    until("both are delivered", || {
        door.seen()
            .iter()
            .filter(|s| matches!(s.answer, Answer::Status(_)))
            .count()
            == 2
    })
    .await;
    assert_eq!(
        inspect::dead_letters(
            &platform.store(),
            &LetterFilter {
                ..LetterFilter::default()
            },
            10
        )
        .unwrap(),
        []
    );
    bridge.shutdown().await;
}

#[tokio::test]
async fn an_event_published_but_not_deleted_before_a_crash_is_delivered_once() {
    let platform = Platform::new(&[("payment", &[]), ("forex", &["payment.initiated"])]);
    let door = FakeDoor::ok();
    let bridge = platform.start(&door).await;
    platform.emit("payment", "e1", "payment.initiated", "a");
    until("delivered", || door.ids("forex") == ["e1"]).await;
    bridge.shutdown().await;
    // The delete that a power cut undid: the row is back.
    platform.emit("payment", "e1", "payment.initiated", "a");
    let bridge = platform.start(&door).await;
    platform.emit("payment", "e2", "payment.initiated", "a");
    until("e2 is delivered", || {
        door.ids("forex").contains(&"e2".into())
    })
    .await;
    until("both are deleted", || platform.outbox("payment") == 0).await;
    assert_eq!(door.ids("forex"), ["e1", "e2"]);
    bridge.shutdown().await;
}

#[tokio::test]
async fn unreadable_rows_are_parked_with_their_reason_and_the_rest_flows_on() {
    let platform = Platform::new(&[("payment", &[]), ("forex", &["payment.initiated"])]);
    let door = FakeDoor::ok();
    let connection = platform.open("payment");
    emit(&connection, "no-json", "payment.initiated", "a", "{");
    support::row(
        &connection,
        "no-job",
        "payment-tasks",
        "",
        "task:payment.run",
        r#"{"id":1}"#,
    );
    support::row(
        &connection,
        "no-queue",
        "nobody-tasks",
        "",
        "task:payment.run",
        r#"{"id":"j1","task":"payment.run"}"#,
    );
    connection
        .execute(
            "INSERT INTO outbox (id, topic, type, payload) VALUES ('blob', 'x', 'x', x'ff')",
            [],
        )
        .unwrap();
    connection
        .execute(
            "INSERT INTO outbox (id, topic, type, payload) VALUES (NULL, NULL, NULL, NULL)",
            [],
        )
        .unwrap();
    emit(&connection, "good", "payment.initiated", "a", "{}");
    let bridge = platform.start(&door).await;
    until("the rest flows on", || door.ids("forex") == ["good"]).await;
    let (store, all) = (platform.job_store(), LetterFilter::default());
    let letters = store.dead_letters(&all, 10).await.unwrap();
    let mut reasons: Vec<_> = letters
        .iter()
        .map(|l| (l.kind.as_str(), l.target.as_str(), l.error.as_str()))
        .collect();
    reasons.sort_unstable();
    assert_eq!(reasons.len(), 5, "{reasons:?}");
    assert_eq!(
        reasons[0],
        ("job", "nobody-tasks", "no queue is called `nobody-tasks`")
    );
    assert!(
        reasons[1..]
            .iter()
            .all(|r| r.0 == "outbox" && r.1 == "payment"),
        "{reasons:?}"
    );
    until("the outbox is empty", || platform.outbox("payment") == 0).await;
    bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_is_dropped_in_the_middle_loses_nothing_and_keeps_the_order() {
    let platform = Platform::new(&[
        ("payment", &[]),
        ("forex", &["payment.initiated"]),
        ("audit", &["payment.initiated"]),
    ]);
    let door = FakeDoor::new(|_, _, before| {
        if before == 0 {
            Answer::Status(409)
        } else {
            Answer::Status(200)
        }
    });
    *door.takes.lock().unwrap() = Duration::from_millis(3);
    let connection = platform.open("payment");
    let total = 400;
    let mut sent = 0;
    let mut bridge = platform.start(&door).await;
    for life in 0..6 {
        for _ in 0..total / 6 + 1 {
            if sent < total {
                emit(
                    &connection,
                    &format!("{sent:04}"),
                    "payment.initiated",
                    &format!("k{}", sent % 7),
                    "{}",
                );
                sent += 1;
            }
        }
        let before = door.seen().len();
        until("something is under way", || door.seen().len() > before + 10).await;
        drop(bridge);
        bridge = platform.start(&door).await;
        assert!(life < 6);
    }
    for service in ["forex", "audit"] {
        until("all are acknowledged", || {
            acknowledged_by(&door, service).len() == total
        })
        .await;
        let mut last: [Option<String>; 7] = Default::default();
        let mut known = HashSet::new();
        for id in first_acknowledged(&door, service) {
            let key = id.parse::<usize>().unwrap() % 7;
            assert!(known.insert(id.clone()));
            assert!(
                last[key].as_ref() < Some(&id),
                "{service}: {id} after {:?}",
                last[key]
            );
            last[key] = Some(id);
        }
    }
    bridge.shutdown().await;
    assert_eq!(platform.outbox("payment"), 0);
}

fn acknowledged_by(door: &FakeDoor, service: &str) -> HashSet<String> {
    first_acknowledged(door, service).into_iter().collect()
}

/// Ids in the order in which the bridge may count them as acknowledged: an answer to an event that
/// came in one batch with an earlier, failing one of its key does not count.
fn first_acknowledged(door: &FakeDoor, service: &str) -> Vec<String> {
    let mut done = HashSet::new();
    let mut order = Vec::new();
    let mut held: HashSet<(usize, String)> = HashSet::new();
    for seen in door.seen().into_iter().filter(|s| s.service == service) {
        let key = (
            seen.delivery,
            seen.body["partitionkey"].as_str().unwrap().to_owned(),
        );
        match seen.answer {
            Answer::Status(200) if !held.contains(&key) => {
                if done.insert(seen.id.clone()) {
                    order.push(seen.id);
                }
            }
            Answer::Status(200) => {}
            _ => drop(held.insert(key)),
        }
    }
    order
}

#[tokio::test]
async fn a_second_bridge_on_the_same_file_does_not_start() {
    let platform = Platform::new(&[("payment", &[])]);
    let door = FakeDoor::ok();
    let bridge = platform.start(&door).await;
    let second = innover_bridge::Bridge::start(
        platform.config(),
        door.clone(),
        std::sync::Arc::new(innover_bridge::NoGate),
        Commits::default(),
    );
    let error = second.await.err().expect("refused").to_string();
    assert!(error.contains("in use by another bridge"), "{error}");
    bridge.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn events_are_deleted_after_seven_days_unless_somebody_still_needs_them() {
    let mut platform = Platform::new(&[
        ("payment", &[]),
        ("forex", &["payment.initiated"]),
        ("audit", &["payment.initiated"]),
    ]);
    platform.clock = Clock::tokio(START);
    let door = FakeDoor::new(|service, _, _| match service {
        "audit" => Answer::Unavailable,
        _ => Answer::Status(200),
    });
    let bridge = platform.start(&door).await;
    platform.emit("payment", "e1", "payment.initiated", "a");
    until("forex has it", || door.ids("forex") == ["e1"]).await;
    bridge.shutdown().await;
    let week = 7 * 24 * 60 * 60 * 1_000_000;
    platform.clock = Clock::tokio(START + week + 60_000_000);
    let bridge = platform.start(&door).await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    let log = || inspect::events(&platform.store(), 0, 10, &Default::default()).unwrap();
    assert_eq!(log().len(), 1, "audit has not passed it");
    door.set(|_, _, _| Answer::Status(200));
    until("it is deleted", || log().is_empty()).await;
    platform.emit("payment", "e2", "payment.initiated", "a");
    until("e2 is delivered", || {
        door.ids("audit").contains(&"e2".into())
    })
    .await;
    assert_eq!(log()[0].seq, 2, "a seq is never given twice");
    bridge.shutdown().await;
}

/// Fails in the middle of each delivery to one service, as a fault in the bridge itself would.
struct Faulty(Arc<FakeDoor>, &'static str);

impl Door for Faulty {
    fn deliver<'a>(
        &'a self,
        delivery: Delivery<'a>,
    ) -> BoxFuture<'a, Result<(u16, Bytes), DoorError>> {
        assert_ne!(delivery.service, self.1, "injected by the test");
        self.0.deliver(delivery)
    }
}

#[tokio::test]
async fn a_task_that_panics_makes_the_bridge_not_ready_and_the_others_go_on() {
    let topics: &[&str] = &["payment.initiated"];
    let platform = Platform::new(&[("payment", &[]), ("wallet", topics), ("ledger", topics)]);
    let door = FakeDoor::ok();
    let faulty = Arc::new(Faulty(door.clone(), "wallet"));
    let (gate, commits) = (Arc::new(NoGate), Commits::default());
    let bridge = Bridge::start(platform.config(), faulty, gate, commits)
        .await
        .unwrap();
    assert_eq!(bridge.readiness().problems, Vec::<String>::new());
    platform.emit("payment", "e1", "payment.initiated", "p1");
    until("it is not ready", || !bridge.readiness().ready).await;
    let ended = "a task of the bridge has ended: events of wallet; restart it";
    assert_eq!(bridge.readiness().problems, [ended]);
    platform.emit("payment", "e2", "payment.initiated", "p1");
    until("the others go on", || door.ids("ledger") == ["e1", "e2"]).await;
    // Nor does its end keep the bridge from ending.
    bridge.shutdown().await;
}
