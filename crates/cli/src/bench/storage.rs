//! Where the measured platforms keep their data, and what the bench reads there: files in their own
//! state folder, or with `DATABASE_URL` databases of their own on that server, gone afterwards.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use innover_postgres::{Address, explain};
use rusqlite::OpenFlags;
use tokio_postgres::{Client, types::ToSql};

use crate::databases;

/// A whole round of payments is counted in less.
const STATEMENT: std::time::Duration = std::time::Duration::from_secs(120);

/// See the module.
pub enum Storage {
    Files,
    Server(Server),
}

/// A server and the names of the bench's databases there.
pub struct Server {
    /// `DATABASE_ADMIN_URL`.
    admin: String,
    /// Of the server's certificate.
    authority: Option<String>,
    /// `DATABASE_PREFIX` of the platforms.
    pub prefix: String,
}

/// One database.
pub enum Database {
    File(rusqlite::Connection),
    Server(Client),
}

fn reason(error: tokio_postgres::Error) -> anyhow::Error {
    anyhow!(explain(&error))
}

impl Storage {
    /// What the environment says.
    pub fn from_environment() -> Result<Storage> {
        let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let Some(url) = set("DATABASE_URL") else {
            return Ok(Storage::Files);
        };
        let admin = set("DATABASE_ADMIN_URL").context(
            "with DATABASE_URL the bench makes databases of its own, and needs DATABASE_ADMIN_URL for it",
        )?;
        let unique = uuid::Uuid::now_v7().simple().to_string();
        let prefix = format!("bench_{}_", &unique[24..]);
        let authority = databases::Server::parse(&url, &prefix)?.authority;
        Ok(Storage::Server(Server {
            admin,
            authority,
            prefix,
        }))
    }

    /// What a platform is told.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let mut settings = Vec::new();
        if let Storage::Server(server) = self {
            settings.push(("DATABASE_PREFIX", server.prefix.clone()));
        }
        if let Some(prefix) = self.topic_prefix() {
            settings.push(("KAFKA_TOPIC_PREFIX", prefix.clone()));
            settings.push(("KAFKA_GROUP_PREFIX", prefix));
        }
        settings
    }

    /// Topics of its own as well, when there is a Kafka.
    fn topic_prefix(&self) -> Option<String> {
        std::env::var("KAFKA_BROKERS")
            .ok()
            .filter(|b| !b.is_empty())?;
        Some(match self {
            Storage::Server(server) => server.prefix.replace('_', "."),
            Storage::Files => format!("bench.{}.", std::process::id()),
        })
    }

    /// A service's database of the platform whose state is in `folder`.
    pub async fn database(&self, folder: &Path, service: &str) -> Result<Database> {
        match self {
            Storage::Files => {
                let file = folder.join(format!("db/{service}.db"));
                let flags = OpenFlags::SQLITE_OPEN_READ_WRITE;
                let connection = rusqlite::Connection::open_with_flags(file, flags)?;
                connection.busy_timeout(STATEMENT)?;
                Ok(Database::File(connection))
            }
            Storage::Server(server) => Ok(Database::Server(
                server
                    .connect(&format!("{}{service}", server.prefix))
                    .await?,
            )),
        }
    }

    /// Removes what [`Storage::environment`] has made on the server.
    pub async fn clear(&self) -> Result<()> {
        let Storage::Server(server) = self else {
            return Ok(());
        };
        let admin = server.open(&server.admin).await?;
        let like = format!("{}%", server.prefix.replace('_', "\\_"));
        let names = admin
            .query(
                "SELECT datname FROM pg_database WHERE datname LIKE $1",
                &[&like],
            )
            .await
            .map_err(reason)?;
        for row in names {
            let name: String = row.try_get(0).map_err(reason)?;
            for gone in [
                format!("DROP DATABASE {name} WITH (FORCE)"),
                format!("DROP ROLE IF EXISTS {name}"),
            ] {
                admin.batch_execute(&gone).await.map_err(reason)?;
            }
        }
        Ok(())
    }
}

impl Server {
    async fn open(&self, url: &str) -> Result<Client> {
        let address = Address::parse(url, self.authority.as_deref(), STATEMENT)?;
        Ok(address.connect().await?)
    }

    async fn connect(&self, database: &str) -> Result<Client> {
        self.open(&self.url(database)?).await
    }

    /// A database as the administrator reaches it.
    pub fn url(&self, database: &str) -> Result<String> {
        let (url, query) = self.admin.split_once('?').unwrap_or((&self.admin, ""));
        let (server, _) = url
            .rsplit_once('/')
            .filter(|(server, _)| server.contains('@'))
            .context("DATABASE_ADMIN_URL is postgres://user:password@host:port/database")?;
        let query = if query.is_empty() {
            String::new()
        } else {
            format!("?{query}")
        };
        Ok(format!("{server}/{database}{query}"))
    }

    /// Makes a database of the bench's own with a schema, and returns its address.
    pub async fn create(&self, name: &str, schema: &str) -> Result<String> {
        let name = format!("{}{name}", self.prefix);
        let admin = self.open(&self.admin).await?;
        admin
            .batch_execute(&format!("CREATE DATABASE {name}"))
            .await
            .map_err(reason)?;
        let made = self.connect(&name).await?;
        made.batch_execute(schema).await.map_err(reason)?;
        self.url(&name)
    }
}

impl Database {
    /// Rows of numbers. `text` are the values of `$1`, `$2`, ….
    pub async fn numbers(&self, sql: &str, text: &[&str]) -> Result<Vec<Vec<i64>>> {
        match self {
            Database::File(connection) => {
                let mut statement = connection.prepare(sql)?;
                let columns = statement.column_count();
                let rows = statement.query_map(rusqlite::params_from_iter(text), |row| {
                    (0..columns).map(|i| row.get(i)).collect()
                })?;
                Ok(rows.collect::<Result<_, _>>()?)
            }
            Database::Server(client) => {
                let values: Vec<&(dyn ToSql + Sync)> =
                    text.iter().map(|t| t as &(dyn ToSql + Sync)).collect();
                let rows = client.query(sql, &values).await.map_err(reason)?;
                rows.iter()
                    .map(|row| (0..row.len()).map(|i| row.try_get(i)).collect())
                    .collect::<Result<_, _>>()
                    .map_err(reason)
            }
        }
    }

    /// One number.
    pub async fn number(&self, sql: &str, text: &[&str]) -> Result<i64> {
        let rows = self.numbers(sql, text).await?;
        rows.first()
            .and_then(|row| row.first().copied())
            .context("no row")
    }

    /// One text.
    pub async fn text(&self, sql: &str) -> Result<String> {
        match self {
            Database::File(connection) => Ok(connection.query_row(sql, [], |row| row.get(0))?),
            Database::Server(client) => {
                let row = client.query_one(sql, &[]).await.map_err(reason)?;
                row.try_get(0).map_err(reason)
            }
        }
    }

    /// Statements, together or not at all.
    pub async fn execute(&self, sql: &str) -> Result<()> {
        match self {
            Database::File(connection) => {
                Ok(connection.execute_batch(&format!("BEGIN IMMEDIATE;{sql};COMMIT"))?)
            }
            Database::Server(client) => client.batch_execute(sql).await.map_err(reason),
        }
    }
}
