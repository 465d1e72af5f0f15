//! 1,000 payments between 20 wallets while the process is killed at random moments: every payment
//! ends, nothing is lost, nothing doubled, and the books balance.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use innover_tests::{PATIENCE, Platform, payment};
use reqwest::Method;
use tokio::sync::RwLock;

const WALLETS: usize = 20;
const PAYMENTS: usize = 1_000;
const CLIENTS: usize = 8;
const KILLS: u64 = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_payments_survive_being_killed_again_and_again() {
    let platform = Platform::start().await;
    let mut wallets = Vec::new();
    for n in 0..WALLETS {
        let currency = if n % 2 == 0 { "EUR" } else { "USD" };
        wallets.push((platform.funded("user", "1000.00", currency).await, currency));
    }
    let wallets = Arc::new(wallets);
    let platform = Arc::new(RwLock::new(platform));
    let (next, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));

    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (platform, wallets) = (platform.clone(), wallets.clone());
            let (next, done) = (next.clone(), done.clone());
            tokio::spawn(async move {
                let mut ids = Vec::new();
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= PAYMENTS {
                        return ids;
                    }
                    ids.push(send_until_answered(&platform, &wallets, n).await);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();

    // A small linear congruential sequence, so that a failing run can be repeated.
    let seed = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .subsec_nanos();
    println!("seed {seed}");
    let mut random = u64::from(seed);
    for kill in 0..KILLS {
        // Each kill waits for its share of the work, then for a random moment.
        let share = PAYMENTS * (kill as usize + 1) / (KILLS as usize + 2);
        while done.load(Ordering::Relaxed) < share {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        tokio::time::sleep(Duration::from_micros(random >> 44 & 0x7fff)).await;
        let mut platform = platform.write().await;
        platform.kill();
        platform.run();
    }
    let mut ids = Vec::new();
    for client in clients {
        ids.extend(client.await.unwrap());
    }
    let platform = platform.read().await;
    check(&platform, &wallets, &ids).await;
}

async fn send_until_answered(
    platform: &RwLock<Platform>,
    wallets: &[(String, &'static str)],
    n: usize,
) -> String {
    let (payer, currency) = &wallets[n % WALLETS];
    let (payee, _) = &wallets[(n * 7 + 3 + n / WALLETS) % WALLETS];
    let payee = if payee == payer {
        &wallets[(n + 1) % WALLETS].0
    } else {
        payee
    };
    let body = payment(
        payer,
        payee,
        &format!("{}.{:02}", n % 9 + 1, n % 100),
        currency,
    );
    let deadline = Instant::now() + PATIENCE;
    loop {
        let client = {
            // The lock is not held while the request runs: the process dies under requests, not
            // between them.
            let platform = platform.read().await;
            platform
                .request("user", Method::POST, "/api/payment/v1/process")
                .await
        };
        if let Some(answer) = client
            .key(&format!("crash-{n}"))
            .json(&body)
            .try_send()
            .await
        {
            match answer.status {
                202 => return answer.id(),
                // The process died under the gateway or starts up: ask again with the same key.
                500..=599 => {}
                _ => panic!("payment {n}: {} {}", answer.status, answer.text),
            }
        }
        assert!(Instant::now() < deadline, "payment {n} was never answered");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn check(platform: &Platform, wallets: &[(String, &'static str)], ids: &[String]) {
    let mut states: BTreeMap<String, usize> = BTreeMap::new();
    for id in ids {
        let done = platform.settled(id).await;
        *states
            .entry(done["state"].as_str().unwrap().to_owned())
            .or_default() += 1;
    }
    println!("{states:?}");
    assert_eq!(ids.len(), PAYMENTS);
    platform.assert_payments_once(ids);
    platform.assert_outboxes_empty().await;
    platform.assert_balanced().await;
    for (wallet, _) in wallets {
        platform.assert_projected(wallet).await;
    }
}
