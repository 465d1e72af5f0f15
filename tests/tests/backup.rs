//! Backup and restore of the services' databases on PostgreSQL, as docs/postgres.md says. On files
//! there is nothing of it to test.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::process::Command;

use innover_tests::{Platform, innover, payment, repository};

fn run(program: &str, arguments: &[&str]) {
    let done = Command::new(program).args(arguments).output();
    let done = done.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(
        done.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}

/// What `innover ledger …` printed.
fn ledger(p: &Platform, arguments: &[&str]) -> String {
    let output = Command::new(innover())
        .arg("ledger")
        .args(arguments)
        .env("INNOVER_URL", &p.url)
        .output()
        .unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success(), "{arguments:?}: {text}");
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_dumped_is_there_again_after_every_database_was_lost() {
    let mut p = Platform::start().await;
    let Some(databases) = p.databases() else {
        eprintln!("not tested: INNOVER_TEST_POSTGRES names no PostgreSQL");
        return;
    };
    let payer = p.funded("user", "100.00", "EUR").await;
    let payee = p.wallet("finance", "USD").await;
    let pay = async |p: &Platform, key: &str| {
        p.request("user", reqwest::Method::POST, "/api/payment/v1/process")
            .await
            .key(key)
            .json(&payment(&payer, &payee, "10.00", "EUR"))
            .send()
            .await
    };
    let first = pay(&p, "before").await;
    assert_eq!(first.status, 202, "{}", first.text);
    assert_eq!(p.settled(&first.id()).await["state"], "completed");
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    ledger(&p, &["checkpoint"]);
    std::fs::write(file("key"), ledger(&p, &["key"])).unwrap();
    assert_eq!(
        p.signal("-TERM"),
        Some(0),
        "nothing is under way in a backup"
    );

    for (name, url) in &databases {
        run("pg_dump", &["--format=custom", "--file", &file(name), url]);
    }
    p.lose_databases();
    p.create_databases();
    for (name, url) in &databases {
        run(
            "pg_restore",
            &[
                "--clean",
                "--if-exists",
                "--no-owner",
                "--role",
                name,
                "--single-transaction",
                "--dbname",
                url,
                &file(name),
            ],
        );
    }
    p.run();
    assert_eq!(p.balance(&payer).await, "90.00");
    let again = pay(&p, "before").await;
    assert_eq!(again.id(), first.id(), "keys are in the backup too");
    let second = pay(&p, "after").await;
    assert_eq!(p.settled(&second.id()).await["state"], "completed");
    assert_eq!(p.balance(&payer).await, "80.00");
    let trail = p.get("auditor", "/v1/audit/verify").await.json;
    assert_eq!(trail["ok"], true, "{trail}");
    // By the key from before: what was signed is there, and what came after it follows from it.
    ledger(&p, &["checkpoint"]);
    ledger(&p, &["export", &file("journal")]);
    let verified = ledger(&p, &["verify", &file("journal"), "--key", &file("key")]);
    assert!(verified.starts_with("good: 3 entries"), "{verified}");
    p.assert_balanced().await;
}

/// Another state folder has other secrets: with them the roles would be lost to the platform that runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_of_a_platform_keep_their_passwords_unless_told_otherwise() {
    let p = Platform::start().await;
    if p.databases().is_none() {
        eprintln!("not tested: INNOVER_TEST_POSTGRES names no PostgreSQL");
        return;
    }
    let elsewhere = tempfile::tempdir().unwrap();
    let migrate = |state: &std::path::Path, more: &[&str]| {
        let done = Command::new(innover())
            .arg("migrate")
            .args(more)
            .current_dir(repository())
            .envs(p.environment().iter().cloned())
            .env("INNOVER_STATE_DIR", state)
            .output()
            .unwrap();
        let text = String::from_utf8([done.stdout, done.stderr].concat()).unwrap();
        (done.status.success(), text)
    };
    let (done, text) = migrate(elsewhere.path(), &["--create"]);
    assert!(!done && text.contains("--new-passwords"), "{text}");
    let (done, text) = migrate(elsewhere.path(), &[]);
    assert!(!done && text.contains("another secrets.toml"), "{text}");
    // The platform has noticed nothing, and its own folder is taken.
    p.funded("user", "1.00", "EUR").await;
    let (done, text) = migrate(p.state(), &["--create"]);
    assert!(done, "{text}");
    let (done, text) = migrate(elsewhere.path(), &["--create", "--new-passwords"]);
    assert!(done, "{text}");
    let (done, text) = migrate(p.state(), &[]);
    assert!(!done, "{text}");
}
