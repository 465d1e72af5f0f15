//! Jobs: from outbox, schedule or command line to their service. With `INNOVER_TEST_POSTGRES` those
//! that run on the machine's clock do so on a database that bridges share (`support`).
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::time::Duration;

use innover_bridge::{
    Clock, Enqueued, Missed, ScheduleSpec,
    inspect::{self, LetterFilter},
};
use innover_contract::Job;
use serde_json::{Value, json};
use support::{Answer, FakeDoor, Platform, START, until};

fn job(id: &str) -> Value {
    json!({"id": id, "task": "wallet.run", "args": [1]})
}

fn state(platform: &Platform, id: &str) -> String {
    platform.job(id).map(|j| j.state).unwrap_or_default()
}

#[tokio::test]
async fn a_job_from_an_outbox_runs_and_its_result_is_kept() {
    let platform = Platform::new(&[("wallet", &[]), ("payment", &[])]);
    let door = FakeDoor::new(|_, _, _| Answer::Result(json!({"sum": 3})));
    let bridge = platform.start(&door).await;
    platform.push("payment", "wallet-tasks", &job("j1"));
    until("done", || state(&platform, "j1") == "done").await;
    let row = platform.job("j1").unwrap();
    assert_eq!(
        (row.result.as_deref(), row.attempts),
        (Some(r#"{"sum":3}"#), 1)
    );
    let seen = door.seen();
    assert_eq!((seen.len(), seen[0].service.as_str()), (1, "wallet"));
    assert_eq!(
        (&seen[0].body["attempt"], &seen[0].body["correlationid"]),
        (&json!(1), &json!("req-1"))
    );
    assert!(seen[0].traceparent.is_some());
    let queues = platform.job_store().queues().await.unwrap();
    assert_eq!(
        (queues[0].queue.as_str(), queues[0].done),
        ("wallet-tasks", 1)
    );
    bridge.shutdown().await;
}

#[tokio::test]
async fn enqueueing_an_id_twice_runs_it_once() {
    let platform = Platform::new(&[("wallet", &[])]);
    let door = FakeDoor::ok();
    let bridge = platform.start(&door).await;
    let run = || Job::new("j1", "run", vec![]);
    assert_eq!(
        bridge.enqueue(Some("wallet-tasks"), run()).await.unwrap(),
        Enqueued::New
    );
    assert_eq!(
        bridge.enqueue(Some("wallet-tasks"), run()).await.unwrap(),
        Enqueued::Known
    );
    until("done", || state(&platform, "j1") == "done").await;
    assert_eq!(
        bridge.enqueue(Some("wallet-tasks"), run()).await.unwrap(),
        Enqueued::Known
    );
    let unknown = bridge
        .enqueue(None, Job::new("j2", "wallet.fly", vec![]))
        .await
        .unwrap_err();
    assert_eq!(
        unknown.to_string(),
        "the queue `wallet-tasks` has no task `wallet.fly`"
    );
    bridge.shutdown().await;
    assert_eq!(door.ids("wallet"), ["j1"]);
}

#[tokio::test]
async fn a_job_pushed_by_another_process_is_found() {
    let platform = Platform::new(&[("wallet", &[])]);
    let door = FakeDoor::ok();
    let bridge = platform.start(&door).await;
    let job = Job::new("j1", "wallet.run", vec![]);
    let store = platform.job_store();
    let pushed = store.enqueue(&platform.services, None, job).await;
    assert_eq!(pushed.unwrap(), Enqueued::New);
    until("done", || state(&platform, "j1") == "done").await;
    bridge.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_failing_job_is_retried_ten_times_and_a_refused_one_not_at_all() {
    let mut platform = Platform::new(&[("wallet", &[])]);
    platform.clock = Clock::tokio(START);
    let door = FakeDoor::new(|_, job, before| match job["id"].as_str() {
        Some("refused") => Answer::Status(422),
        Some("flaky") if before < 2 => Answer::Status(409),
        Some("flaky") => Answer::Status(200),
        Some("slow") => Answer::Silence,
        _ => Answer::Whole(500),
    });
    let bridge = platform.start(&door).await;
    for id in ["refused", "flaky", "slow", "broken"] {
        platform.push("wallet", "wallet-tasks", &job(id));
    }
    until("all have ended", || {
        ["refused", "flaky", "slow", "broken"]
            .iter()
            .all(|id| ["done", "failed", "dead"].contains(&&*state(&platform, id)))
    })
    .await;
    let ended = |id: &str| {
        inspect::job(&platform.store(), id)
            .unwrap()
            .map(|j| (j.state, j.attempts))
            .unwrap()
    };
    assert_eq!(ended("refused"), ("failed".into(), 1));
    assert_eq!(ended("flaky"), ("done".into(), 3));
    assert_eq!(ended("slow"), ("dead".into(), 10));
    assert_eq!(ended("broken"), ("dead".into(), 10));
    let mut letters: Vec<_> = inspect::dead_letters(
        &platform.store(),
        &LetterFilter {
            kind: Some("job"),
            target: Some("wallet-tasks".into()),
            ..LetterFilter::default()
        },
        10,
    )
    .unwrap()
    .into_iter()
    .map(|l| (l.id, l.attempts, l.error))
    .collect();
    letters.sort();
    assert_eq!(
        letters,
        [
            (
                "broken".into(),
                10,
                "500 the whole delivery was answered 500: all of it".into()
            ),
            ("refused".into(), 1, "422 as told".into()),
            ("slow".into(), 10, "502 no answer within 60s".into()),
        ]
    );
    bridge.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn jobs_of_one_task_share_a_delivery_and_one_that_fails_it_is_isolated() {
    let mut platform = Platform::new(&[("wallet", &[])]);
    platform.clock = Clock::tokio(START);
    platform.task("wallet").batch = 10;
    platform.queue("wallet").concurrency = 1;
    let door = FakeDoor::new(|_, job, _| match job["id"].as_str() {
        Some("j7") => Answer::Whole(500),
        _ => Answer::Status(200),
    });
    for n in 0..10 {
        platform.push("wallet", "wallet-tasks", &job(&format!("j{n}")));
    }
    let bridge = platform.start(&door).await;
    until("all have ended", || {
        (0..10).all(|n| state(&platform, &format!("j{n}")) == if n == 7 { "dead" } else { "done" })
    })
    .await;
    let seen = door.seen();
    assert_eq!(seen[0].of, 10, "the first delivery takes them all");
    assert!(
        seen.iter().skip(10).all(|s| s.of == 1),
        "after it failed each goes by itself"
    );
    assert_eq!(
        seen.iter().filter(|s| s.id == "j1").count(),
        2,
        "one try with the others, one by itself"
    );
    bridge.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn jobs_run_by_priority_then_age_within_the_queues_concurrency() {
    let mut platform = Platform::new(&[("wallet", &[])]);
    platform.clock = Clock::tokio(START);
    platform.queue("wallet").concurrency = 1;
    for (id, priority) in [("a", 5), ("b", 0), ("c", 5), ("d", 9), ("e", 0)] {
        platform.push(
            "wallet",
            "wallet-tasks",
            &json!({"id": id, "task": "wallet.run", "priority": priority}),
        );
    }
    let later = START + 3_600_000_000;
    platform.push(
        "wallet",
        "wallet-tasks",
        &json!({"id": "late", "task": "wallet.run", "priority": 0, "eta": later}),
    );
    let door = FakeDoor::ok();
    let bridge = platform.start(&door).await;
    until("the late one too", || state(&platform, "late") == "done").await;
    assert_eq!(door.ids("wallet"), ["b", "e", "a", "c", "d", "late"]);
    let started = inspect::job(&platform.store(), "late")
        .unwrap()
        .unwrap()
        .started_at
        .unwrap();
    assert!(
        (later..later + 1_000_000).contains(&started),
        "{}",
        started - later
    );
    bridge.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn leases_of_a_dead_bridge_return_at_once_and_a_job_that_kills_it_is_given_up() {
    let mut platform = Platform::new(&[("wallet", &[])]);
    platform.clock = Clock::tokio(START);
    platform.task("wallet").max_attempts = 3;
    platform.push("wallet", "wallet-tasks", &job("killer"));
    for life in 1..=3 {
        let door = FakeDoor::new(|_, _, _| Answer::Silence);
        let bridge = platform.start(&door).await;
        until("it is under way", || door.seen().len() == 1).await;
        assert_eq!(door.seen()[0].body["attempt"], json!(life));
        drop(bridge);
    }
    let door = FakeDoor::ok();
    let bridge = platform.start(&door).await;
    until("it is given up", || state(&platform, "killer") == "dead").await;
    assert_eq!(door.seen().len(), 0);
    bridge.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_outlives_its_lease_is_not_run_twice() {
    let mut platform = Platform::new(&[("wallet", &[])]);
    platform.clock = Clock::tokio(START);
    platform.task("wallet").deadline = Duration::from_secs(600);
    let door = FakeDoor::ok();
    *door.takes.lock().unwrap() = Duration::from_secs(300);
    platform.push("wallet", "wallet-tasks", &job("long"));
    let bridge = platform.start(&door).await;
    until("done", || state(&platform, "long") == "done").await;
    assert_eq!(door.ids("wallet"), ["long"]);
    bridge.shutdown().await;
}

/// A clock may be put forward, a server be away for longer than a lease.
#[tokio::test]
async fn a_bridge_takes_back_nothing_it_works_on_and_a_try_settles_no_later_one() {
    let mut platform = Platform::new(&[("wallet", &[])]);
    // Room for those that were taken back.
    platform.queue("wallet").concurrency = 6;
    let door = FakeDoor::new(|_, job, _| match job["id"].as_str() {
        Some("refused") => Answer::Status(422),
        _ => Answer::Result(json!(7)),
    });
    // Longer than between two looks for leases that ran out.
    *door.takes.lock().unwrap() = Duration::from_secs(5);
    let bridge = platform.start(&door).await;
    let ids = ["expired", "refused", "given_up"];
    for id in ids {
        let run = Job::new(id, "run", vec![]);
        bridge.enqueue(Some("wallet-tasks"), run).await.unwrap();
    }
    let all = |states: &[&str]| {
        ids.iter()
            .zip(states)
            .all(|(id, s)| state(&platform, id) == *s)
    };
    until("all are under way", || *door.begun.lock().unwrap() == 3).await;
    platform.change_jobs(
        "UPDATE jobs SET lease_until = 1 WHERE id = 'expired';
         UPDATE jobs SET attempts = attempts + 1 WHERE id = 'refused';
         UPDATE jobs SET state = 'dead', finished_at = 1 WHERE id = 'given_up';
         INSERT INTO dead_letters (kind, target, id, name, key, envelope, error, attempts, dead_at)
         VALUES ('job', 'wallet-tasks', 'given_up', 'wallet.run', '', '{}', 'by another', 1, 1)",
    );
    until("two are done", || all(&["done", "leased", "done"])).await;
    bridge.shutdown().await;
    assert!(all(&["done", "leased", "done"]));
    let mut seen = door.ids("wallet");
    seen.sort();
    assert_eq!(seen, ["expired", "given_up", "refused"], "each once");
    let (store, all) = (platform.job_store(), LetterFilter::default());
    let letters = store.dead_letters(&all, 10).await.unwrap();
    assert_eq!(letters.len(), 0, "what has a result is no dead letter");
}

#[tokio::test(start_paused = true)]
async fn jobs_wait_without_losing_tries_while_the_service_cannot_be_reached() {
    let mut platform = Platform::new(&[("wallet", &[])]);
    platform.clock = Clock::tokio(START);
    let door = FakeDoor::new(|_, _, before| {
        if before < 50 {
            Answer::Whole(503)
        } else {
            Answer::Status(200)
        }
    });
    let bridge = platform.start(&door).await;
    platform.push("wallet", "wallet-tasks", &job("j1"));
    until("tried", || door.seen().len() > 2).await;
    assert!(!bridge.readiness().ready);
    until("done", || state(&platform, "j1") == "done").await;
    assert_eq!(
        inspect::job(&platform.store(), "j1")
            .unwrap()
            .unwrap()
            .attempts,
        1
    );
    assert!(bridge.readiness().ready);
    bridge.shutdown().await;
}

#[tokio::test]
async fn shutdown_finishes_what_is_under_way() {
    let platform = Platform::new(&[("wallet", &["payment.initiated"])]);
    let door = FakeDoor::ok();
    *door.takes.lock().unwrap() = Duration::from_millis(300);
    let bridge = platform.start(&door).await;
    platform.push("wallet", "wallet-tasks", &job("j1"));
    until("leased", || state(&platform, "j1") == "leased").await;
    bridge.shutdown().await;
    assert_eq!(state(&platform, "j1"), "done");
    assert_eq!(platform.outbox("wallet"), 0);
}

#[tokio::test]
async fn dead_letters_are_counted_by_kind_as_long_as_they_are_kept() {
    let platform = Platform::new(&[("payment", &[]), ("wallet", &["payment.initiated"])]);
    let door = FakeDoor::new(|_, _, _| Answer::Status(422));
    let bridge = platform.start(&door).await;
    let kept = |kind: &str, n: usize| {
        let line = format!("innover_dead_letters{{kind=\"{kind}\"}} {n}\n");
        bridge.metrics().contains(&line)
    };
    until("there are none", || {
        ["event", "job", "outbox"].iter().all(|kind| kept(kind, 0))
    })
    .await;
    platform.emit("payment", "e1", "payment.initiated", "p1");
    platform.push("wallet", "wallet-tasks", &job("j1"));
    platform.push("wallet", "wallet-tasks", &job("j2"));
    // Rows that say nothing.
    for id in ["r1", "r2", "r3"] {
        let connection = platform.open("payment");
        support::row(&connection, id, "payment.initiated", "", "x", "no JSON");
    }
    until("all are counted", || {
        kept("event", 1) && kept("job", 2) && kept("outbox", 3)
    })
    .await;
    let filter = LetterFilter {
        kind: Some("job"),
        id: Some("j1".into()),
        ..LetterFilter::default()
    };
    let discarded = platform.job_store().settle(&filter, false).await;
    assert_eq!(discarded.unwrap(), 1);
    until("one less is kept", || kept("job", 1)).await;
    bridge.shutdown().await;
}

fn every_ten_seconds(missed: Missed) -> ScheduleSpec {
    ScheduleSpec {
        task: "wallet.run".into(),
        cron: "*/10 * * * * *".into(),
        timezone: "Europe/Berlin".into(),
        missed,
        args: vec![json!("tick")],
    }
}

#[tokio::test(start_paused = true)]
async fn a_schedule_fires_each_time_once_across_restarts() {
    let mut platform = Platform::new(&[("wallet", &[])]);
    platform.clock = Clock::tokio(START + 1);
    platform.service("wallet").schedules = vec![every_ten_seconds(Missed::Skip)];
    let door = FakeDoor::ok();
    for _ in 0..5 {
        let bridge = platform.start(&door).await;
        let target = platform.clock.now() + 25_000_000;
        until("25 s have passed", || platform.clock.now() >= target).await;
        drop(bridge);
    }
    let mut fired = door.ids("wallet");
    let passed = (platform.clock.now() - START) / 10_000_000;
    let total = fired.len() as i64;
    fired.sort();
    fired.dedup();
    assert_eq!(fired.len() as i64, total, "none twice");
    assert!(
        (passed - 1..=passed).contains(&total),
        "{total} of {passed}"
    );
    assert_eq!(door.seen()[0].body["args"], json!(["tick"]));
}

#[tokio::test(start_paused = true)]
async fn missed_fire_times_are_skipped_or_made_up_for() {
    for (missed, expected) in [(Missed::Skip, 1), (Missed::CatchUp, 360)] {
        let mut platform = Platform::new(&[("wallet", &[])]);
        platform.clock = Clock::tokio(START + 1);
        platform.service("wallet").schedules = vec![every_ten_seconds(missed)];
        let door = FakeDoor::ok();
        let bridge = platform.start(&door).await;
        until("the schedule is known", || {
            rusqlite::Connection::open(platform.store())
                .unwrap()
                .query_row("SELECT count(*) FROM schedules", [], |r| r.get::<_, i64>(0))
                .unwrap()
                == 1
        })
        .await;
        bridge.shutdown().await;
        // An hour and three seconds after the last fire time.
        platform.clock = Clock::tokio(START + 3_603_000_000);
        let before = door.seen().len();
        let bridge = platform.start(&door).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        until("they have run", || door.seen().len() - before >= expected).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(door.seen().len() - before, expected, "{missed:?}");
        bridge.shutdown().await;
    }
}
