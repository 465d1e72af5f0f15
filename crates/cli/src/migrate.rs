//! Migrations of the services' databases: `NNNN_name.sql`, in order, each in a transaction of its own
//! together with its row in `schema_migrations`. Guests only compare versions. One set of files for
//! SQLite (here) and PostgreSQL (`server`), where the bridges' own database is migrated too.

mod server;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail, ensure};
use rusqlite::{Connection, TransactionBehavior, params};
use sha2::{Digest, Sha256};

use crate::{
    app::App,
    databases::{Databases, Server},
    keys::BRIDGE,
    secrets,
    state::StateDir,
};

/// A running service or bridge may hold the write lock; migrations of a quiet database take none.
const BUSY: Duration = Duration::from_secs(10);

/// One file of a migrations folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    pub version: i64,
    pub name: String,
    pub sql: String,
    file: PathBuf,
}

/// What was done to one database.
#[derive(Debug, PartialEq, Eq)]
pub struct Report {
    pub label: String,
    /// File names without `.sql`, in order; empty when the database was up to date.
    pub applied: Vec<String>,
}

/// Brings every database up to date.
pub async fn all(app: &App, state: &StateDir, databases: &Databases) -> Result<Vec<Report>> {
    let mut reports = Vec::new();
    for (label, source) in each(app, databases)? {
        let applied = async {
            let migrations = source.read()?;
            match databases {
                Databases::Files => apply(&state.database(&label), &migrations),
                Databases::Server(server) => server::apply(server, &label, &migrations).await,
            }
        };
        let applied = applied.await.with_context(|| format!("database {label}"))?;
        reports.push(Report { label, applied });
    }
    Ok(reports)
}

/// What [`all`] would apply. Writes nothing.
pub async fn pending(app: &App, state: &StateDir, databases: &Databases) -> Result<Vec<Report>> {
    let mut reports = Vec::new();
    for (label, source) in each(app, databases)? {
        let applied = async {
            let migrations = source.read()?;
            let found = match databases {
                Databases::Files => match state.database(&label) {
                    path if path.exists() => applied(&open_to_read(&path)?)?,
                    _ => Applied::new(),
                },
                Databases::Server(server) => {
                    server::applied(&*server::connect(server, &label).await?).await?
                }
            };
            let open = check(&migrations, &found)?;
            anyhow::Ok(open.iter().map(|migration| migration.title()).collect())
        };
        let applied = applied.await.with_context(|| format!("database {label}"))?;
        reports.push(Report { label, applied });
    }
    Ok(reports)
}

/// Makes the databases on a server and a role for each.
async fn create(app: &App, server: &Server, admin: &str, new_passwords: bool) -> Result<()> {
    for label in labels(app)? {
        let made = server::create(server, &label, admin, new_passwords)
            .await
            .with_context(|| format!("database {}", server.name(&label)))?;
        let done = if made { "created" } else { "was there" };
        println!("{}  {done}", server.name(&label));
    }
    Ok(())
}

/// Where a database's migrations are.
enum Source {
    Folder(PathBuf),
    /// In this program: the database that bridges share.
    Bridge,
}

impl Source {
    fn read(&self) -> Result<Vec<Migration>> {
        match self {
            Source::Folder(folder) => read(folder),
            Source::Bridge => Ok(shared()),
        }
    }
}

fn shared() -> Vec<Migration> {
    let numbered = (1..).zip(innover_bridge::JOBS_MIGRATIONS);
    let migration = |(version, (name, sql)): (i64, (&str, &str))| Migration {
        version,
        name: name.to_owned(),
        sql: sql.to_owned(),
        file: format!("the bridge's migration {name}").into(),
    };
    numbered.map(migration).collect()
}

/// Every database that is migrated, by its label. Without a server the bridge has only its file, and
/// migrates that itself.
fn each(app: &App, databases: &Databases) -> Result<BTreeMap<String, Source>> {
    let folders = folders(app)?.into_iter();
    let mut found: BTreeMap<_, _> = folders
        .map(|(label, folder)| (label, Source::Folder(folder)))
        .collect();
    if let Databases::Server(_) = databases
        && found.insert(BRIDGE.to_owned(), Source::Bridge).is_some()
    {
        bail!("a service's database is called {BRIDGE}, which is the name of the bridges' own");
    }
    Ok(found)
}

