//! The rebuild finds what differs from the ledger, and repairs what it can.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{
    books::books,
    support::{
        add, alone, balance, finance, get, one, ops, platform, post, run, tamper, told, user,
    },
};

/// Runs a rebuild to its end; returns it and what it found, by account.
async fn rebuild() -> (Value, BTreeMap<String, Value>) {
    let begun = post(
        &ops(),
        "/v1/rebuilds",
        &innover_kit::ids::new_uuid(),
        json!({}),
    )
    .await;
    assert_eq!(
        (begun.status, &begun.body["state"]),
        (202, &json!("running")),
        "{}",
        begun.body
    );
    let id = begun.body["id"].as_str().unwrap().to_owned();
    for _ in 0..100 {
        if run("wallet.rebuild", vec![json!(id)]).await["done"] == true {
            break;
        }
    }
    let done = get(&finance(), &format!("/v1/rebuilds/{id}")).await.body;
    assert_eq!(done["state"], "done", "{done}");
    let mut found = BTreeMap::new();
    let path = format!("/v1/rebuilds/{id}/differences?limit=200");
    for difference in get(&finance(), &path).await.body["data"]
        .as_array()
        .unwrap()
    {
        let account = difference["account_id"].as_str().unwrap().to_owned();
        found.insert(account, difference.clone());
    }
    (done, found)
}

#[tokio::test]
async fn what_differs_is_found_and_repaired_and_then_nothing_differs() {
    let _alone = alone().await;
    let names = [
        "r0_lag",
        "r1_amounts",
        "r2_ahead",
        "r3_closed",
        "r4_open",
        "r5_same",
        "r6_new",
    ];
    for name in names {
        add(name, name, "EUR", 1_000).await;
    }
    {
        let mut books = books();
        let lagging = books.accounts.get_mut("acc_r0_lag").unwrap();
        (lagging.posted, lagging.version) = (700, 4);
        let closed = books.accounts.get_mut("acc_r3_closed").unwrap();
        (closed.posted, closed.closed) = (0, true);
        books.open("acc_r7_orphan", "EUR", 5);
        books.open("acc_r8_empty_orphan", "EUR", 0);
        // Opened between the two reads of a page.
        books.late.insert("acc_r6_new".into());
    }
    tamper("UPDATE wallets SET posted = 1 WHERE id = 'wal_r1_amounts'");
    tamper("UPDATE wallets SET account_version = 9 WHERE id = 'wal_r2_ahead'");
    tamper("UPDATE wallets SET posted = 0 WHERE id = 'wal_r3_closed'");
    tamper("UPDATE wallets SET state = 'closed' WHERE id = 'wal_r4_open'");
    add("r9_none", "r9", "EUR", 0).await;
    books().accounts.remove("acc_r9_none");

    let (done, found) = rebuild().await;
    let what = |account: &str| {
        found
            .get(account)
            .map(|d| (d["kind"].as_str().unwrap(), d["repaired"] == true))
    };
    for (account, expected) in [
        ("acc_r0_lag", Some(("lagging", true))),
        ("acc_r1_amounts", Some(("amounts", true))),
        ("acc_r2_ahead", Some(("ahead", true))),
        ("acc_r3_closed", Some(("not_closed", true))),
        ("acc_r4_open", Some(("not_closed_in_ledger", false))),
        ("acc_r5_same", None),
        ("acc_r6_new", None),
        ("acc_r7_orphan", Some(("no_wallet", false))),
        ("acc_r8_empty_orphan", None),
        ("acc_r9_none", Some(("no_account", false))),
    ] {
        assert_eq!(what(account), expected, "{account}");
    }
    assert_eq!(found["acc_r0_lag"]["shown"]["posted_minor"], 1_000);
    assert_eq!(found["acc_r0_lag"]["ledger"]["posted_minor"], 700);
    assert_eq!(balance("wal_r0_lag").await.0, "7.00");
    assert_eq!(balance("wal_r1_amounts").await.0, "10.00");
    assert_eq!(
        one("SELECT account_version FROM wallets WHERE id = 'wal_r2_ahead'"),
        "1"
    );
    assert_eq!(
        one("SELECT state FROM wallets WHERE id = 'wal_r3_closed'"),
        "closed"
    );
    assert_eq!(
        told("wallet.closed", "wal_r3_closed")[0]["decided_by"],
        "wallet.rebuild"
    );
    let rows = platform().rows("SELECT COUNT(*) FROM decisions WHERE wallet_id = 'wal_r3_closed'");
    assert_eq!(rows, [["1"]]);
    let rebuilt = told("wallet.rebuilt", done["id"].as_str().unwrap());
    assert_eq!(rebuilt[0]["differing"], done["differing"]);

    // Its owner had asked, the process died after the ledger's part, and he asks again.
    let close = "/v1/wallets/wal_r3_closed/close";
    let reason = json!({"reason": "moving on"});
    let taken_on = post(&user("r3_closed"), close, "k1", reason.clone()).await;
    assert_eq!(
        (taken_on.status, &taken_on.body["state"]),
        (200, &json!("closed")),
        "{}",
        taken_on.body
    );
    assert!(post(&user("r3_closed"), close, "k1", reason).await.replayed);
    let path = "/v1/wallets/wal_r3_closed/decisions";
    let decided = get(&finance(), path).await.body;
    assert_eq!(
        decided["data"][1]["decided_by"], "usr_r3_closed",
        "{decided}"
    );
    assert_eq!(decided["data"][1]["reason"], "moving on");
    assert_eq!(told("wallet.closed", "wal_r3_closed").len(), 1);
    let late = post(&finance(), close, "k1", json!({})).await;
    assert_eq!((late.status, late.code()), (409, "invalid_state"));

    tamper("UPDATE wallets SET state = 'active' WHERE id = 'wal_r4_open'");
    tamper("DELETE FROM wallets WHERE id = 'wal_r9_none'");
    books().accounts.remove("acc_r7_orphan");
    let (_, left) = rebuild().await;
    assert!(
        !names.iter().any(|n| left.contains_key(&format!("acc_{n}"))),
        "{left:?}"
    );
}

#[tokio::test]
async fn the_schedule_begins_one_by_itself_and_only_operators_ask_for_one() {
    let _alone = alone().await;
    let result = run("wallet.rebuild", vec![]).await;
    let id = result["rebuild_id"].as_str().unwrap();
    let read = get(&ops(), &format!("/v1/rebuilds/{id}")).await;
    assert_eq!(read.body["requested_by"], "wallet.rebuild", "{}", read.body);
    let denied = post(&user("anna"), "/v1/rebuilds", "k", json!({})).await;
    assert_eq!((denied.status, denied.code()), (403, "insufficient_scope"));
    assert_eq!(
        get(&user("anna"), &format!("/v1/rebuilds/{id}"))
            .await
            .status,
        403
    );
    let none = get(&ops(), "/v1/rebuilds/reb_none").await;
    assert_eq!((none.status, none.code()), (404, "not_found"));
}
