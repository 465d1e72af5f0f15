//! Transfers on the running platform: in two phases, in batches, under races and crashes, and in
//! random sequences.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{
    collections::BTreeMap,
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

use innover_tests::{Answer, PATIENCE, Platform, unique};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

const LEDGER: &str = "/api/ledger/v1";

async fn ask(p: &Platform, method: Method, path: &str, body: Value) -> Answer {
    let request = p
        .request("finance", method, &format!("{LEDGER}{path}"))
        .await;
    request.json(&body).send().await
}

async fn post(p: &Platform, path: &str, body: Value) -> Answer {
    ask(p, Method::POST, path, body).await
}

async fn get(p: &Platform, path: &str) -> Answer {
    p.get("finance", &format!("{LEDGER}{path}")).await
}

/// An account of its own for a test, with so much in it.
async fn account(p: &Platform, amount: &str) -> String {
    let id = format!("acc_{}", unique());
    let opened = json!({"id": id, "code": "test", "currency": "EUR", "normal_side": "credit", "floor": "0.00"});
    let answer = post(p, "/accounts", opened).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    if amount != "0.00" {
        let funded = post(
            p,
            "/transfers",
            transfer(&unique(), "acc_house_cash_EUR", &id, amount),
        )
        .await;
        assert_eq!(funded.status, 201, "{}", funded.text);
    }
    id
}

fn transfer(id: &str, from: &str, to: &str, amount: &str) -> Value {
    json!({"id": id, "debit_account": from, "credit_account": to, "amount": amount, "currency": "EUR"})
}

fn pending(id: &str, from: &str, to: &str, amount: &str) -> Value {
    let mut body = transfer(id, from, to, amount);
    body["pending"] = json!(true);
    body
}

async fn balance(p: &Platform, account: &str) -> (String, String) {
    let answer = get(p, &format!("/accounts/{account}")).await;
    let text = |name: &str| answer.json["balance"][name].as_str().unwrap().to_owned();
    (text("posted"), text("held"))
}

async fn assert_books(p: &Platform) {
    let trial = get(p, "/trial-balance").await;
    assert_eq!(trial.json["balanced"], true, "{}", trial.text);
}

