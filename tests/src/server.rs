//! Databases of a platform on a PostgreSQL server that the test command has started.

use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

const NAMES: &str = "SELECT datname FROM pg_database WHERE datname LIKE $1";

/// A platform's databases there; they go with the value.
pub(crate) struct Server {
    admin: String,
    prefix: String,
}

impl Server {
    /// `None` when the tests run on files.
    pub(crate) fn new() -> Option<Server> {
        let admin = std::env::var("INNOVER_TEST_POSTGRES").ok()?;
        let prefix = format!("{}_", crate::unique().replace('-', "_"));
        Some(Server { admin, prefix })
    }

    /// What the platform is told.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let (_, place) = self.admin.rsplit_once('@').expect("a user");
        let (host, _) = place.split_once('/').expect("a database");
        // Where the server has a certificate, the platform checks it.
        let authority = std::env::var("INNOVER_TEST_POSTGRES_FOLDER")
            .map(|folder| format!("{folder}/authority.pem"))
            .ok()
            .filter(|file| std::path::Path::new(file).is_file());
        let tls = match authority {
            Some(file) => format!("sslmode=verify-full&sslrootcert={file}"),
            None => "sslmode=disable".to_owned(),
        };
        [
            ("DATABASE_URL", format!("postgres://{host}?{tls}")),
            ("DATABASE_PREFIX", self.prefix.clone()),
            ("DATABASE_ADMIN_URL", self.admin.clone()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    /// The first column of the first row.
    pub(crate) fn value(&self, database: &str, sql: &str) -> String {
        let rows = self.run(database, &[sql], false);
        let first = rows.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
            _ => None,
        });
        first.expect("a row")
    }

    /// Statements in one transaction, each of which must change one row.
    pub(crate) fn change(&self, database: &str, statements: &[&str]) {
        let done = self.run(database, statements, true);
        let changed: Vec<u64> = done
            .iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::CommandComplete(rows) => Some(*rows),
                _ => None,
            })
            .collect();
        // BEGIN and COMMIT around them.
        assert_eq!(changed[1..=statements.len()], vec![1; statements.len()]);
    }

    /// Names, and addresses of each for the admin.
    pub(crate) fn databases(&self) -> Vec<(String, String)> {
        let (url, like) = (self.admin.clone(), self.pattern());
        let names: Vec<String> = apart(async move {
            let rows = connect(&url).await.query(NAMES, &[&like]).await.unwrap();
            rows.iter().map(|row| row.get(0)).collect()
        });
        let (server, _) = self.admin.rsplit_once('/').expect("a database");
        let address = |name: String| (name.clone(), format!("{server}/{name}"));
        names.into_iter().map(address).collect()
    }

    pub(crate) fn drop_databases(&self) {
        let (url, like) = (self.admin.clone(), self.pattern());
        apart(async move {
            let admin = connect(&url).await;
            for row in admin.query(NAMES, &[&like]).await.unwrap() {
                let name: String = row.get(0);
                for gone in [
                    format!("DROP DATABASE {name} WITH (FORCE)"),
                    format!("DROP ROLE IF EXISTS {name}"),
                ] {
                    admin.batch_execute(&gone).await.unwrap();
                }
            }
        });
    }

    fn pattern(&self) -> String {
        format!("{}%", self.prefix.replace('_', "\\_"))
    }

    fn run(&self, database: &str, statements: &[&str], together: bool) -> Vec<SimpleQueryMessage> {
        let (server, _) = self.admin.rsplit_once('/').expect("a database");
        let url = format!("{server}/{}{database}", self.prefix);
        let sql = match together {
            true => format!("BEGIN;{};COMMIT", statements.join(";")),
            false => statements.join(";"),
        };
        apart(async move { connect(&url).await.simple_query(&sql).await.unwrap() })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.drop_databases();
    }
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Runs it on a thread of its own: callers are in a runtime already, or in none.
fn apart<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    let thread = std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(work)
    });
    thread.join().unwrap()
}
