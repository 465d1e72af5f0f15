//! Jobs and schedules of several bridges in one PostgreSQL database. `INNOVER_TEST_POSTGRES` is the
//! address of somebody who may create databases there; without it these tests say that they are left
//! out. The one that kills the server starts its own.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use innover_bridge::{
    Bridge, Clock, Commits, Database, Enqueued, KafkaConfig, Missed, NoGate, ScheduleSpec,
    announce,
    inspect::{JobFilter, LetterFilter},
};
use innover_contract::Job;
use innover_postgres::Address;
use serde_json::{Value, json};
use support::{Answer, FakeDoor, JobsDatabase, Platform, until};
use tokio::sync::Notify;

/// A database, or a word about why there is none.
fn database() -> Option<Arc<JobsDatabase>> {
    let database = JobsDatabase::new();
    if database.is_none() {
        eprintln!("left out: INNOVER_TEST_POSTGRES names no PostgreSQL");
    }
    database.map(Arc::new)
}

/// A bridge's surroundings, with its own file, on a database.
fn wallet(database: &Arc<JobsDatabase>) -> Platform {
    Platform::with_jobs(&[("wallet", &[])], Some(database.clone()))
}

fn run(id: &str) -> Job {
    Job::new(id, "wallet.run", vec![])
}

async fn push(platform: &Platform, job: Job) -> Enqueued {
    let store = platform.job_store();
    store.enqueue(&platform.services, None, job).await.unwrap()
}

fn state(platform: &Platform, id: &str) -> String {
    platform.job(id).map(|j| j.state).unwrap_or_default()
}