/// Label and migrations folder of every service that has both.
fn folders(app: &App) -> Result<BTreeMap<String, PathBuf>> {
    let mut found: BTreeMap<String, PathBuf> = BTreeMap::new();
    for (id, component) in &app.manifest.components {
        let Some(folder) = &component.innover.migrations else {
            continue;
        };
        let Some(label) = &component.innover.database else {
            bail!(
                "component {id} has `migrations` but no `database` in its [component.{id}.tool.innover]"
            );
        };
        let folder = app.base.join(folder);
        if let Some(other) = found.insert(label.clone(), folder.clone())
            && other != folder
        {
            bail!("two components have migrations for the database {label}; only its owner may");
        }
    }
    Ok(found)
}

impl Migration {
    fn title(&self) -> String {
        format!("{:04}_{}", self.version, self.name)
    }

    fn checksum(&self) -> String {
        use std::fmt::Write;
        Sha256::digest(self.sql.as_bytes())
            .iter()
            .fold(String::new(), |mut text, byte| {
                // Writing to a String cannot fail.
                let _ = write!(text, "{byte:02x}");
                text
            })
    }
}

/// The files of a folder in order.
pub fn read(folder: &Path) -> Result<Vec<Migration>> {
    let entries = fs::read_dir(folder)
        .with_context(|| format!("cannot read the migrations folder {}", folder.display()))?;
    let mut migrations: Vec<Migration> = Vec::new();
    for entry in entries {
        let file = entry.context("cannot read the migrations folder")?.path();
        let name = file
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default()
            .to_owned();
        // Editors and systems leave their own files about.
        if name.starts_with('.') || name.ends_with('~') {
            continue;
        }
        let (version, title) = parse_name(&name).with_context(|| {
            format!(
                "{}: a migration is called NNNN_name.sql, from 0001, name in a-z, 0-9 and _",
                file.display()
            )
        })?;
        let sql =
            fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        migrations.push(Migration {
            version,
            name: title.to_owned(),
            sql,
            file,
        });
    }
    migrations.sort_by_key(|migration| migration.version);
    for (index, migration) in migrations.iter().enumerate() {
        let expected = index as i64 + 1;
        ensure!(
            migration.version == expected,
            "{}: its number should be {expected:04}; each number occurs once, without gaps",
            migration.file.display()
        );
    }
    Ok(migrations)
}

fn parse_name(file: &str) -> Option<(i64, &str)> {
    let (number, name) = file.strip_suffix(".sql")?.split_once('_')?;
    let digits = number.len() == 4 && number.bytes().all(|b| b.is_ascii_digit());
    let plain = !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    (digits && plain).then_some((number.parse().ok()?, name))
}

/// Applies what is missing and returns its titles.
pub fn apply(database: &Path, migrations: &[Migration]) -> Result<Vec<String>> {
    let mut db = Connection::open(database)
        .with_context(|| format!("cannot open {}", database.display()))?;
    db.busy_timeout(BUSY)?;
    // Readers beside one writer; kept in the file, so this is work only once.
    db.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;",
    )
    .with_context(|| format!("cannot switch {} to WAL", database.display()))?;
    let found = applied(&db)?;
    let open = check(migrations, &found)?;
    if open.is_empty() && !found.is_empty() {
        return Ok(vec![]);
    }
    db.execute_batch(
        "CREATE TABLE IF NOT EXISTS schema_migrations \
         (version BIGINT PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL, applied_at BIGINT NOT NULL)",
    )?;
    let mut titles = Vec::new();
    for migration in open {
        run(&mut db, migration).with_context(|| {
            format!(
                "{} was not applied, and nothing of it stays; correct it and start again",
                migration.file.display()
            )
        })?;
        titles.push(migration.title());
    }
    Ok(titles)
}

fn run(db: &mut Connection, migration: &Migration) -> Result<()> {
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Another `innover` may have been faster while this one waited for the lock.
    if applied(&transaction)?.contains_key(&migration.version) {
        return Ok(());
    }
    transaction.execute_batch(&migration.sql)?;
    ensure!(
        !transaction.is_autocommit(),
        "it ends the transaction it runs in; leave BEGIN, COMMIT and ROLLBACK out of migrations"
    );
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_micros();
    transaction.execute(
        "INSERT INTO schema_migrations (version, name, checksum, applied_at) VALUES (?1, ?2, ?3, ?4)",
        params![migration.version, migration.name, migration.checksum(), i64::try_from(now).unwrap_or(i64::MAX)],
    )?;
    transaction.commit()?;
    Ok(())
}

