//! How PostgreSQL finds rows: by keys, from the first row on. A plan that reads a whole table is made
//! when the table is small, kept, and slower with every row. On files there is nothing of it to test.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::time::{Duration, Instant};

use innover_tests::{PATIENCE, Platform};

/// Tables that grow with every payment, by database.
const GROWING: [(&str, &str); 8] = [
    ("payment", "payments"),
    ("payment", "inbox"),
    ("payment", "idempotency"),
    ("forex", "inbox"),
    ("ledger", "accounts"),
    ("ledger", "entries"),
    ("wallet", "inbox"),
    ("audit", "inbox"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_statement_on_a_payments_way_reads_a_whole_table() {
    let p = Platform::start().await;
    if p.databases().is_none() {
        eprintln!("not tested: INNOVER_TEST_POSTGRES names no PostgreSQL");
        return;
    }
    let payer = p.funded("user", "1000.00", "EUR").await;
    let payee = p.wallet("finance", "USD").await;
    let counter = |(database, table): (&str, &str), column: &str| {
        let sql = format!("SELECT {column} FROM pg_stat_user_tables WHERE relname = '{table}'");
        p.number(database, &sql)
    };
    // Reports of the tests' own set-up may read what they like.
    let read_before = GROWING.map(|table| counter(table, "seq_tup_read"));
    for _ in 0..30 {
        let paid = p.pay("user", &payer, &payee, "1.00", "EUR").await;
        assert_eq!(paid.status, 202, "{}", paid.text);
        assert_eq!(p.settled(&paid.id()).await["state"], "completed");
    }
    let deadline = Instant::now() + PATIENCE;
    while counter(("payment", "payments"), "n_tup_ins") < 30
        || counter(("audit", "inbox"), "n_tup_ins") < 30
    {
        assert!(Instant::now() < deadline, "nothing is counted");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for (table, before) in GROWING.into_iter().zip(read_before) {
        let read = counter(table, "seq_tup_read") - before;
        assert_eq!(read, 0, "{table:?}: rows were read that no key named");
        assert!(
            counter(table, "idx_scan") > 0,
            "{table:?}: nobody looked anything up"
        );
    }
}
