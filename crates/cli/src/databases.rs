//! Where the services' databases are: files in the state folder, or on a PostgreSQL server, where each
//! service has a database and a role of its own, and so have the bridges together.

use std::{collections::BTreeMap, fmt, fs};

use anyhow::{Context, Result, bail, ensure};
use innover_bridge::Place;

use crate::{
    arguments::Databases as Arguments,
    keys::BRIDGE,
    secrets::{self, Secrets},
    state::StateDir,
};

/// See the module.
#[derive(Clone)]
pub enum Databases {
    Files,
    Server(Server),
}

/// A server of PostgreSQL or CockroachDB.
#[derive(Clone)]
pub struct Server {
    /// `host:port`.
    host: String,
    /// `?sslmode=…`, or nothing.
    query: String,
    /// The certificate of its authority in PEM.
    pub authority: Option<String>,
    /// What databases' and roles' names begin with.
    prefix: String,
    passwords: BTreeMap<String, String>,
}

/// Without passwords.
impl fmt::Debug for Databases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

impl Databases {
    /// Reads what the command line and the environment say.
    pub fn new(arguments: &Arguments) -> Result<Databases> {
        match arguments
            .database_url
            .as_deref()
            .filter(|url| !url.is_empty())
        {
            None => Ok(Databases::Files),
            Some(url) => Server::parse(url, &arguments.database_prefix).map(Databases::Server),
        }
    }

    /// Gives every database its role's password. They follow from the bridge's secret, which no
    /// component has: there is nothing more to keep, and who has `secrets.toml` has them.
    pub fn unlock<'a>(&mut self, labels: impl IntoIterator<Item = &'a str>, secrets: &Secrets) {
        let Databases::Server(server) = self else {
            return;
        };
        let Some(secret) = secrets.services.get(BRIDGE) else {
            return;
        };
        server.passwords = labels
            .into_iter()
            .map(|label| {
                let password = secrets::derive(secret, &format!("postgres role of {label}"));
                (label.to_owned(), password)
            })
            .collect();
    }

    /// Where a service's database is.
    pub fn place(&self, state: &StateDir, label: &str) -> Place {
        match self {
            Databases::Files => Place::File(state.database(label)),
            Databases::Server(server) => server.place(label),
        }
    }

    /// The database that bridges share; they keep jobs in their own files when there is none.
    pub fn shared(&self) -> Option<Place> {
        match self {
            Databases::Files => None,
            Databases::Server(server) => Some(server.place(BRIDGE)),
        }
    }

    /// The application's variables that say so to components.
    pub fn variable(&self, name: &str) -> Option<String> {
        let Databases::Server(server) = self else {
            return None;
        };
        match name {
            "database_server" => Some(format!("postgres://{}", server.host)),
            "database_ca" => Some(server.authority.clone().unwrap_or_default()),
            _ => {
                let label = name.strip_prefix("database_url_")?;
                // No component's.
                if label == BRIDGE {
                    return None;
                }
                server
                    .passwords
                    .contains_key(label)
                    .then(|| server.url(label))
            }
        }
    }

    /// For people; without passwords.
    pub fn shown(&self) -> String {
        match self {
            Databases::Files => "SQLite files in the state folder".to_owned(),
            Databases::Server(server) => format!(
                "PostgreSQL at {}, databases {}<service> and {}",
                server.host,
                server.prefix,
                server.name(BRIDGE)
            ),
        }
    }
}