/// So many requests at the same moment.
async fn at_once(
    p: &Arc<Platform>,
    count: usize,
    request: impl Fn(usize) -> (String, Value),
) -> Vec<Answer> {
    let mut all = JoinSet::new();
    for n in 0..count {
        let (p, (path, body)) = (p.clone(), request(n));
        all.spawn(async move { post(&p, &path, body).await });
    }
    all.join_all().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reservation_is_posted_in_part_and_the_rest_is_free_again() {
    let p = Platform::shared().await;
    let (from, to) = (account(&p, "100.00").await, account(&p, "0.00").await);
    let id = unique();
    let held = post(&p, "/transfers", pending(&id, &from, &to, "60.00")).await;
    assert_eq!(
        (held.status, held.json["state"].as_str()),
        (201, Some("pending"))
    );
    assert_eq!(balance(&p, &from).await, ("100.00".into(), "60.00".into()));
    assert_eq!(
        balance(&p, &to).await,
        ("0.00".into(), "0.00".into()),
        "not theirs yet"
    );
    let shown = get(&p, &format!("/accounts/{from}")).await;
    assert_eq!(shown.json["holds"][0]["id"], json!(id));
    // What is reserved cannot be spent.
    let too_much = post(&p, "/transfers", transfer(&unique(), &from, &to, "40.01")).await;
    assert_eq!(
        (too_much.status, too_much.code()),
        (422, "insufficient_funds")
    );

    let path = format!("/transfers/{id}/post");
    let more = post(&p, &path, json!({"amount": "60.01", "currency": "EUR"})).await;
    assert_eq!((more.status, more.code()), (400, "invalid_amount"));
    let part = json!({"amount": "25.00", "currency": "EUR"});
    let done = post(&p, &path, part.clone()).await;
    assert_eq!(
        (done.status, &done.json["posted_amount"]),
        (200, &json!("25.00")),
        "{}",
        done.text
    );
    assert_eq!(balance(&p, &from).await, ("75.00".into(), "0.00".into()));
    assert_eq!(balance(&p, &to).await, ("25.00".into(), "0.00".into()));
    assert_eq!(
        post(&p, &path, part).await.text,
        done.text,
        "the same again is the same"
    );
    let other = post(&p, &path, json!({})).await;
    assert_eq!((other.status, other.code()), (409, "invalid_state"));
    let void = post(&p, &format!("/transfers/{id}/void"), json!({})).await;
    assert_eq!((void.status, void.code()), (409, "invalid_state"));
    // Whoever repeats the request that reserved it gets that answer, not what became of it.
    let again = post(&p, "/transfers", pending(&id, &from, &to, "60.00")).await;
    assert_eq!((again.status, &again.text), (201, &held.text));
    let entry = get(&p, &format!("/entries/{id}")).await;
    assert_eq!(
        entry.json["postings"].as_array().map(Vec::len),
        Some(2),
        "{}",
        entry.text
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_settles_expires_and_is_free_again() {
    let p = Platform::shared().await;
    let (from, to) = (account(&p, "10.00").await, account(&p, "0.00").await);
    let id = unique();
    let mut body = pending(&id, &from, &to, "10.00");
    body["expires_in_s"] = json!(1);
    assert_eq!(post(&p, "/transfers", body).await.status, 201);
    let give_up_at = Instant::now() + PATIENCE;
    loop {
        let now = get(&p, &format!("/transfers/{id}")).await;
        if now.json["state"] == "expired" {
            break;
        }
        assert!(Instant::now() < give_up_at, "{}", now.text);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(balance(&p, &from).await, ("10.00".into(), "0.00".into()));
    let late = post(&p, &format!("/transfers/{id}/post"), json!({})).await;
    assert_eq!(
        (late.status, late.code()),
        (409, "invalid_state"),
        "{}",
        late.text
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_hundred_ends_of_one_reservation_one_takes_effect() {
    let p = Platform::shared().await;
    let (from, to) = (account(&p, "100.00").await, account(&p, "0.00").await);
    let id = unique();
    assert_eq!(
        post(&p, "/transfers", pending(&id, &from, &to, "100.00"))
            .await
            .status,
        201
    );
    let ends = at_once(&p, 100, |n| match n % 2 {
        // Each another part, so that no two are the same request.
        0 => {
            let amount = format!("{}.00", 1 + n / 2);
            (
                format!("/transfers/{id}/post"),
                json!({"amount": amount, "currency": "EUR"}),
            )
        }
        _ => (format!("/transfers/{id}/void"), json!({})),
    })
    .await;
    let end = get(&p, &format!("/transfers/{id}")).await;
    let done: Vec<&Answer> = ends.iter().filter(|a| a.status == 200).collect();
    assert!(
        done.iter().all(|a| a.json["state"] == end.json["state"]),
        "{}",
        end.text
    );
    match end.json["state"].as_str().unwrap() {
        "posted" => assert_eq!(done.len(), 1),
        // Voiding what is void is no other end.
        _ => assert_eq!(
            (end.json["state"].as_str(), done.len()),
            (Some("voided"), 50)
        ),
    }
    let other = ends.iter().find(|a| ![200, 409].contains(&a.status));
    assert!(other.is_none(), "{other:?}");
    let moved = end.json["posted_amount"].as_str().unwrap_or("0.00");
    assert_eq!(balance(&p, &to).await, (moved.to_owned(), "0.00".into()));
    assert_eq!(balance(&p, &from).await.1, "0.00");
    assert_books(&p).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_answers_for_each_and_means_the_same_when_it_comes_again() {
    let p = Platform::shared().await;
    let (a, b) = (account(&p, "10.00").await, account(&p, "0.00").await);
    let ids: Vec<String> = (0..4).map(|_| unique()).collect();
    let batch = json!({"transfers": [
        transfer(&ids[0], &a, &b, "4.00"),
        transfer(&ids[1], &a, &b, "7.00"),
        pending(&ids[2], &a, &b, "5.00"),
        transfer(&ids[3], &b, &a, "1.00"),
    ]});
    let states = |answer: &Answer| -> Vec<String> {
        let results = answer.json["results"].as_array().unwrap();
        results
            .iter()
            .map(|r| r["state"].as_str().unwrap().to_owned())
            .collect()
    };
    let first = post(&p, "/transfers/batch", batch.clone()).await;
    assert_eq!(first.status, 200, "{}", first.text);
    assert_eq!(states(&first), ["posted", "refused", "pending", "posted"]);
    assert_eq!(first.json["results"][1]["code"], "insufficient_funds");
    assert_eq!(balance(&p, &a).await, ("7.00".into(), "5.00".into()));
    // The refused one is refused for good, even when there is enough by now.
    assert_eq!(
        post(
            &p,
            "/transfers",
            transfer(&unique(), "acc_house_cash_EUR", &a, "100.00")
        )
        .await
        .status,
        201
    );
    let again = post(&p, "/transfers/batch", batch).await;
    assert_eq!(states(&again), states(&first));
    assert!(
        again.json["results"]
            .as_array()
            .unwrap()
            .iter()
            .all(|r| r["replayed"] == true)
    );
    assert_eq!(balance(&p, &a).await, ("107.00".into(), "5.00".into()));
    // One id for something else is told which field differs, and the rest goes on.
    let fresh = unique();
    let mixed =
        json!({"transfers": [transfer(&ids[0], &a, &b, "4.01"), transfer(&fresh, &a, &b, "1.00")]});
    let answer = post(&p, "/transfers/batch", mixed).await;
    assert_eq!(states(&answer), ["refused", "posted"]);
    assert_eq!(
        answer.json["results"][0]["differing_fields"],
        json!(["/amount"])
    );

    // All or nothing: the first refusal is everybody's, and uses up no id.
    let (good, bad) = (unique(), unique());
    let atomic = json!({"atomic": true, "transfers": [transfer(&good, &a, &b, "1.00"), transfer(&bad, &b, &a, "999.00")]});
    let refused = post(&p, "/transfers/batch", atomic).await;
    assert_eq!(
        (
            refused.status,
            refused.code(),
            refused.json["param"].as_str()
        ),
        (
            422,
            "insufficient_funds",
            Some("/transfers/1/debit_account")
        ),
        "{}",
        refused.text
    );
    assert_eq!(get(&p, &format!("/transfers/{good}")).await.status, 404);
    let later = json!({"atomic": true, "transfers": [transfer(&good, &a, &b, "1.00"), transfer(&bad, &b, &a, "2.00")]});
    assert_eq!(
        states(&post(&p, "/transfers/batch", later).await),
        ["posted", "posted"]
    );
    assert_books(&p).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_atomic_batch_that_took_the_last_money_is_answered_the_same_when_it_comes_again() {
    let p = Platform::shared().await;
    let (from, to) = (account(&p, "100.00").await, account(&p, "0.00").await);
    let batch = json!({"atomic": true, "transfers": [transfer(&unique(), &from, &to, "100.00")]});
    for replayed in [false, true] {
        let answer = post(&p, "/transfers/batch", batch.clone()).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert_eq!(answer.json["posted"], 1, "{}", answer.text);
        let said = answer.json["results"][0]["replayed"].as_bool();
        assert_eq!(said.unwrap_or(false), replayed, "{}", answer.text);
    }
    assert_eq!(balance(&p, &from).await.0, "0.00");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_transfer_and_a_reservation_under_one_id_at_the_same_moment_one_takes_effect() {
    let p = Platform::shared().await;
    let mut froms = Vec::new();
    for _ in 0..2 {
        froms.push(account(&p, "100.00").await);
    }
    let to = account(&p, "0.00").await;
    let mut both = 0;
    for _ in 0..30 {
        let id = unique();
        let answers = at_once(&p, 2, |n| {
            let make = if n == 0 { transfer } else { pending };
            ("/transfers".into(), make(&id, &froms[n], &to, "1.00"))
        })
        .await;
        let mut statuses: Vec<u16> = answers.iter().map(|a| a.status).collect();
        statuses.sort_unstable();
        both += usize::from(statuses == [201, 201]);
        assert!(
            statuses == [201, 422] || statuses == [201, 201],
            "{statuses:?}"
        );
    }
    assert_eq!(both, 0, "of 30 ids");
    assert_books(&p).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_batch_is_taken_and_one_more_is_not() {
    let p = Platform::shared().await;
    let (a, b) = (account(&p, "0.00").await, account(&p, "0.00").await);
    let name = unique();
    let batch = |count: usize| {
        let transfers = (0..count).map(|n| match n % 2 {
            0 => transfer(&format!("{name}-{n}"), "acc_house_cash_EUR", &a, "2.00"),
            _ => transfer(&format!("{name}-{n}"), &a, &b, "1.00"),
        });
        json!({"transfers": transfers.collect::<Vec<_>>()})
    };
    let refused = post(&p, "/transfers/batch", batch(8_191)).await;
    assert_eq!((refused.status, refused.code()), (400, "invalid_request"));
    let done = post(&p, "/transfers/batch", batch(8_190)).await;
    assert_eq!((done.status, &done.json["posted"]), (200, &json!(8_190)));
    assert_eq!(balance(&p, &a).await.0, "4095.00");
    assert_eq!(balance(&p, &b).await.0, "4095.00");
    let large = json!({"transfers": [], "padding": "x".repeat(4 << 20)});
    assert_eq!(
        post(&p, "/transfers/batch", large).await.code(),
        "payload_too_large"
    );
    assert_books(&p).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opposite_transfers_at_full_speed_neither_block_nor_lose() {
    // Thirty seconds where that is asked for; a few always.
    let seconds = std::env::var("INNOVER_OPPOSITE_S")
        .ok()
        .and_then(|s| s.parse().ok());
    let p = Platform::shared().await;
    let (a, b) = (
        account(&p, "1000000.00").await,
        account(&p, "1000000.00").await,
    );
    let until = Instant::now() + Duration::from_secs(seconds.unwrap_or(3));
    let moved = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
    let mut all = JoinSet::new();
    for worker in 0..16 {
        let (p, moved, (a, b)) = (p.clone(), moved.clone(), (a.clone(), b.clone()));
        all.spawn(async move {
            let (from, to) = if worker % 2 == 0 { (&a, &b) } else { (&b, &a) };
            while Instant::now() < until {
                let answer = post(&p, "/transfers", transfer(&unique(), from, to, "0.01")).await;
                assert_eq!(answer.status, 201, "{}", answer.text);
                moved[worker % 2].fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    while let Some(done) = all.join_next().await {
        done.unwrap();
    }
    let [there, back] = [0, 1].map(|way: usize| moved[way].load(Ordering::Relaxed) as i64);
    println!("{there} one way, {back} the other");
    assert!(there > 0 && back > 0);
    let cents = |text: &str| text.replace('.', "").parse::<i64>().unwrap();
    assert_eq!(cents(&balance(&p, &a).await.0), 100_000_000 - there + back);
    assert_eq!(cents(&balance(&p, &b).await.0), 100_000_000 + there - back);
    assert_books(&p).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn balances_of_the_past_and_the_general_ledger_say_what_was_posted() {
    let p = Platform::shared().await;
    let (a, b) = (account(&p, "10.00").await, account(&p, "0.00").await);
    let mut times = Vec::new();
    for amount in ["1.00", "2.00", "3.00"] {
        let done = post(&p, "/transfers", transfer(&unique(), &a, &b, amount)).await;
        times.push(done.json["created_at"].as_str().unwrap().to_owned());
    }
    for (time, expected) in times.iter().zip(["1.00", "3.00", "6.00"]) {
        let then = get(&p, &format!("/accounts/{b}/balance?at={time}")).await;
        assert_eq!(then.json["posted"], expected, "{}", then.text);
    }
    let before = get(
        &p,
        &format!("/accounts/{b}/balance?at=2020-01-01T00:00:00Z"),
    )
    .await;
    assert_eq!(
        (&before.json["posted"], &before.json["number"]),
        (&json!("0.00"), &json!(0))
    );
    let never = get(&p, &format!("/accounts/{b}/balance?at=yesterday")).await;
    assert_eq!((never.status, never.code()), (400, "invalid_request"));

    // All pages put one after the other are one file.
    let mut csv = String::new();
    let mut cursor = String::new();
    loop {
        let page = get(&p, &format!("/general-ledger{cursor}")).await;
        assert_eq!(page.status, 200, "{}", page.text);
        csv.push_str(&page.text);
        match page.headers.get("x-next-cursor") {
            Some(next) => cursor = format!("?cursor={}", next.to_str().unwrap()),
            None => break,
        }
    }
    let of_b: Vec<&str> = csv
        .lines()
        .filter(|l| l.starts_with(&format!("{b},")))
        .collect();
    assert_eq!(of_b.len(), 3, "{csv}");
    assert!(of_b[2].ends_with(",EUR,,3.00,6.00"), "{}", of_b[2]);
    assert_eq!(csv.lines().filter(|l| l.starts_with("account,")).count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_when_the_process_dies_between_transfers() {
    let mut p = Platform::start().await;
    let accounts = [
        account(&p, "100000.00").await,
        account(&p, "100000.00").await,
    ];
    let mut sent: Vec<(String, usize, bool)> = Vec::new();
    for round in 0..3 {
        let stop = Arc::new(AtomicBool::new(false));
        let shared = Arc::new(p);
        let mut all = JoinSet::new();
        for worker in 0..8 {
            let (p, accounts, stop) = (shared.clone(), accounts.clone(), stop.clone());
            all.spawn(async move {
                let mut sent = Vec::new();
                let finance = p.token("finance").await;
                for n in 0.. {
                    let (way, reserve) = (n % 2, n % 3 == 0);
                    let id = format!("crash-{round}-{worker}-{n}");
                    let body = match reserve {
                        true => pending(&id, &accounts[way], &accounts[1 - way], "0.01"),
                        false => transfer(&id, &accounts[way], &accounts[1 - way], "0.01"),
                    };
                    let request = p
                        .request("", Method::POST, &format!("{LEDGER}/transfers"))
                        .await;
                    let request = request.header("authorization", &format!("Bearer {finance}"));
                    sent.push((id, way, reserve));
                    if request.json(&body).try_send().await.is_none()
                        || stop.load(Ordering::Relaxed)
                    {
                        break;
                    }
                }
                sent
            });
        }
        tokio::time::sleep(Duration::from_millis(400)).await;
        // SIGKILL, while all of them wait for an answer.
        let pid = shared.pid().to_string();
        std::process::Command::new("kill")
            .args(["-9", &pid])
            .status()
            .unwrap();
        stop.store(true, Ordering::Relaxed);
        sent.extend(all.join_all().await.into_iter().flatten());
        p = Arc::into_inner(shared).unwrap();
        p.kill();
        p.run();
    }
    // Whoever got no answer asks again, and is told what became of it or has it done now.
    let mut expected: BTreeMap<usize, i64> = BTreeMap::new();
    let mut held = [0i64, 0];
    for (id, way, reserve) in &sent {
        let body = match reserve {
            true => pending(id, &accounts[*way], &accounts[1 - way], "0.01"),
            false => transfer(id, &accounts[*way], &accounts[1 - way], "0.01"),
        };
        let answer = post(&p, "/transfers", body).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
        match reserve {
            true => held[*way] += 1,
            false => *expected.entry(*way).or_default() += 1,
        }
    }
    let cents = |text: &str| text.replace('.', "").parse::<i64>().unwrap();
    let net = expected.get(&1).copied().unwrap_or(0) - expected.get(&0).copied().unwrap_or(0);
    let (posted, reserved) = balance(&p, &accounts[0]).await;
    assert_eq!(
        (cents(&posted), cents(&reserved)),
        (10_000_000 + net, held[0])
    );
    let (posted, reserved) = balance(&p, &accounts[1]).await;
    assert_eq!(
        (cents(&posted), cents(&reserved)),
        (10_000_000 - net, held[1])
    );
    assert_books(&p).await;
}

/// Sequences of operations through HTTP, beside a table of sums. All 1,000 of 200 operations with
/// `INNOVER_HTTP_SEQUENCES=1000`; fewer always. The seed is printed, `INNOVER_SEED` runs it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_sequences_through_http_agree_with_a_table_of_sums() {
    const OPERATIONS: usize = 200;
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let sequences = number("INNOVER_HTTP_SEQUENCES").unwrap_or(24) as usize;
    let seed = number("INNOVER_SEED").unwrap_or_else(|| {
        use std::hash::{BuildHasher, RandomState};
        RandomState::new().hash_one("seed")
    });
    println!("INNOVER_SEED={seed}, {sequences} sequences of {OPERATIONS} operations");
    let p = Platform::shared().await;
    let mut all = JoinSet::new();
    for n in 0..sequences {
        let p = p.clone();
        let mut random = Random(seed ^ (n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        while all.len() >= 16 {
            all.join_next().await.unwrap().unwrap();
        }
        all.spawn(async move { sequence(&p, &mut random, OPERATIONS).await });
    }
    while let Some(done) = all.join_next().await {
        done.unwrap();
    }
    assert_books(&p).await;
}

/// Xorshift: what one seed makes is the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

fn decimal(cents: i64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

async fn sequence(p: &Platform, random: &mut Random, operations: usize) {
    let mut accounts = Vec::new();
    for _ in 0..3 {
        accounts.push(account(p, "1.00").await);
    }
    let name = unique();
    // Posted and held, in cents; reservations that are open: id, from, to, cents.
    let mut sums = [(100i64, 0i64); 3];
    let mut open: Vec<(String, usize, usize, i64)> = Vec::new();
    let mut done: Vec<(Value, u16, String)> = Vec::new();
    for n in 0..operations {
        let id = format!("{name}-{n}");
        match random.below(10) {
            0..=6 => {
                let (from, to) = (random.below(3) as usize, random.below(3) as usize);
                let cents = random.below(60) as i64;
                let reserve = random.below(2) == 0;
                let body = match reserve {
                    true => pending(&id, &accounts[from], &accounts[to], &decimal(cents)),
                    false => transfer(&id, &accounts[from], &accounts[to], &decimal(cents)),
                };
                let answer = post(p, "/transfers", body.clone()).await;
                let status = if from == to || cents == 0 {
                    400
                } else if sums[from].0 - sums[from].1 < cents {
                    422
                } else {
                    201
                };
                assert_eq!(answer.status, status, "{body} {}", answer.text);
                match (status, reserve) {
                    (201, true) => {
                        sums[from].1 += cents;
                        open.push((id, from, to, cents));
                    }
                    (201, false) => {
                        sums[from].0 -= cents;
                        sums[to].0 += cents;
                    }
                    _ => {}
                }
                if status != 400 {
                    done.push((
                        body,
                        status,
                        answer.json["state"].as_str().unwrap_or("").into(),
                    ));
                }
            }
            7 | 8 if !open.is_empty() => {
                let (id, from, to, cents) =
                    open.swap_remove(random.below(open.len() as u64) as usize);
                let part = random.below(cents as u64 + 1) as i64;
                let (path, body) = match part {
                    0 => (format!("/transfers/{id}/void"), json!({})),
                    part => {
                        let body = json!({"amount": decimal(part), "currency": "EUR"});
                        (format!("/transfers/{id}/post"), body)
                    }
                };
                let answer = post(p, &path, body).await;
                assert_eq!(answer.status, 200, "{}", answer.text);
                sums[from].1 -= cents;
                sums[from].0 -= part;
                sums[to].0 += part;
            }
            _ if !done.is_empty() => {
                // Somebody's retry: nothing new happens.
                let (body, status, state) = &done[random.below(done.len() as u64) as usize];
                let answer = post(p, "/transfers", body.clone()).await;
                assert_eq!(answer.status, *status, "{}", answer.text);
                assert_eq!(answer.json["state"].as_str().unwrap_or(""), state);
            }
            _ => {}
        }
        let looked_at = random.below(3) as usize;
        let (posted, held) = balance(p, &accounts[looked_at]).await;
        let (is_posted, is_held) = sums[looked_at];
        assert_eq!(
            (posted, held),
            (decimal(is_posted), decimal(is_held)),
            "after {n} operations"
        );
    }
}

/// A batch whose body is announced as long as `bytes`, and of which only the head is sent yet.
async fn held(p: &Platform, id: &str, from: &str, bytes: usize) -> (TcpStream, String) {
    let token = p.token("finance").await;
    let batch = json!({"transfers": [transfer(id, from, "acc_house_cash_EUR", "0.01")]});
    let mut batch = batch.to_string();
    batch.push_str(&" ".repeat(bytes - batch.len()));
    let host = p.url.strip_prefix("http://").unwrap();
    let head = format!(
        "POST {LEDGER}/transfers/batch HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        batch.len()
    );
    let mut stream = TcpStream::connect(host).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    (stream, batch)
}

/// Large bodies take many times their bytes in an instance's memory, so they share a bound: who comes
/// too many is told so, in the middle of all others, and nobody's request is lost with the instance.
#[tokio::test(flavor = "multi_thread")]
async fn large_batches_beyond_the_bound_are_told_to_come_back() {
    let p = Platform::shared().await;
    let from = account(&p, "10.00").await;
    let mut holding = Vec::new();
    // More than fit into two instances: a second one is made when the machine stands still.
    loop {
        assert!(
            holding.len() < 20,
            "30 MB of bodies, and nobody was refused"
        );
        let id = unique();
        let (stream, batch) = held(&p, &id, &from, 3 << 19).await;
        holding.push((stream, batch, id));
        // On a busy machine it may be an earlier one that is told only now.
        let told = poll_fn(|cx| {
            let mut first = [0];
            let mut answered = |stream: &TcpStream| {
                let mut first = ReadBuf::new(&mut first);
                stream.poll_peek(cx, &mut first).is_ready()
            };
            match holding.iter().any(|(stream, ..)| answered(stream)) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        });
        if timeout(Duration::from_millis(500), told).await.is_ok() {
            break;
        }
    }
    let (mut taken, mut refused) = (0, 0);
    for (mut stream, batch, id) in holding {
        // The connection of one that is refused may be closed already, since its body was never sent.
        let _ = stream.write_all(batch.as_bytes()).await;
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        if answer.starts_with("HTTP/1.1 200") {
            taken += 1;
            continue;
        }
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(
            answer.contains("\"overloaded\"") && answer.contains("retry-after: 1"),
            "{answer}"
        );
        refused += 1;
        let small = json!({"transfers": [transfer(&id, &from, "acc_house_cash_EUR", "0.01")]});
        let posted = post(&p, "/transfers/batch", small).await;
        assert_eq!(posted.status, 200, "{}", posted.text);
    }
    assert!(taken > 0 && refused > 0, "{taken} taken, {refused} refused");
    let left = format!("9.{:02}", 100 - taken - refused);
    assert_eq!(balance(&p, &from).await.0, left);
}
