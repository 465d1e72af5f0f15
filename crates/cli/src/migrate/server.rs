//! Migrations on PostgreSQL and CockroachDB.

use anyhow::{Context, Result, anyhow, bail, ensure};
use innover_postgres::{Address, Unreachable, explain};
use postgres_protocol::password::scram_sha_256;
use std::{
    ops::Deref,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio_postgres::{Client, error::SqlState};

use super::{Applied, Migration, check};
use crate::databases::Server;

/// An index on a large table takes its time.
const STATEMENT: Duration = Duration::from_secs(600);
/// How often a migration is tried that another `innover` runs at the same moment.
const TRIES: u32 = 5;

/// What the platform itself keeps in a service's database.
const OWN_TABLES: &str = "
    CREATE TABLE IF NOT EXISTS schema_migrations
        (version BIGINT PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL, applied_at BIGINT NOT NULL);
    CREATE TABLE IF NOT EXISTS relay_lease
        (id BIGINT PRIMARY KEY, owner TEXT NOT NULL, ends_at BIGINT NOT NULL);";

/// A connection; its errors say the server's own reason.
pub struct Connection(Client);

impl Deref for Connection {
    type Target = Client;
    fn deref(&self) -> &Client {
        &self.0
    }
}

fn reason(error: tokio_postgres::Error) -> anyhow::Error {
    anyhow!(explain(&error))
}

async fn open(url: &str, authority: Option<&str>) -> Result<Connection, Unreachable> {
    let address = Address::parse(url, authority, STATEMENT)?;
    Ok(Connection(address.connect().await?))
}

/// Connects as the service whose database it is.
pub async fn connect(server: &Server, label: &str) -> Result<Connection> {
    let connected = open(&server.url(label), server.authority.as_deref()).await;
    connected.map_err(|error| {
        let what = match &error {
            Unreachable::Refused(_) => {
                "cannot log in. `innover migrate --create` makes databases and roles that are not there; \
                 if they are, this state folder has another secrets.toml than they were made with"
            }
            _ => "cannot connect; `innover migrate --create` makes the databases and roles",
        };
        anyhow::Error::new(error).context(what)
    })
}

/// Makes a service's database and role; says whether the database is new. Nobody else may connect to
/// it. A role that is there keeps its password, unless `new_passwords` says otherwise.
///
/// # Errors
/// The role has another password than this platform will use.
pub async fn create(
    server: &Server,
    label: &str,
    admin: &str,
    new_passwords: bool,
) -> Result<bool> {
    let admin = open(admin, server.authority.as_deref())
        .await
        .context("cannot connect as DATABASE_ADMIN_URL says")?;
    let (name, password) = (server.name(label), server.password(label));
    // Names are of a-z, 0-9 and _, passwords of base64url: nothing to escape.
    let role_there = role_exists(&admin, &name).await?;
    if role_there
        && !new_passwords
        && let Err(Unreachable::Refused(_)) =
            open(&server.url(label), server.authority.as_deref()).await
    {
        // Given this one's, a platform that runs with the other secrets would lose its databases, and
        // this one could read neither its personal data nor its messages on Kafka.
        bail!(
            "the role {name} has another password than this state folder's secrets.toml gives it: is this the \
             folder of the platform whose databases these are? Put its secrets.toml here; or, to have the roles \
             take new passwords from this one, add --new-passwords"
        );
    }
    let verb = if role_there { "ALTER" } else { "CREATE" };
    // What the server keeps of a password anyway: servers write statements that fail into their logs.
    let verifier = scram_sha_256(password.as_bytes());
    let role = format!("{verb} ROLE {name} WITH LOGIN PASSWORD '{verifier}'");
    match again(async || admin.batch_execute(&role).await).await {
        // Another `innover` has made it at this moment, with the same password.
        Err(_) if !role_there && role_exists(&admin, &name).await? => {}
        made => made?,
    }
    // Every statement is prepared once and names its rows by keys, so one plan serves all; planning
    // anew for each set of values costs the server more than running it. That plan is made when the
    // table is still small, and by what a server thinks of small tables and of disks it reads all of
    // them: from then on every lookup reads a table that grows (measured: 3 ms instead of 0.06 ms for
    // the inbox after a minute of load). So keys are the way to a row, and not dearer than a page in
    // passing; a report that has to read everything still does. What that seems to cost must not
    // start the compiler of plans.
    // A host that is cut off is noticed within half a minute, and its advisory locks go.
    // Not every server has all of these.
    for setting in [
        "plan_cache_mode = force_generic_plan",
        "enable_seqscan = off",
        "random_page_cost = 1.1",
        "jit = off",
        "tcp_keepalives_idle = 10",
        "tcp_keepalives_interval = 5",
        "tcp_keepalives_count = 3",
    ] {
        let set = format!("ALTER ROLE {name} SET {setting}");
        again(async || admin.batch_execute(&set).await).await.ok();
    }
    let there = !admin
        .query("SELECT 1 FROM pg_database WHERE datname = $1", &[&name])
        .await
        .map_err(reason)?
        .is_empty();
    let close = format!("REVOKE ALL ON DATABASE {name} FROM PUBLIC");
    if there {
        // Whoever made it may not have come to this.
        again(async || admin.batch_execute(&close).await).await?;
        return Ok(false);
    }
    let version: String = admin
        .query_one("SELECT version()", &[])
        .await
        .and_then(|row| row.try_get(0))
        .map_err(reason)?;
    // Text is compared byte by byte, as SQLite does: pages of a list continue after the last id.
    let collation = match version.contains(COCKROACHDB) {
        true => "",
        false => " TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'",
    };
    // Whoever is no superuser may only give a database to a role of his own.
    admin
        .batch_execute(&format!("GRANT {name} TO CURRENT_USER"))
        .await
        .ok();
    admin
        .batch_execute(&format!("CREATE DATABASE {name} OWNER {name}{collation}"))
        .await
        .map_err(reason)?;
    again(async || admin.batch_execute(&close).await).await?;
    Ok(true)
}

async fn role_exists(admin: &Client, name: &str) -> Result<bool> {
    let rows = admin
        .query("SELECT 1 FROM pg_roles WHERE rolname = $1", &[&name])
        .await
        .map_err(reason)?;
    Ok(!rows.is_empty())
}

/// Applies what is missing and returns its titles.
pub async fn apply(server: &Server, label: &str, migrations: &[Migration]) -> Result<Vec<String>> {
    let db = connect(server, label).await?;
    let found = applied(&db).await?;
    let open = check(migrations, &found)?;
    if open.is_empty() && !found.is_empty() {
        return Ok(vec![]);
    }
    again(async || db.batch_execute(OWN_TABLES).await).await?;
    let mut titles = Vec::new();
    for migration in open {
        run(&db, migration).await.with_context(|| {
            format!(
                "{} was not applied, and nothing of it stays; correct it and start again",
                migration.file.display()
            )
        })?;
        titles.push(migration.title());
    }
    Ok(titles)
}

/// Two that make the same thing at the same moment meet in the server's own tables, whatever IF NOT
/// EXISTS says.
async fn again(work: impl AsyncFn() -> Result<(), tokio_postgres::Error>) -> Result<()> {
    let mut tries = 0;
    loop {
        tries += 1;
        match work().await {
            Ok(()) => return Ok(()),
            Err(error) if tries < TRIES && raced(&error) => {
                tokio::time::sleep(Duration::from_millis(50 * u64::from(tries))).await;
            }
            Err(error) => return Err(reason(error)),
        }
    }
}

fn raced(error: &tokio_postgres::Error) -> bool {
    matches!(
        error.code(),
        Some(
            &SqlState::UNIQUE_VIOLATION
                | &SqlState::DUPLICATE_TABLE
                | &SqlState::DUPLICATE_OBJECT
                | &SqlState::T_R_SERIALIZATION_FAILURE
                | &SqlState::T_R_DEADLOCK_DETECTED
        )
    ) || error
        .as_db_error()
        .is_some_and(|db| db.message().contains("concurrently updated"))
}

async fn run(db: &Client, migration: &Migration) -> Result<()> {
    for token in ["begin;", "commit;", "rollback;"] {
        ensure!(
            !migration.sql.to_ascii_lowercase().contains(token),
            "leave BEGIN, COMMIT and ROLLBACK out of migrations: each runs in a transaction"
        );
    }
    let mut tries = 0;
    loop {
        tries += 1;
        let error = match once(db, migration).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        // A warning when the failure has ended the transaction.
        db.batch_execute("ROLLBACK").await.map_err(reason)?;
        // Another `innover` may have been faster.
        if applied(db).await?.contains_key(&migration.version) {
            return Ok(());
        }
        if tries >= TRIES || !raced(&error) {
            bail!(explain(&error));
        }
        tokio::time::sleep(Duration::from_millis(100 * u64::from(tries))).await;
    }
}

async fn once(db: &Client, migration: &Migration) -> Result<(), tokio_postgres::Error> {
    db.batch_execute("BEGIN").await?;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_micros();
    // First, so that of two the second waits here.
    db.execute(
        "INSERT INTO schema_migrations (version, name, checksum, applied_at) VALUES ($1, $2, $3, $4)",
        &[
            &migration.version,
            &migration.name,
            &migration.checksum(),
            &i64::try_from(now).unwrap_or(i64::MAX),
        ],
    )
    .await?;
    let version: String = db.query_one("SELECT version()", &[]).await?.try_get(0)?;
    let text = match version.contains(COCKROACHDB) {
        true => for_cockroachdb(&migration.sql),
        false => migration.sql.clone(),
    };
    db.batch_execute(&text).await?;
    db.batch_execute("COMMIT").await
}

/// What its `version()` says it is.
const COCKROACHDB: &str = "CockroachDB";

/// CockroachDB has no constraints that wait for the commit (its issue 31632); it looks at the end of a
/// statement, which a batch is.
fn for_cockroachdb(sql: &str) -> String {
    sql.replace(" DEFERRABLE INITIALLY DEFERRED", "")
}

/// What is applied; nothing in a new database.
pub async fn applied(db: &Client) -> Result<Applied> {
    let there = db
        .query(
            "SELECT 1 FROM information_schema.tables WHERE table_name = 'schema_migrations' AND table_schema = 'public'",
            &[],
        )
        .await
        .map_err(reason)?;
    if there.is_empty() {
        return Ok(Applied::new());
    }
    let rows = db
        .query("SELECT version, name, checksum FROM schema_migrations", &[])
        .await
        .map_err(reason)?;
    rows.iter()
        .map(|row| {
            let read = || Ok((row.try_get(0)?, (row.try_get(1)?, row.try_get(2)?)));
            read().map_err(reason)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
    use super::*;

    /// What CockroachDB 24 is known to refuse in the statements of migrations.
    #[test]
    fn no_migration_has_what_cockroachdb_refuses() {
        let components = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../components");
        let mut seen = 0;
        for component in std::fs::read_dir(components).unwrap() {
            let Ok(files) = std::fs::read_dir(component.unwrap().path().join("migrations")) else {
                continue;
            };
            for file in files {
                let path = file.unwrap().path();
                let text = for_cockroachdb(&std::fs::read_to_string(&path).unwrap());
                let text = text.to_ascii_uppercase();
                for refused in [
                    "DEFERRABLE",
                    "EXCLUDE USING",
                    "TABLESPACE",
                    "INHERITS",
                    "CREATE TRIGGER",
                ] {
                    assert!(!text.contains(refused), "{}: {refused}", path.display());
                }
                seen += 1;
            }
        }
        assert!(seen >= 10, "{seen}");
    }
}
