//! The bank: clients move random amounts between a few accounts through HTTP while everything is
//! killed, and nobody who looks ever sees another total than the start's.
//!
//! `INNOVER_BANK_SECONDS` is how long (10 unless told otherwise). On PostgreSQL whose folder
//! `INNOVER_TEST_POSTGRES_FOLDER` names, every second kill is the server's.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use innover_tests::{PATIENCE, Platform, services::Service, unique};
use reqwest::Method;
use serde_json::json;
use tokio::sync::RwLock;

const LEDGER: &str = "/api/ledger/v1";
const ACCOUNTS: usize = 8;
const CLIENTS: usize = 10;
const EACH: u64 = 10_000;

struct Bank {
    platform: RwLock<Platform>,
    accounts: Vec<String>,
    over: AtomicBool,
    moved: AtomicU64,
    refused: AtomicU64,
    looks: AtomicU64,
}

fn cents(text: &str) -> u64 {
    let (euros, cents) = text.split_once('.').unwrap();
    euros.parse::<u64>().unwrap() * 100 + cents.parse::<u64>().unwrap()
}

impl Bank {
    /// Asks until there is an answer that is one.
    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> innover_tests::Answer {
        let until = Instant::now() + PATIENCE;
        loop {
            let request = {
                let platform = self.platform.read().await;
                let request = platform
                    .request("finance", method.clone(), &format!("{LEDGER}{path}"))
                    .await;
                match body {
                    Some(body) => request.json(body),
                    None => request,
                }
            };
            match request.try_send().await {
                // Killed under it, starting, busy, or it lost to others for long: the same again.
                Some(answer) if answer.status < 500 && answer.status != 409 => return answer,
                answer => assert!(
                    Instant::now() < until,
                    "no answer to {path}: {:?}",
                    answer.map(|a| a.text)
                ),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn move_money(&self, seed: u64) {
        let mut random = seed;
        while !self.over.load(Relaxed) {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let from = (random >> 33) as usize % ACCOUNTS;
            let to = (from + 1 + (random >> 40) as usize % (ACCOUNTS - 1)) % ACCOUNTS;
            let amount = 1 + (random >> 48) % 6_000;
            let body = json!({
                "id": unique(), "debit_account": self.accounts[from], "credit_account": self.accounts[to],
                "amount": format!("{}.{:02}", amount / 100, amount % 100), "currency": "EUR",
            });
            let answer = self.ask(Method::POST, "/transfers", Some(&body)).await;
            match (answer.status, answer.code()) {
                (200 | 201, _) => self.moved.fetch_add(1, Relaxed),
                (422, "insufficient_funds") => self.refused.fetch_add(1, Relaxed),
                _ => panic!("{}", answer.text),
            };
        }
    }

    /// The total of the accounts as one read shows it.
    async fn total(&self) -> u64 {
        let answer = self.ask(Method::GET, "/accounts?limit=200", None).await;
        let items = answer.json["data"].as_array().unwrap();
        let of = |id: &String| {
            let found = items.iter().find(|a| a["id"] == **id);
            cents(found.unwrap()["balance"]["posted"].as_str().unwrap())
        };
        self.accounts.iter().map(of).sum()
    }

    async fn look(&self) {
        while !self.over.load(Relaxed) {
            assert_eq!(self.total().await, EACH * ACCOUNTS as u64);
            self.looks.fetch_add(1, Relaxed);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_read_shows_the_same_total_while_money_moves_and_everything_is_killed() {
    let seconds = std::env::var("INNOVER_BANK_SECONDS").map_or(10, |s| s.parse().unwrap());
    let server = Service::postgres();
    let mut bank = Bank {
        platform: RwLock::new(Platform::start().await),
        accounts: Vec::new(),
        over: AtomicBool::new(false),
        moved: AtomicU64::new(0),
        refused: AtomicU64::new(0),
        looks: AtomicU64::new(0),
    };
    for _ in 0..ACCOUNTS {
        let id = format!("acc_bank_{}", unique());
        let account = json!({"id": id, "code": "bank", "currency": "EUR", "normal_side": "credit", "floor": "0.00"});
        assert_eq!(
            bank.ask(Method::POST, "/accounts", Some(&account))
                .await
                .status,
            201
        );
        let body = json!({
            "id": unique(), "debit_account": "acc_house_cash_EUR", "credit_account": id,
            "amount": "100.00", "currency": "EUR",
        });
        assert_eq!(
            bank.ask(Method::POST, "/transfers", Some(&body))
                .await
                .status,
            201
        );
        bank.accounts.push(id);
    }
    let bank = Arc::new(bank);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..CLIENTS {
        let bank = bank.clone();
        tasks.spawn(async move { bank.move_money(n as u64 * 7_919 + 1).await });
    }
    let watcher = bank.clone();
    tasks.spawn(async move { watcher.look().await });

    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut kills, mut slowest) = (0, Duration::ZERO);
    while Instant::now() < end {
        // Work between two kills, and a moment that is another one each time.
        let before = bank.moved.load(Relaxed);
        while bank.moved.load(Relaxed) < before + 50 && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(kills * 37 % 200)).await;
        let killed = Instant::now();
        match &server {
            Some(server) if kills % 2 == 1 => {
                let server = server.clone();
                let back = tokio::task::spawn_blocking(move || {
                    server.kill();
                    server.again();
                });
                back.await.unwrap();
            }
            _ => {
                let mut platform = bank.platform.write().await;
                platform.kill();
                platform.run();
            }
        }
        kills += 1;
        let moved = bank.moved.load(Relaxed);
        while bank.moved.load(Relaxed) == moved {
            assert!(killed.elapsed() < PATIENCE, "nothing moves any more");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        slowest = slowest.max(killed.elapsed());
    }
    bank.over.store(true, Relaxed);
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(bank.total().await, EACH * ACCOUNTS as u64);
    let trial = bank.ask(Method::GET, "/trial-balance", None).await;
    assert_eq!(trial.json["balanced"], true, "{}", trial.text);
    let (moved, refused, looks) = (
        bank.moved.load(Relaxed),
        bank.refused.load(Relaxed),
        bank.looks.load(Relaxed),
    );
    println!(
        "{moved} transfers, {refused} refused, {looks} reads, {kills} kills, first transfer again after at most {} ms",
        slowest.as_millis()
    );
    assert!(moved > 50 && looks > 10, "{moved} transfers, {looks} reads");
}
