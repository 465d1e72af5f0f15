//! Two bridges on one PostgreSQL and one Kafka, the services' host apart. One is killed in the middle
//! of its work and never comes back: whatever it had, events and jobs, goes on with the other one when
//! its leases have ended, once. Schedules fire once, however many bridges there are. And what everybody
//! says while PostgreSQL is away.
//!
//! Needs both servers: `INNOVER_TEST_POSTGRES` (an administrator's address) and `INNOVER_TEST_KAFKA`
//! (`host:port`). Without them it says that it is left out.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use innover_tests::{
    Answer, Bridge, PATIENCE, Platform, payment,
    services::{self, Service},
    unique,
};
use reqwest::Method;
use serde_json::json;
use tokio::{sync::Mutex, task::block_in_place};

/// Each test has the servers for itself: one kills them.
static TURN: Mutex<()> = Mutex::const_new(());

const CLIENTS: usize = 4;
const WALLETS: usize = 8;
/// Both bridges work for so long before one is killed, and payments and jobs go on for a while after.
const TOGETHER: Duration = Duration::from_secs(20);
const AFTER: Duration = Duration::from_secs(5);
/// A lease of the relays (10 s) and a session of Kafka (10 s), and one of jobs (30 s), each with the
/// 5 s in which the other bridge has to act.
const EVENT_WAIT_MAX: Duration = Duration::from_secs(10 + 5);
const JOB_WAIT_MAX: Duration = Duration::from_secs(30 + 5);

/// What a test's platform is told; `None` when a server is missing.
fn servers() -> Option<Vec<(&'static str, String)>> {
    let postgres = std::env::var("INNOVER_TEST_POSTGRES").is_ok_and(|url| !url.is_empty());
    let servers = services::kafka().filter(|_| postgres);
    if servers.is_none() {
        eprintln!("left out: INNOVER_TEST_POSTGRES and INNOVER_TEST_KAFKA name no servers");
    }
    servers
}

fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    now.as_micros() as i64
}