fn now() -> i64 {
    Clock::System.now()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_is_announced_on_the_services_own_database() {
    let Some(database) = database() else { return };
    let mut platform = wallet(&database);
    platform.service("wallet").database = Some(Database {
        label: "wallet".into(),
        place: database.place(),
    });
    let heard = Arc::new(Notify::new());
    let bell = heard.clone();
    let address = Address::parse(&database.url(), None, Duration::from_secs(10)).unwrap();
    let listener = address
        .connect_with(move || bell.notify_one())
        .await
        .unwrap();
    listener
        .batch_execute("LISTEN innover_outbox")
        .await
        .unwrap();
    let commits = Commits::new(&platform.services);
    let _announcers = announce(&platform.services, &commits);
    for _ in 0..2 {
        commits.committed("wallet");
        let told = tokio::time::timeout(Duration::from_secs(10), heard.notified());
        told.await.expect("a notification");
    }
}

/// A service's outbox in a jobs database, with events in it.
fn outbox(database: &JobsDatabase, events: usize) {
    database.run(&format!(
        "CREATE TABLE relay_lease (id BIGINT PRIMARY KEY, owner TEXT NOT NULL, ends_at BIGINT NOT NULL);
         CREATE TABLE outbox (id TEXT PRIMARY KEY, topic TEXT NOT NULL, key TEXT NOT NULL,
             key_version BIGINT NOT NULL, type TEXT NOT NULL, payload TEXT NOT NULL,
             headers TEXT NOT NULL, created_at BIGINT NOT NULL);
         INSERT INTO outbox SELECT 'e' || n, 'wallet.updated', 'a', n, 'wallet.updated', '{{}}', '', 1
             FROM generate_series(1, {events}) AS n;"
    ));
}

/// A bridge whose Kafka is nowhere.
async fn without_kafka(platform: &Platform, door: &Arc<FakeDoor>) -> Bridge {
    let mut config = platform.config();
    config.kafka = Some(KafkaConfig::new("127.0.0.1:1"));
    let bridge = Bridge::start(config, door.clone(), Arc::new(NoGate), Commits::default());
    bridge.await.unwrap()
}

/// Asks for the outbox as another bridge does; true when it is that one's now.
fn claims(database: &JobsDatabase, owner: &str) -> bool {
    let asked = format!(
        "WITH now AS (SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT) AS ms)
         UPDATE relay_lease SET owner = '{owner}', ends_at = now.ms + 60000 FROM now
         WHERE ends_at < now.ms RETURNING owner"
    );
    database.run(&asked) == [owner]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bridge_whose_kafka_is_away_leaves_the_outbox_to_one_whose_is_not() {
    let Some(database) = database() else { return };
    let mut platform = wallet(&database);
    platform.service("wallet").database = Some(Database {
        label: "wallet".into(),
        place: database.place(),
    });
    outbox(&database, 1);
    let bridge = without_kafka(&platform, &FakeDoor::ok()).await;
    until("the outbox is its", || {
        !database.run("SELECT owner FROM relay_lease").is_empty()
    })
    .await;
    assert!(!claims(&database, "another"));
    // For longer than a try takes and than a lease: it has to let go again and again.
    tokio::time::sleep(Duration::from_secs(13)).await;
    until("another bridge has it", || claims(&database, "another")).await;
    bridge.shutdown().await;
}

/// There are fewer connections than relays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relays_that_wait_for_the_jobs_database_do_not_wait_for_each_other() {
    let Some(database) = database() else { return };
    let names = ["wallet", "ledger", "forex", "payment", "cases", "profile"];
    let services: Vec<(&str, &[&str])> = names.iter().map(|name| (*name, &[][..])).collect();
    let mut platform = Platform::with_jobs(&services, Some(database.clone()));
    for name in names {
        platform.service(name).database = Some(Database {
            label: name.into(),
            place: database.place(),
        });
    }
    outbox(&database, 0);
    let door = FakeDoor::ok();
    let bridge = without_kafka(&platform, &door).await;
    let put = |id: &str| {
        for name in names {
            let job = Job::new(format!("{id}-{name}"), format!("{name}.run"), vec![]);
            let text = serde_json::to_string(&job).unwrap();
            database.run(&format!(
                "INSERT INTO outbox VALUES ('{}', '{name}-tasks', '', 0, 'task:{name}.run', '{text}', '', 1)",
                job.id
            ));
        }
    };
    let all_ran = |id: &str| {
        let ran = |name: &&str| door.ids(name).contains(&format!("{id}-{name}"));
        names.iter().all(ran)
    };
    put("before");
    until("jobs run", || all_ran("before")).await;
    // Longer than jobs are let wait for events, shorter than a statement may take.
    let locker = database.clone();
    let locked = std::thread::spawn(move || {
        locker.run("BEGIN; LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(4); COMMIT")
    });
    until("the table is locked", || {
        let held = "SELECT 1 FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted
                    AND relation = 'jobs'::regclass";
        !database.run(held).is_empty()
    })
    .await;
    put("meanwhile");
    locked.join().unwrap();
    until("they go on", || all_ran("meanwhile")).await;
    bridge.shutdown().await;
}

/// Beyond the lease too, which is not renewed for events that do not get through.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_behind_more_events_than_one_read_takes_go_on_while_kafka_is_away() {
    let Some(database) = database() else { return };
    let mut platform = wallet(&database);
    platform.service("wallet").database = Some(Database {
        label: "wallet".into(),
        place: database.place(),
    });
    outbox(&database, 600);
    let door = FakeDoor::ok();
    let bridge = without_kafka(&platform, &door).await;
    let began = Instant::now();
    for n in 1..=20 {
        let id = format!("j{n}");
        let job = serde_json::to_string(&run(&id)).unwrap();
        database.run(&format!(
            "INSERT INTO outbox VALUES ('{id}', 'wallet-tasks', '', 0, 'task:wallet.run', '{job}', '', 1)"
        ));
        until(&id, || door.ids("wallet").contains(&id)).await;
    }
    // Most of them at once: none waits for what events are given up after.
    println!("20 jobs in {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(100));
    until("only events are left", || {
        database.run("SELECT count(*) FROM outbox") == ["600"]
    })
    .await;
    bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_bridges_share_the_jobs_and_no_job_runs_twice() {
    let Some(database) = database() else { return };
    let (mut a, mut b) = (wallet(&database), wallet(&database));
    for platform in [&mut a, &mut b] {
        platform.task("wallet").batch = 3;
    }
    let doors = [FakeDoor::ok(), FakeDoor::ok()];
    doors
        .iter()
        .for_each(|door| *door.takes.lock().unwrap() = Duration::from_millis(20));
    let bridges = [a.start(&doors[0]).await, b.start(&doors[1]).await];
    for n in 0..600 {
        // All through one of them: the other finds them by itself.
        let id = format!("j{n}");
        let put = bridges[0].enqueue(None, run(&id)).await.unwrap();
        assert_eq!(put, Enqueued::New);
    }
    let done = "SELECT count(*) FROM jobs WHERE state = 'done'";
    until("all are done", || database.run(done) == ["600"]).await;
    let [at_a, at_b] = [doors[0].ids("wallet"), doors[1].ids("wallet")];
    assert_eq!(at_a.len() + at_b.len(), 600, "none is delivered twice");
    let all: HashSet<_> = at_a.iter().chain(&at_b).collect();
    assert_eq!(all.len(), 600);
    assert!(
        !at_a.is_empty() && at_b.len() > 50,
        "{} and {}",
        at_a.len(),
        at_b.len()
    );
    for bridge in bridges {
        bridge.shutdown().await;
    }
}

#[tokio::test]
async fn a_bridge_finds_within_a_second_what_another_one_has_put() {
    let Some(database) = database() else { return };
    let platform = wallet(&database);
    let door = FakeDoor::ok();
    let bridge = platform.start(&door).await;
    tokio::time::sleep(Duration::from_millis(1_700)).await;
    let mut took = Vec::new();
    for n in 0..5 {
        let put = Instant::now();
        push(&platform, run(&format!("j{n}"))).await;
        let mut later = run(&format!("l{n}"));
        later.eta = Some(now() + 300_000);
        push(&platform, later).await;
        until("both ran", || door.seen().len() == n * 2 + 2).await;
        took.push(put.elapsed());
    }
    took.sort();
    println!("{took:?}");
    // Each time after a look that found the one before; the others may fall into a busy moment.
    assert!(took[1] < Duration::from_millis(1_300), "{took:?}");
    bridge.shutdown().await;
}

#[tokio::test]
async fn jobs_run_by_priority_then_age_and_share_deliveries_as_in_the_file() {
    // The same in both places: what comes out is compared.
    let Some(database) = database() else { return };
    let mut orders = Vec::new();
    for jobs in [None, Some(database)] {
        let mut platform = Platform::with_jobs(&[("wallet", &[])], jobs);
        platform.queue("wallet").concurrency = 1;
        platform.task("wallet").batch = 3;
        let other = innover_bridge::TaskSpec::default();
        platform
            .queue("wallet")
            .tasks
            .insert("wallet.other".into(), other);
        let door = FakeDoor::new(|_, job, before| match job["id"].as_str() {
            // Fails its whole batch, and travels alone afterwards.
            Some("g") if before == 0 => Answer::Whole(500),
            _ => Answer::Status(200),
        });
        // Makes the store.
        platform.start(&FakeDoor::ok()).await.shutdown().await;
        for (id, task, priority) in [
            ("a", "run", 5),
            ("b", "run", 0),
            ("c", "other", 5),
            ("d", "run", 9),
            ("e", "run", 0),
            ("f", "run", 5),
            ("g", "run", 9),
            ("h", "run", 9),
        ] {
            let mut job = Job::new(id, format!("wallet.{task}"), vec![]);
            job.priority = priority;
            push(&platform, job).await;
        }
        let mut alone = run("alone");
        alone.soft_limit_ms = Some(1_000);
        push(&platform, alone).await;
        push(&platform, run("later")).await;
        let bridge = platform.start(&door).await;
        until("all are done", || {
            platform.all_jobs().iter().all(|job| job.state == "done")
        })
        .await;
        bridge.shutdown().await;
        let mut deliveries: Vec<Vec<String>> = Vec::new();
        for seen in door.seen() {
            deliveries.resize(deliveries.len().max(seen.delivery), vec![]);
            deliveries[seen.delivery - 1].push(seen.id);
        }
        // The two that failed together come again by themselves, after pauses that are spread.
        deliveries[5..].sort();
        orders.push(deliveries);
    }
    assert_eq!(orders[0][..2], [vec!["b", "e", "later"], vec!["alone"]]);
    assert_eq!(orders[0], orders[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_bridges_jobs_wait_for_their_lease_and_its_own_next_life_takes_them_at_once() {
    let Some(database) = database() else { return };
    let (a, b) = (wallet(&database), wallet(&database));
    let hanging = FakeDoor::new(|_, _, _| Answer::Silence);
    let dead = a.start(&hanging).await;
    for id in ["j1", "j2"] {
        dead.enqueue(None, run(id)).await.unwrap();
    }
    until("both are under way", || hanging.seen().len() == 2).await;
    drop(dead);

    let door = FakeDoor::ok();
    let bridge = b.start(&door).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(door.seen().len(), 0, "they are leased");
    let left = "SELECT min(lease_until - CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)) FROM jobs";
    let left: i64 = database.run(left)[0].parse().unwrap();
    assert!((15_000_000..30_000_000).contains(&left), "{left}");
    database.run("UPDATE jobs SET lease_until = 1 WHERE id = 'j1'");
    let ended = Instant::now();
    until("the other bridge has run it", || state(&b, "j1") == "done").await;
    println!("{} ms after its lease", ended.elapsed().as_millis());
    assert!(ended.elapsed() < Duration::from_secs(10));
    assert_eq!(door.ids("wallet"), ["j1"]);
    assert_eq!(door.seen()[0].body["attempt"], json!(2));
    bridge.shutdown().await;

    let again = a.start(&door).await;
    until("its own next life has run it", || state(&a, "j2") == "done").await;
    again.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_counts_though_the_lease_has_passed_on_and_other_outcomes_do_not() {
    let Some(database) = database() else { return };
    let platform = wallet(&database);
    let door = FakeDoor::new(|_, job, _| match job["id"].as_str() {
        Some("done") => Answer::Result(json!(7)),
        _ => Answer::Status(422),
    });
    *door.takes.lock().unwrap() = Duration::from_millis(800);
    let bridge = platform.start(&door).await;
    for id in ["done", "refused"] {
        bridge.enqueue(None, run(id)).await.unwrap();
    }
    let leased = "SELECT count(*) FROM jobs WHERE state = 'leased'";
    until("both are under way", || database.run(leased) == ["2"]).await;
    database.run("UPDATE jobs SET lease_owner = 'other/1'");
    until("one is done", || state(&platform, "done") == "done").await;
    bridge.shutdown().await;
    assert_eq!(platform.job("done").unwrap().result.as_deref(), Some("7"));
    let row = platform.job("refused").unwrap();
    assert_eq!((row.state.as_str(), row.error), ("leased", None));
    assert_eq!(database.run("SELECT count(*) FROM dead_letters"), ["0"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn finished_jobs_beyond_the_limit_go_and_those_that_stay_are_not_locked() {
    let Some(database) = database() else { return };
    let kept = innover_bridge::limits::FINISHED_ROWS_MAX;
    // More than one piece. One per microsecond, the last of them now.
    let all = kept + 5_000;
    database.run(&format!(
        "INSERT INTO jobs (id, seq, queue, task, envelope, priority, state, alone, eta, enqueued_at, finished_at)
         SELECT 'j' || n, n, 'wallet-tasks', 'wallet.run', '{{}}', 0, 'done', 0, 0, 1, {} + n
         FROM generate_series(1, {all}) AS n",
        now() - all
    ));
    let bridge = wallet(&database).start(&FakeDoor::ok()).await;
    let left = "SELECT count(*) FROM jobs";
    until("the oldest are deleted", || {
        database.run(left) == [kept.to_string()]
    })
    .await;
    bridge.shutdown().await;
    assert_eq!(database.run("SELECT min(seq) FROM jobs"), ["5001"]);
    // A row that was locked keeps the number of the transaction that did it.
    let locked = database.run("SELECT count(*) FROM jobs WHERE xmax <> 0");
    assert_eq!(locked, ["0"]);
}

fn every_second(missed: Missed) -> ScheduleSpec {
    ScheduleSpec {
        task: "wallet.run".into(),
        cron: "* * * * * *".into(),
        timezone: "UTC".into(),
        missed,
        args: vec![],
    }
}

/// The fire times of what the doors saw, each once.
fn fired(doors: &[Arc<FakeDoor>]) -> Vec<i64> {
    let time = |id: String| id.rsplit_once('|').unwrap().1.parse().unwrap();
    let mut times: Vec<i64> = doors
        .iter()
        .flat_map(|door| door.ids("wallet"))
        .map(time)
        .collect();
    let all = times.len();
    times.sort_unstable();
    times.dedup();
    assert_eq!(times.len(), all, "none is fired twice");
    times
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schedule_fires_once_per_cluster_though_jobs_are_forgotten_and_clocks_differ() {
    let Some(database) = database() else { return };
    let start = now();
    let mut platforms = [wallet(&database), wallet(&database), wallet(&database)];
    let doors = [FakeDoor::ok(), FakeDoor::ok(), FakeDoor::ok()];
    // The last one's clock is two seconds behind.
    platforms[2].lag = Duration::from_secs(2);
    let mut bridges = Vec::new();
    for (platform, door) in platforms.iter_mut().zip(&doors) {
        platform.service("wallet").schedules = vec![every_second(Missed::CatchUp)];
        bridges.push(platform.start(door).await);
    }
    let mut last = 0;
    while now() < start + 8_000_000 {
        // As retention does one day.
        database.run("DELETE FROM jobs WHERE state = 'done'");
        let fire: i64 = database.run("SELECT max(last_fire) FROM schedules")[0]
            .parse()
            .unwrap();
        assert!(fire >= last, "it went back");
        last = fire;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for bridge in bridges {
        bridge.shutdown().await;
    }
    let times = fired(&doors);
    println!("{} fire times in 8 s", times.len());
    assert!((6..=9).contains(&times.len()), "{times:?}");
    assert!(
        times.windows(2).all(|w| w[1] - w[0] == 1_000_000),
        "none is left out: {times:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schedule_goes_on_after_a_clock_that_was_ahead_and_after_its_row_was_lost() {
    let Some(database) = database() else { return };
    let (mut platform, door) = (wallet(&database), FakeDoor::ok());
    platform.service("wallet").schedules = vec![every_second(Missed::Skip)];
    let bridge = platform.start(&door).await;
    let fires_again = async || {
        let before = door.seen().len();
        until("it fires", || door.seen().len() > before + 1).await;
    };
    fires_again().await;
    // As a bridge leaves it whose machine is a day ahead, or whose database's was.
    database.run("UPDATE schedules SET last_fire = last_fire + 86400000000");
    fires_again().await;
    let noted: i64 = database.run("SELECT max(last_fire) FROM schedules")[0]
        .parse()
        .unwrap();
    assert!(noted <= now() + 5_000_000);
    // As a failover does to a server that did not have it yet.
    database.run("DELETE FROM schedules");
    fires_again().await;
    bridge.shutdown().await;
    fired(&[door]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bridge_whose_clock_is_ahead_fires_by_the_servers() {
    let Some(database) = database() else { return };
    let (mut platform, door) = (wallet(&database), FakeDoor::ok());
    platform.lead = Duration::from_secs(60);
    platform.service("wallet").schedules = vec![every_second(Missed::CatchUp)];
    let start = now();
    let bridge = platform.start(&door).await;
    until("it fires", || door.seen().len() > 3).await;
    bridge.shutdown().await;
    let times = fired(&[door]);
    assert!(
        times[0] > start && times[times.len() - 1] <= now(),
        "{times:?}"
    );
    assert!(
        times.windows(2).all(|w| w[1] - w[0] == 1_000_000),
        "none is left out: {times:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_bridges_file_holds_moves_once_into_the_database() {
    let Some(database) = database() else { return };
    let mut platform = Platform::with_jobs(&[("wallet", &[])], None);
    platform.service("wallet").schedules = vec![ScheduleSpec {
        cron: "0 0 0 1 1 *".into(),
        ..every_second(Missed::Skip)
    }];
    let door = FakeDoor::new(|_, job, _| match job["id"].as_str() {
        Some("done") => Answer::Result(json!({"sum": 3})),
        Some("refused") => Answer::Status(422),
        _ => Answer::Silence,
    });
    let bridge = platform.start(&door).await;
    for id in ["done", "refused"] {
        bridge.enqueue(None, run(id)).await.unwrap();
    }
    until("they have ended", || {
        state(&platform, "done") == "done" && state(&platform, "refused") == "failed"
    })
    .await;
    let mut later = run("later");
    later.eta = Some(now() + 3_600_000_000);
    bridge.enqueue(None, later).await.unwrap();
    bridge.enqueue(None, run("leased")).await.unwrap();
    until("it is under way", || state(&platform, "leased") == "leased").await;
    drop(bridge);
    let before = platform.all_jobs();

    // One of them is in the database already, and further: a crash came between the two.
    database.run(
        "INSERT INTO jobs (id, seq, queue, task, envelope, priority, state, alone, eta, enqueued_at)
         VALUES ('later', 1, 'wallet-tasks', 'wallet.run', '{}', 0, 'done', 0, 0, 1)",
    );
    platform.jobs = Some(database.clone());
    let door = FakeDoor::ok();
    let bridge = platform.start(&door).await;
    until("what was under way is done", || {
        state(&platform, "leased") == "done"
    })
    .await;
    assert_eq!(door.ids("wallet"), ["leased"]);
    let row = platform.job("done").unwrap();
    let old = before.iter().find(|job| job.id == "done").unwrap();
    assert_eq!(&row, old);
    assert_eq!(state(&platform, "later"), "done");
    let store = platform.job_store();
    let letters = store
        .dead_letters(&LetterFilter::default(), 10)
        .await
        .unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(
        (letters[0].id.as_str(), letters[0].attempts),
        ("refused", 1)
    );
    assert_eq!(database.run("SELECT count(*) FROM schedules"), ["1"]);
    let file = rusqlite::Connection::open(platform.store()).unwrap();
    let left = "SELECT (SELECT count(*) FROM jobs) + (SELECT count(*) FROM dead_letters)";
    assert_eq!(file.query_row(left, [], |r| r.get::<_, i64>(0)).unwrap(), 0);
    bridge.shutdown().await;
}

#[tokio::test]
async fn dead_letters_are_put_back_or_discarded_and_no_text_stops_a_queue() {
    let Some(database) = database() else { return };
    let platform = Platform::with_jobs(&[("wallet", &[])], Some(database.clone()));
    let door = FakeDoor::new(|_, _, _| Answer::Status(422));
    let bridge = platform.start(&door).await;
    // An id that PostgreSQL's text cannot hold.
    platform.push(
        "wallet",
        "wallet-tasks",
        &json!({"id": "nul\u{0}", "task": "wallet.run"}),
    );
    platform.push(
        "wallet",
        "nobody-tasks",
        &json!({"id": "lost", "task": "x"}),
    );
    for id in ["j1", "j2"] {
        platform.push(
            "wallet",
            "wallet-tasks",
            &json!({"id": id, "task": "wallet.run"}),
        );
    }
    until("both are given up", || {
        state(&platform, "j1") == "failed" && state(&platform, "j2") == "failed"
    })
    .await;
    let store = platform.job_store();
    let of = |id: &str| LetterFilter {
        kind: Some("job"),
        id: Some(id.into()),
        ..LetterFilter::default()
    };
    assert_eq!(store.dead_letters(&of("lost"), 10).await.unwrap().len(), 1);
    door.set(|_, _, _| Answer::Status(200));
    assert_eq!(store.settle(&of("j1"), true).await.unwrap(), 1);
    until("it ran again", || state(&platform, "j1") == "done").await;
    assert_eq!(platform.job("j1").unwrap().attempts, 1, "as if it were new");
    assert_eq!(store.settle(&of("j2"), false).await.unwrap(), 1);
    assert!(platform.job("j2").is_none());
    // Its job never was on a queue, so there is nothing to put back.
    assert_eq!(store.settle(&of("lost"), true).await.unwrap(), 0);
    assert_eq!(store.settle(&of("lost"), false).await.unwrap(), 1);
    let rows = store.jobs(&JobFilter::default(), 10).await.unwrap();
    assert_eq!(rows.len(), 2, "{rows:?}");
    until("the outbox is empty", || platform.outbox("wallet") == 0).await;
    bridge.shutdown().await;
}

/// Not a test: `cargo test --release -p innover-bridge --test shared -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints numbers"]
async fn jobs_per_second() {
    const JOBS: usize = 10_000;
    for (bridges, batch) in [(1, 1), (2, 1), (1, 50), (2, 50)] {
        let Some(database) = database() else { return };
        database.run(&format!(
            "INSERT INTO jobs (id, seq, queue, task, envelope, priority, state, alone, eta, enqueued_at)
             SELECT 'j' || n, n, 'wallet-tasks', 'wallet.run',
                    '{{\"id\":\"j' || n || '\",\"task\":\"wallet.run\"}}', 0, 'queued', 0, 0, 1
             FROM generate_series(1, {JOBS}) AS n"
        ));
        let door = FakeDoor::ok();
        let (mut platforms, mut running) = (Vec::new(), Vec::new());
        for _ in 0..bridges {
            let mut platform = wallet(&database);
            platform.task("wallet").batch = batch;
            platforms.push(platform);
        }
        let started = Instant::now();
        for platform in &platforms {
            running.push(platform.start(&door).await);
        }
        let left = "SELECT count(*) FROM jobs WHERE state <> 'done'";
        until("all are done", || database.run(left) == ["0"]).await;
        println!(
            "{bridges} bridges, batches of {batch}: {:.0} jobs/s",
            JOBS as f64 / started.elapsed().as_secs_f64()
        );
        for bridge in running {
            bridge.shutdown().await;
        }
    }
}

fn server(action: &str, folder: &Path) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/services/postgres");
    let done = Command::new(script)
        .arg(action)
        .arg(folder)
        .output()
        .unwrap();
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    String::from_utf8(done.stdout).unwrap().trim().to_owned()
}

/// Ends the server whatever becomes of the test.
struct Own(PathBuf);

impl Drop for Own {
    fn drop(&mut self) {
        server("stop", &self.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_wait_while_the_server_is_away_and_every_one_runs_when_it_is_back() {
    if database().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let admin = server("start", folder.path());
    let own = Own(folder.path().to_owned());
    let database = Arc::new(JobsDatabase::on(admin));
    let mut platform = wallet(&database);
    platform.queue("wallet").concurrency = 4;
    let door = FakeDoor::ok();
    *door.takes.lock().unwrap() = Duration::from_millis(20);
    let bridge = platform.start(&door).await;
    for n in 0..40 {
        bridge.enqueue(None, run(&format!("j{n}"))).await.unwrap();
    }
    until("some ran", || door.seen().len() > 5).await;
    server("kill", folder.path());
    // Those wait in an outbox, which is a file here.
    for n in 40..60 {
        let job: Value = json!({"id": format!("j{n}"), "task": "wallet.run"});
        platform.push("wallet", "wallet-tasks", &job);
    }
    until("it is not ready", || !bridge.readiness().ready).await;
    let problems = bridge.readiness().problems.join("; ");
    assert!(
        problems.contains("the jobs' database cannot be reached"),
        "{problems}"
    );
    let refused = bridge.enqueue(None, run("nowhere")).await;
    assert!(refused.is_err());
    tokio::time::sleep(Duration::from_secs(2)).await;
    server("again", folder.path());
    let back = Instant::now();
    until("it is ready", || bridge.readiness().ready).await;
    println!("ready {} ms after the server", back.elapsed().as_millis());
    // Those whose outcome the server lost are leased until then.
    database.run("UPDATE jobs SET lease_until = 1 WHERE state = 'leased'");
    until("all are done", || {
        (0..60).all(|n| state(&platform, &format!("j{n}")) == "done")
    })
    .await;
    let ran: HashSet<String> = door.ids("wallet").into_iter().collect();
    assert_eq!(ran.len(), 60);
    bridge.shutdown().await;
    drop(platform);
    drop(database);
    drop(own);
}