/// Version → (name, checksum).
type Applied = BTreeMap<i64, (String, String)>;

fn applied(db: &Connection) -> Result<Applied> {
    if !db.table_exists(None, "schema_migrations")? {
        return Ok(Applied::new());
    }
    let mut statement = db.prepare("SELECT version, name, checksum FROM schema_migrations")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// The migrations that are not applied yet; an error when the applied ones are not these.
fn check<'a>(migrations: &'a [Migration], found: &Applied) -> Result<Vec<&'a Migration>> {
    for (version, (name, checksum)) in found {
        let Some(migration) = migrations
            .iter()
            .find(|migration| migration.version == *version)
        else {
            bail!(
                "migration {version:04}_{name} is applied but its file is not there: the database is from a newer version; run that one"
            );
        };
        if *checksum != migration.checksum() {
            bail!(
                "{} was changed after it was applied (as {version:04}_{name}): put the applied text back and write the change as a new migration",
                migration.file.display()
            );
        }
    }
    Ok(migrations
        .iter()
        .filter(|migration| !found.contains_key(&migration.version))
        .collect())
}

fn open_to_read(path: &Path) -> Result<Connection> {
    let flags =
        rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY | rusqlite::OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags)
        .with_context(|| format!("cannot open {}", path.display()))?;
    db.busy_timeout(BUSY)?;
    Ok(db)
}

/// One line for all databases.
pub fn summary(reports: &[Report]) -> String {
    let applied: Vec<_> = reports
        .iter()
        .filter(|report| !report.applied.is_empty())
        .map(|report| format!("{} {}", report.label, report.applied.join(" ")))
        .collect();
    match applied.len() {
        0 => format!("{} databases up to date", reports.len()),
        _ => format!(
            "{} databases; applied: {}",
            reports.len(),
            applied.join(", ")
        ),
    }
}

/// The command. `create_with` is the address of somebody who may create databases, when they are to be.
pub async fn command(
    app: &App,
    state: &StateDir,
    databases: &mut Databases,
    create_with: Option<&str>,
    new_passwords: bool,
) -> Result<()> {
    let secrets = {
        let _turn = state.writing()?;
        secrets::ensure(&state.secrets(), &app.secret_names())?.0
    };
    databases.unlock(labels(app)?.iter().map(String::as_str), &secrets);
    match (create_with, &*databases) {
        (None, _) => {}
        (Some(admin), Databases::Server(server)) => {
            create(app, server, admin, new_passwords).await?
        }
        (Some(_), Databases::Files) => bail!(
            "there is nothing to create: DATABASE_URL names no server, and files are made as they are needed"
        ),
    }
    for Report { label, applied } in all(app, state, databases).await? {
        match applied.len() {
            0 => println!("{label}  up to date"),
            _ => println!("{label}  applied {}", applied.join(", ")),
        }
    }
    Ok(())
}