/// Waits for a count of a database to be what it should.
async fn reaches(p: &Platform, database: &str, sql: &str, wanted: i64) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = p.number(database, sql);
        if found == wanted {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{found} instead of {wanted}: {database}: {sql}"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Payments one after the other; returns their ids.
async fn pay(
    p: Arc<Platform>,
    wallets: Arc<Vec<String>>,
    n: usize,
    over: Arc<AtomicBool>,
) -> Vec<String> {
    let mut ids = Vec::new();
    let mut i = n;
    while !over.load(Relaxed) {
        let (payer, payee) = (&wallets[i % WALLETS], &wallets[(i + 3) % WALLETS]);
        let answer = p.pay("user", payer, payee, "0.01", "EUR").await;
        assert_eq!(answer.status, 202, "{}", answer.text);
        ids.push(answer.id());
        i += CLIENTS;
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    ids
}

/// Jobs that each make an item, and some that take two seconds: a bridge often has one in hand.
async fn enqueue(p: Arc<Platform>, over: Arc<AtomicBool>) -> (Vec<String>, usize) {
    let (mut items, mut slow) = (Vec::new(), 0);
    while !over.load(Relaxed) {
        let name = unique();
        let item = json!({"task": "create", "args": [name, "cluster"]});
        let made = p.post("admin", "/api/items/v1/jobs", item).await;
        assert_eq!(made.status, 202, "{}", made.text);
        items.push(name);
        // The one that answers for jobs takes two at once, so the third is the other one's.
        let naps = if items.len() % 50 == 0 { 3 } else { 0 };
        for _ in 0..naps {
            let nap = json!({"task": "slow", "args": [2]});
            let made = p.post("ops_user", "/api/profile/v1/jobs", nap).await;
            assert_eq!(made.status, 202, "{}", made.text);
            slow += 1;
        }
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    (items, slow)
}

/// Fire times of each schedule that were enqueued, by its id.
fn fire_times(p: &Platform) -> BTreeMap<String, Vec<i64>> {
    let sql = "SELECT coalesce(string_agg(id, ';'), '') FROM jobs WHERE id LIKE 'schedule|%'";
    let ids = p.text("bridge", sql);
    let mut times: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for id in ids.split(';').filter(|id| !id.is_empty()) {
        let (schedule, at) = id.rsplit_once('|').unwrap();
        times
            .entry(schedule.to_owned())
            .or_default()
            .push(at.parse().unwrap());
    }
    times.values_mut().for_each(|times| times.sort_unstable());
    times
}

/// Every fire time of the schedules that fire every so many seconds, between two moments.
fn assert_schedules_fired(p: &Platform, from: i64, to: i64) -> usize {
    let times = fire_times(p);
    let mut checked = 0;
    for (schedule, times) in &times {
        let cron = schedule.split('|').nth(2).unwrap();
        let Some(every) = cron
            .strip_prefix("*/")
            .and_then(|c| c.strip_suffix(" * * * * *"))
        else {
            continue;
        };
        let every = every.parse::<i64>().unwrap() * 1_000_000;
        let expected: Vec<i64> = (from / every + 1..=to / every).map(|n| n * every).collect();
        let within = times.iter().filter(|at| (from + 1..=to).contains(at));
        assert_eq!(within.copied().collect::<Vec<_>>(), expected, "{schedule}");
        checked += expected.len();
    }
    assert!(checked >= 6, "{times:?}");
    checked
}

/// How long events waited from their outbox to the effect of each subscriber, the longest.
fn longest_event_wait(p: &Platform) -> (Duration, String) {
    let list = |database: &str, sql: &str| -> BTreeMap<String, i64> {
        let text = p.text(database, sql);
        let pairs = text.split(';').filter_map(|pair| pair.rsplit_once('='));
        pairs
            .map(|(id, at)| (id.to_owned(), at.parse().unwrap()))
            .collect()
    };
    let happened = list(
        "audit",
        "SELECT coalesce(string_agg(event_id || '=' || occurred_at, ';'), '') FROM records",
    );
    assert!(happened.len() > 500, "{}", happened.len());
    let handled = "SELECT coalesce(string_agg(id || '=' || handled_at, ';'), '') FROM inbox";
    let recorded =
        "SELECT coalesce(string_agg(event_id || '=' || recorded_at, ';'), '') FROM records";
    let (mut longest, mut seen) = ((0, String::new()), 0);
    for (service, sql) in [
        ("audit", recorded),
        ("payment", handled),
        ("forex", handled),
        ("ledger", handled),
        ("wallet", handled),
    ] {
        for (id, at) in list(service, sql) {
            if let Some(since) = happened.get(&id) {
                seen += 1;
                longest = longest.max((at - since, service.to_owned()));
            }
        }
    }
    assert!(
        seen > happened.len() * 3 / 2,
        "{seen} of {}",
        happened.len()
    );
    println!("{} events, handled {seen} times", happened.len());
    (Duration::from_micros(longest.0.max(0) as u64), longest.1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bridge_that_is_killed_and_never_restarted_holds_nothing_up_beyond_its_leases() {
    let Some(environment) = servers() else { return };
    let _turn = TURN.lock().await;
    let environment: Vec<_> = environment.iter().map(|(n, v)| (*n, v.as_str())).collect();
    let p = Arc::new(Platform::start_without_bridge(&environment));
    let mut doomed = p.bridge("doomed");
    let survivor = p.answering_bridge("survivor");
    let mut wallets = Vec::new();
    for _ in 0..WALLETS {
        wallets.push(p.funded("user", "1000.00", "EUR").await);
    }
    let (wallets, over) = (Arc::new(wallets), Arc::new(AtomicBool::new(false)));
    let both = now();
    let payers: Vec<_> = (0..CLIENTS)
        .map(|n| tokio::spawn(pay(p.clone(), wallets.clone(), n, over.clone())))
        .collect();
    let jobs = tokio::spawn(enqueue(p.clone(), over.clone()));
    tokio::time::sleep(TOGETHER).await;

    // With work of every kind in its hands.
    let instance = doomed.instance();
    let held = format!(
        "SELECT count(*) FROM jobs WHERE state = 'leased' AND lease_owner LIKE '{instance}/%'"
    );
    // One that has just begun.
    let sleeping = format!(
        "{held} AND task = 'profile.slow' AND started_at > EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 - 500000"
    );
    let deadline = Instant::now() + PATIENCE;
    let fired = |survivor: f64, doomed: f64| (survivor + doomed) as usize;
    let (in_hand, fired_by_doomed) = loop {
        let fired_by_doomed = doomed.metric("innover_schedules_fired_total").await;
        if p.number("bridge", &sleeping) > 0 {
            doomed.kill();
            break (p.number("bridge", &held), fired_by_doomed);
        }
        assert!(Instant::now() < deadline, "it never had a job in hand");
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    let killed = Instant::now();
    let together = now();
    assert!(in_hand > 0, "it was killed in the middle");
    let fired_together = assert_schedules_fired(&p, both, together - 1_000_000);
    let all = fired(
        survivor.metric("innover_schedules_fired_total").await,
        fired_by_doomed,
    );
    let enqueued = fire_times(&p).values().map(Vec::len).sum::<usize>();
    // The next second may have begun between the two looks.
    assert!(all.abs_diff(enqueued) <= 6, "{all} fired, {enqueued} jobs");

    tokio::time::sleep(AFTER).await;
    over.store(true, Relaxed);
    let mut payments = BTreeSet::new();
    for payer in payers {
        payments.extend(payer.await.unwrap());
    }
    let (items, slow) = jobs.await.unwrap();
    println!(
        "{} payments, {} jobs that make an item, {slow} that take two seconds; {in_hand} jobs in hand at the kill; {fired_together} fire times of schedules before it",
        payments.len(),
        items.len()
    );

    let paid = payments.len() as i64;
    let completed = "SELECT count(*) FROM payments WHERE state = 'completed'";
    reaches(&p, "payment", completed, paid).await;
    println!(
        "every payment completed {} ms after the kill",
        killed.elapsed().as_millis()
    );
    let unfinished = "SELECT count(*) FROM jobs WHERE id NOT LIKE 'schedule|%' AND state <> 'done'";
    reaches(&p, "bridge", unfinished, 0).await;
    println!("every job {} ms after it", killed.elapsed().as_millis());
    // The trail has them all.
    let told = "SELECT count(*) FROM records WHERE action = 'payment.completed'";
    reaches(&p, "audit", told, paid).await;

    // Once each.
    assert_eq!(p.number("payment", "SELECT count(*) FROM payments"), paid);
    let booked = "SELECT count(*) FROM entries WHERE kind = 'payment'";
    assert_eq!(p.number("ledger", booked), paid);
    let made = "SELECT count(*) FROM items WHERE owner = 'cluster'";
    assert_eq!(p.number("items", made), items.len() as i64);
    let names = "SELECT count(DISTINCT name) FROM items WHERE owner = 'cluster'";
    assert_eq!(p.number("items", names), items.len() as i64);
    p.assert_balanced().await;

    // Schedules went on without it.
    let end = now() - 2_000_000;
    assert_schedules_fired(&p, both, end);

    // From when it was put, or due, to its last start. `slow` waits for one of two places as well.
    let waited = "SELECT coalesce(max(started_at - greatest(enqueued_at, CASE WHEN attempts > 1 THEN 0 ELSE eta END)), 0) FROM jobs WHERE state = 'done'";
    let job = Duration::from_micros(p.number("bridge", waited) as u64);
    let again = p.number("bridge", "SELECT count(*) FROM jobs WHERE attempts > 1");
    let (event, at) = longest_event_wait(&p);
    println!(
        "longest wait of an event {} ms (at {at}), of a job {} ms; {again} jobs were delivered again",
        event.as_millis(),
        job.as_millis()
    );
    assert!(again > 0, "jobs it had in hand were not delivered again");
    assert!(event <= EVENT_WAIT_MAX, "{event:?}");
    assert!(job <= JOB_WAIT_MAX, "{job:?}");
    drop::<Bridge>(survivor);
}

/// Asks again until the answer is one of those that hold.
async fn until<T: std::fmt::Debug>(ask: impl AsyncFn() -> T, holds: impl Fn(&T) -> bool) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = ask().await;
        if holds(&answer) {
            return answer;
        }
        assert!(Instant::now() < deadline, "{answer:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Makes the server refuse writes, as one does that others have been made the first of.
async fn read_only(on: bool) {
    let url = std::env::var("INNOVER_TEST_POSTGRES").unwrap();
    let connected = tokio_postgres::connect(&url, tokio_postgres::NoTls).await;
    let (admin, connection) = connected.unwrap();
    tokio::spawn(connection);
    let set = format!("ALTER SYSTEM SET default_transaction_read_only = {on}");
    for statement in [&*set, "SELECT pg_reload_conf()"] {
        admin.simple_query(statement).await.unwrap();
    }
    let now = async || {
        let rows = admin.query_one("SHOW default_transaction_read_only", &[]);
        rows.await.unwrap().get::<_, String>(0)
    };
    until(now, |value| (value == "on") == on).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_postgresql_is_away_or_takes_no_writes_all_say_so_and_the_same_key_succeeds_later() {
    let (Some(environment), Some(postgres)) = (servers(), Service::postgres()) else {
        eprintln!("left out: INNOVER_TEST_POSTGRES_FOLDER names no folder of a server's");
        return;
    };
    let _turn = TURN.lock().await;
    let environment: Vec<_> = environment.iter().map(|(n, v)| (*n, v.as_str())).collect();
    let p = Platform::start_without_bridge(&environment);
    let bridge = p.answering_bridge("bridge");
    let payer = p.funded("user", "100.00", "EUR").await;
    let payee = p.wallet("finance", "EUR").await;
    let pay = async |key: &str| -> Answer {
        let request = p.request("user", Method::POST, "/api/payment/v1/process");
        let body = payment(&payer, &payee, "1.00", "EUR");
        request.await.key(key).json(&body).send().await
    };
    let readiness = async || bridge.asked("/readiness").await;
    until(readiness, |(status, _)| *status == 200).await;
    let (_, metrics) = bridge.asked("/metrics").await;
    assert!(metrics.contains("\ninnover_outbox_age_seconds{service=\"payment\"} 0"));

    block_in_place(|| postgres.kill());
    let away = pay("away").await;
    assert_eq!(
        (away.status, away.code()),
        (503, "unavailable"),
        "{}",
        away.text
    );
    let wallet = format!("/api/wallet/v1/wallets/{payer}");
    let read = p.get("user", &wallet).await;
    assert_eq!(
        (read.status, read.code()),
        (503, "unavailable"),
        "{}",
        read.text
    );
    let (_, said) = until(readiness, |(status, _)| *status == 503).await;
    assert!(said.contains("PostgreSQL"), "{said}");
    // It is not to be restarted for that.
    assert_eq!(bridge.asked("/health").await.0, 200);
    // The host looks by itself, with nobody to ask a bridge; and nobody knows what waits in an outbox.
    let host = async || {
        let answer = reqwest::get(format!("{}/readiness", p.management))
            .await
            .unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let (_, said) = until(host, |(status, _)| *status == 503).await;
    assert!(said.contains("components"), "{said}");
    assert!(bridge.metric("innover_outbox_age_seconds").await > 0.0);
    assert_eq!(bridge.metric("innover_bridge_ready").await, 0.0);
    block_in_place(|| postgres.again());
    let accepted = until(async || pay("away").await, |answer| answer.status == 202).await;
    assert_eq!(p.settled(&accepted.id()).await["state"], "completed");
    until(readiness, |(status, _)| *status == 200).await;
    until(host, |(status, _)| *status == 200).await;

    read_only(true).await;
    let refused = pay("read-only").await;
    assert_eq!(
        (refused.status, refused.code()),
        (503, "unavailable"),
        "{}",
        refused.text
    );
    read_only(false).await;
    let accepted = until(
        async || pay("read-only").await,
        |answer| answer.status == 202,
    );
    assert_eq!(p.settled(&accepted.await.id()).await["state"], "completed");
    assert_eq!(p.number("payment", "SELECT count(*) FROM payments"), 2);
    assert_eq!(p.balance(&payer).await, "98.00");
    p.assert_balanced().await;
}