impl Server {
    /// Reads `DATABASE_URL`; passwords come later.
    pub fn parse(url: &str, prefix: &str) -> Result<Server> {
        const FORM: &str = "DATABASE_URL is postgres://host:port?sslmode=…: the server alone, since each service has a database and a role of its own there";
        let rest = url
            .strip_prefix("postgres://")
            .or_else(|| url.strip_prefix("postgresql://"))
            .context(FORM)?;
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let host = place.trim_end_matches('/');
        ensure!(
            !host.is_empty() && !host.contains(['/', '@', ',']),
            "{FORM}. Users and databases belong into DATABASE_ADMIN_URL, and of several hosts name the one that balances them"
        );
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        ensure!(
            prefix.chars().all(plain) && !prefix.starts_with(|c: char| c.is_ascii_digit()),
            "DATABASE_PREFIX is made of a-z, 0-9 and _, and does not begin with a digit: {prefix}"
        );
        let (mut kept, mut authority) = (Vec::new(), None);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                // The driver knows no files.
                Some(("sslrootcert", file)) => {
                    let pem = fs::read_to_string(file)
                        .with_context(|| format!("cannot read sslrootcert {file}"))?;
                    authority = Some(pem);
                }
                // What the driver calls verifying is always done.
                Some(("sslmode", "verify-ca" | "verify-full")) => kept.push("sslmode=require"),
                Some(_) => kept.push(pair),
                None => bail!("DATABASE_URL: `{pair}` is no name=value"),
            }
        }
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        let here = ["localhost", "127.0.0.1", "[::1]"].contains(&name);
        if !here && !kept.iter().any(|pair| pair.starts_with("sslmode=")) {
            // The driver's own default goes on in plain text with a server that has no TLS.
            kept.push("sslmode=require");
        }
        let query = match kept.is_empty() {
            true => String::new(),
            false => format!("?{}", kept.join("&")),
        };
        Ok(Server {
            host: match host.rsplit_once(':') {
                Some((_, port)) if port.parse::<u16>().is_ok() => host.to_owned(),
                _ => format!("{host}:5432"),
            },
            query,
            authority,
            prefix: prefix.to_owned(),
            passwords: BTreeMap::new(),
        })
    }

    fn place(&self, label: &str) -> Place {
        Place::Server {
            url: self.url(label),
            authority: self.authority.clone(),
        }
    }

    /// The name of a service's database, and of the role that owns it.
    pub fn name(&self, label: &str) -> String {
        format!("{}{}", self.prefix, label.replace('-', "_"))
    }

    /// The password of a service's role.
    pub fn password(&self, label: &str) -> &str {
        self.passwords.get(label).map_or("", String::as_str)
    }

    /// A service's database as the service reaches it.
    pub fn url(&self, label: &str) -> String {
        let Server { host, query, .. } = self;
        let (name, password) = (self.name(label), self.password(label));
        format!("postgres://{name}:{password}@{host}/{name}{query}")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
    use super::*;

    #[test]
    fn each_service_gets_an_address_of_its_own() {
        let mut server =
            Server::parse("postgres://db.test?sslmode=verify-full&x=y", "in_").unwrap();
        let passwords = ["wallet", "bridge"].map(|label| (label.to_owned(), "pw".to_owned()));
        server.passwords = passwords.into();
        assert_eq!(
            server.url("wallet"),
            "postgres://in_wallet:pw@db.test:5432/in_wallet?sslmode=require&x=y"
        );
        let databases = Databases::Server(server);
        assert_eq!(
            databases.variable("database_server").unwrap(),
            "postgres://db.test:5432"
        );
        assert_eq!(
            databases.variable("database_url_nobody"),
            None,
            "a database without a role"
        );
        assert_eq!(
            databases.variable("database_url_bridge"),
            None,
            "no component's"
        );
        assert!(databases.shared().is_some() && Databases::Files.shared().is_none());
        assert!(!databases.shown().contains("pw"));
        assert!(databases.shown().contains("in_bridge"));
    }

    #[test]
    fn an_address_that_names_a_user_a_database_or_several_hosts_is_refused() {
        for url in [
            "sqlite:x",
            "postgres://u:p@h:1",
            "postgres://h/db",
            "postgres://a,b",
            "postgres://",
            "postgres://h?sslrootcert=/nowhere",
            "postgres://h?x",
        ] {
            let error = Server::parse(url, "").err().unwrap();
            assert!(format!("{error:#}").len() > 20, "{url}: {error}");
        }
        assert!(Server::parse("postgres://h", "Big_").is_err());
    }
}