/// Labels of the databases that a server has: the services', and the bridges' own.
pub fn labels(app: &App) -> Result<Vec<String>> {
    let services = folders(app)?.into_keys();
    Ok(services.chain([BRIDGE.to_owned()]).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
    use super::*;

    struct Fixture {
        temp: tempfile::TempDir,
    }

    impl Fixture {
        fn new(files: &[(&str, &str)]) -> Fixture {
            let fixture = Fixture {
                temp: tempfile::tempdir().unwrap(),
            };
            fs::create_dir(fixture.folder()).unwrap();
            files.iter().for_each(|(name, sql)| fixture.put(name, sql));
            fixture
        }

        fn folder(&self) -> PathBuf {
            self.temp.path().join("migrations")
        }

        fn put(&self, name: &str, sql: &str) {
            fs::write(self.folder().join(name), sql).unwrap();
        }

        fn migrate(&self) -> Result<Vec<String>> {
            apply(&self.temp.path().join("x.db"), &read(&self.folder())?)
        }

        fn tables(&self) -> String {
            let db = Connection::open(self.temp.path().join("x.db")).unwrap();
            let sql = "SELECT group_concat(name) FROM (SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name)";
            db.query_row(sql, [], |row| row.get(0)).unwrap()
        }
    }

    #[test]
    fn migrations_run_in_order_and_once() {
        let fixture = Fixture::new(&[
            (
                "0002_more.sql",
                "ALTER TABLE a ADD COLUMN y TEXT; INSERT INTO a VALUES (1, 'x');",
            ),
            (
                "0001_init.sql",
                "CREATE TABLE a (x BIGINT); CREATE TABLE b (x BIGINT);",
            ),
            (".0003_swap.sql.swp", "nonsense"),
        ]);
        assert_eq!(fixture.migrate().unwrap(), ["0001_init", "0002_more"]);
        assert_eq!(fixture.migrate().unwrap(), [""; 0]);
        fixture.put("0003_third.sql", "CREATE TABLE c (x BIGINT)");
        assert_eq!(fixture.migrate().unwrap(), ["0003_third"]);
        assert_eq!(fixture.tables(), "a,b,c,schema_migrations");
        let db = Connection::open(fixture.temp.path().join("x.db")).unwrap();
        let mode: String = db
            .query_row("PRAGMA journal_mode", [], |row| row.get(0))
            .unwrap();
        assert_eq!(mode, "wal");
    }

    #[test]
    fn an_applied_migration_that_was_changed_or_is_gone_stops_everything() {
        let fixture = Fixture::new(&[("0001_init.sql", "CREATE TABLE a (x BIGINT)")]);
        fixture.migrate().unwrap();
        fixture.put("0001_init.sql", "CREATE TABLE a (x BIGINT, y TEXT)");
        fixture.put("0002_more.sql", "CREATE TABLE b (x BIGINT)");
        let error = format!("{:#}", fixture.migrate().unwrap_err());
        assert!(
            error.contains("0001_init.sql was changed") && error.contains("as a new migration"),
            "{error}"
        );
        assert_eq!(fixture.tables(), "a,schema_migrations");

        fs::remove_file(fixture.folder().join("0001_init.sql")).unwrap();
        fs::remove_file(fixture.folder().join("0002_more.sql")).unwrap();
        let error = format!("{:#}", fixture.migrate().unwrap_err());
        assert!(error.contains("newer version"), "{error}");
    }

    #[test]
    fn a_migration_that_fails_half_way_leaves_nothing_and_runs_again_when_it_is_right() {
        let fixture = Fixture::new(&[
            ("0001_init.sql", "CREATE TABLE a (x BIGINT)"),
            (
                "0002_more.sql",
                "CREATE TABLE b (x BIGINT); INSERT INTO nowhere VALUES (1);",
            ),
        ]);
        let error = format!("{:#}", fixture.migrate().unwrap_err());
        assert!(
            error.contains("0002_more.sql") && error.contains("nowhere"),
            "{error}"
        );
        assert_eq!(
            fixture.tables(),
            "a,schema_migrations",
            "0001 stays, nothing of 0002"
        );
        fixture.put("0002_more.sql", "CREATE TABLE b (x BIGINT)");
        assert_eq!(fixture.migrate().unwrap(), ["0002_more"]);
    }

    #[test]
    fn a_migration_may_not_end_its_transaction() {
        let fixture = Fixture::new(&[("0001_init.sql", "CREATE TABLE a (x BIGINT); COMMIT;")]);
        let error = format!("{:#}", fixture.migrate().unwrap_err());
        assert!(error.contains("leave BEGIN, COMMIT"), "{error}");
    }

    #[test]
    fn names_that_are_no_migrations_are_refused() {
        for name in [
            "1_init.sql",
            "0001-init.sql",
            "0001_.sql",
            "0001_Init.sql",
            "init.sql",
            "0001_init.txt",
        ] {
            let fixture = Fixture::new(&[(name, "")]);
            assert!(
                format!("{:#}", fixture.migrate().unwrap_err()).contains("NNNN_name.sql"),
                "{name}"
            );
        }
        for (files, wrong) in [
            (["0001_a.sql", "0003_b.sql"], "0003_b.sql"),
            (["0001_a.sql", "0001_b.sql"], "0001_"),
        ] {
            let fixture = Fixture::new(&files.map(|name| (name, "")));
            let error = format!("{:#}", fixture.migrate().unwrap_err());
            assert!(error.contains(wrong) && error.contains("0002"), "{error}");
        }
    }
}
