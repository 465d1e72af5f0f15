//! What bounds the platform on PostgreSQL: the same server under pgbench, in the same run. A plain
//! insert is the least a posting can cost; a double entry in one PL/pgSQL function is what a service
//! with nothing else to do (no token, no seal, no event, no idempotency) would make of it.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use super::{ROUNDS, median, row, storage::Server};

/// As in the figures this is compared with.
const CLIENTS: &str = "20";
const SECONDS: &str = "4";

const SCHEMA: &str = "
    CREATE TABLE plain (id BIGSERIAL PRIMARY KEY, account BIGINT NOT NULL, amount BIGINT NOT NULL, made_at BIGINT NOT NULL);
    CREATE TABLE account (no BIGINT PRIMARY KEY, debits BIGINT NOT NULL, credits BIGINT NOT NULL);
    INSERT INTO account SELECT n, 0, 0 FROM generate_series(1, 1000) n;
    CREATE TABLE entry (id BIGSERIAL PRIMARY KEY, made_at TIMESTAMPTZ NOT NULL DEFAULT now());
    CREATE TABLE posting (entry BIGINT NOT NULL, account BIGINT NOT NULL, amount BIGINT NOT NULL, balance BIGINT NOT NULL, PRIMARY KEY (entry, account));
    CREATE FUNCTION transfer(debit BIGINT, credit BIGINT, amount BIGINT) RETURNS BIGINT LANGUAGE plpgsql AS $$
    DECLARE made BIGINT; held_d BIGINT; held_c BIGINT;
    BEGIN
        -- In one order, so that two transfers do not wait for each other.
        PERFORM 1 FROM account WHERE no IN (debit, credit) ORDER BY no FOR UPDATE;
        UPDATE account SET debits = debits + amount WHERE no = debit RETURNING credits - debits INTO held_d;
        UPDATE account SET credits = credits + amount WHERE no = credit RETURNING credits - debits INTO held_c;
        INSERT INTO entry DEFAULT VALUES RETURNING id INTO made;
        INSERT INTO posting VALUES (made, debit, -amount, held_d), (made, credit, amount, held_c);
        RETURN made;
    END $$;";
const INSERT: &str = "\\set a random(1, 1000)
INSERT INTO plain (account, amount, made_at) VALUES (:a, 100, 1793372400000000);
";
const TRANSFER: &str = "\\set a random(1, 1000)
\\set b 1 + (:a + random(0, 998)) % 1000
SELECT transfer(:a, :b, 100);
";

pub async fn rounds(server: &Server, rows: &mut Vec<[String; 5]>) -> Result<()> {
    let Some(program) = pgbench() else {
        rows.push(row("pgbench is not on this machine", "", "", "", ""));
        return Ok(());
    };
    let url = server.create("limits", SCHEMA).await?;
    for (what, script) in [
        (
            "the server alone: pgbench, 20 clients, one row per INSERT",
            INSERT,
        ),
        (
            "the same, a double entry in one PL/pgSQL function",
            TRANSFER,
        ),
    ] {
        let mut rates = Vec::new();
        for _ in 0..ROUNDS {
            let (program, url) = (program.clone(), url.clone());
            rates.push(tokio::task::spawn_blocking(move || run(&program, &url, script)).await??);
        }
        rows.push(row(
            what,
            format!("{:.0}/s", median(&mut rates)),
            "",
            "",
            "",
        ));
    }
    Ok(())
}

/// Debian keeps it beside the server, other systems on PATH.
fn pgbench() -> Option<PathBuf> {
    let on_path = std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join("pgbench"))
        .find(|file| file.is_file());
    on_path.or_else(|| {
        let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
        versions
            .filter_map(|version| Some(version.ok()?.path().join("bin/pgbench")))
            .find(|file| file.is_file())
    })
}

/// Transactions per second.
fn run(program: &PathBuf, url: &str, script: &str) -> Result<f64> {
    let file = std::env::temp_dir().join(format!("{}.sql", uuid::Uuid::now_v7().simple()));
    std::fs::write(&file, script)?;
    let output = Command::new(program)
        .args(["--no-vacuum", "--protocol=prepared", "--jobs=2"])
        .args(["--client", CLIENTS, "--time", SECONDS, "--file"])
        .arg(&file)
        .arg(url)
        .stderr(Stdio::inherit())
        .output();
    std::fs::remove_file(&file)?;
    let output = output.context("cannot run pgbench")?;
    ensure!(output.status.success(), "pgbench failed: {}", output.status);
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok())
        .context("pgbench named no rate")
}
