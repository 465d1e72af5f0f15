//! What must hold of payments once everything has ended, whatever was killed meanwhile.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use crate::{PATIENCE, Platform};

impl Platform {
    /// Waits until a number from a service's database is `expected`.
    pub async fn eventually(&self, database: &str, sql: &str, expected: i64, what: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let number = self.number(database, sql);
            if number == expected {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{what}: {number}, not {expected}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Asserts that these are all payments there are, that each has ended, and that the ledger has an
    /// entry of exactly those that completed.
    pub fn assert_payments_once(&self, ids: &[String]) {
        let count = |database: &str, sql: &str| self.number(database, sql);
        assert_eq!(
            ids.iter().collect::<BTreeSet<_>>().len(),
            ids.len(),
            "one id per key"
        );
        assert_eq!(
            count("payment", "SELECT count(*) FROM payments"),
            ids.len() as i64,
            "nothing doubled"
        );
        assert_eq!(
            count(
                "payment",
                "SELECT count(*) FROM payments WHERE state NOT IN ('completed', 'failed')"
            ),
            0
        );
        // Exactly the entries its state demands.
        let completed = count(
            "payment",
            "SELECT count(*) FROM payments WHERE state = 'completed'",
        );
        assert_eq!(
            count(
                "ledger",
                "SELECT count(*) FROM entries WHERE kind = 'payment'"
            ),
            completed
        );
        assert_eq!(
            count(
                "payment",
                "SELECT count(*) FROM payments WHERE (state = 'completed') <> (entry_id IS NOT NULL)"
            ),
            0
        );
    }

    /// Waits until no outbox of the payment flow has a row: the relay takes them away in groups, a
    /// tenth of a second after it published them.
    pub async fn assert_outboxes_empty(&self) {
        for database in ["payment", "forex", "ledger", "wallet"] {
            let left = format!("events left in the outbox of {database}");
            self.eventually(database, "SELECT count(*) FROM outbox", 0, &left)
                .await;
        }
    }

    /// Asserts that what a wallet shows is what the ledger says; returns it.
    pub async fn assert_projected(&self, wallet: &str) -> String {
        let shown = self.balance(wallet).await;
        let account = wallet.replacen("wal_", "acc_", 1);
        let ledger = self
            .get("auditor", &format!("/api/ledger/v1/accounts/{account}"))
            .await;
        assert_eq!(
            ledger.json["balance"]["posted"],
            shown.as_str(),
            "{wallet}: {}",
            ledger.text
        );
        assert!(!shown.starts_with('-'), "{shown}");
        shown
    }
}
