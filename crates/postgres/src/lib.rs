//! How native code connects to PostgreSQL: the host for its guests, the bridge for its relays, the
//! command line for migrations. Owns TLS and the limits of a connection; never runs a statement.
#![warn(missing_docs)]

use std::{future::poll_fn, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::{
    AsyncMessage, CancelToken, Client, Config, Connection,
    config::{Host, SslMode},
    error::SqlState,
};
use tokio_postgres_rustls::MakeRustlsConnect;

/// How long to connect to a server; logging in may take as long again.
pub const CONNECT: Duration = Duration::from_secs(3);
/// A connection whose other end says nothing for this long is asked whether it is there.
pub const SILENCE: Duration = Duration::from_secs(15);

/// A server, a database, and as whom to be there.
pub struct Address {
    config: Config,
    tls: Option<MakeRustlsConnect>,
}

/// Why there is no connection. No text of it holds a password.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Unreachable {
    /// The text is no address.
    #[error("the address is none of PostgreSQL: {0}")]
    Address(String),
    /// The certificate of the server's authority is none.
    #[error("the certificate of the authority cannot be read: {0}")]
    Certificate(String),
    /// The server knows no such role, or it has another password.
    #[error("{0}")]
    Refused(String),
    /// The server does not answer, or refuses.
    #[error("{0}")]
    Server(String),
}

impl Address {
    /// Reads `postgres://user:password@host:port/database?sslmode=…`; connects to nothing yet.
    /// `authority` is the certificate of the server's authority in PEM, in place of those that web
    /// browsers trust. `statement` bounds every statement, on the server's side too.
    ///
    /// # Errors
    /// [`Unreachable::Address`], [`Unreachable::Certificate`].
    pub fn parse(
        text: &str,
        authority: Option<&str>,
        statement: Duration,
    ) -> Result<Address, Unreachable> {
        let mut config: Config = text
            .parse()
            .map_err(|error| Unreachable::Address(explain(&error)))?;
        config.connect_timeout(CONNECT);
        config.tcp_user_timeout(SILENCE);
        config.keepalives_idle(SILENCE);
        // The kernel asks again after 75 s unless it is told.
        config.keepalives_interval(SILENCE);
        if config.get_application_name().is_none() {
            config.application_name("innover");
        }
        // Should this process die or hang, the server gives up what it left behind by itself.
        let limit = statement.as_millis();
        let mut options = config.get_options().unwrap_or_default().to_owned();
        for name in ["statement_timeout", "idle_in_transaction_session_timeout"] {
            if !options.contains(name) {
                options.push_str(&format!(" -c {name}={limit}"));
            }
        }
        config.options(options.trim_start());
        let tls = match config.get_ssl_mode() {
            SslMode::Disable => None,
            _ => Some(connector(authority)?),
        };
        Ok(Address { config, tls })
    }

    /// Hosts and ports, for permissions. `None`: a Unix socket.
    pub fn hosts(&self) -> impl Iterator<Item = Option<(&str, u16)>> {
        let ports = self.config.get_ports();
        let hosts = self.config.get_hosts().iter().enumerate();
        hosts.map(move |(i, host)| {
            let port = ports.get(i).or(ports.first()).copied().unwrap_or(5432);
            match host {
                Host::Tcp(name) => Some((name.as_str(), port)),
                Host::Unix(_) => None,
            }
        })
    }

    /// Whether [`Address::hosts`] is where a connection goes to. `hostaddr` leads elsewhere, and without
    /// a host the driver has ideas of its own.
    pub fn names_its_hosts(&self) -> bool {
        self.config.get_hostaddrs().is_empty() && !self.config.get_hosts().is_empty()
    }

    /// Connects. The connection lives in a task of its own, which ends with the client.
    ///
    /// # Errors
    /// [`Unreachable::Refused`], [`Unreachable::Server`].
    pub async fn connect(&self) -> Result<Client, Unreachable> {
        self.connect_with(|| ()).await
    }

    /// As [`Address::connect`], and calls `notified` for each notification of a channel the client
    /// listens to.
    ///
    /// # Errors
    /// As [`Address::connect`].
    pub async fn connect_with(
        &self,
        notified: impl Fn() + Send + 'static,
    ) -> Result<Client, Unreachable> {
        let connecting = async {
            Ok(match &self.tls {
                Some(tls) => {
                    let (client, connection) = self.config.connect(tls.clone()).await?;
                    tokio::spawn(attend(connection, notified));
                    client
                }
                None => {
                    let (client, connection) = self.config.connect(tokio_postgres::NoTls).await?;
                    tokio::spawn(attend(connection, notified));
                    client
                }
            })
        };
        // The driver's own limit is for each host it tries, and covers no log-in.
        match tokio::time::timeout(CONNECT * 2, connecting).await {
            Ok(connected) => connected.map_err(|error: tokio_postgres::Error| {
                let text = explain(&error);
                match error.code() {
                    Some(
                        &SqlState::INVALID_PASSWORD
                        | &SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
                    ) => Unreachable::Refused(text),
                    _ => Unreachable::Server(text),
                }
            }),
            Err(_) => Err(Unreachable::Server(format!(
                "no answer within {} s",
                (CONNECT * 2).as_secs()
            ))),
        }
    }

    /// Has the server stop what runs. Should that fail, the server notices the closed connection, or
    /// its own time limit.
    pub async fn cancel(&self, token: CancelToken) {
        let cancelling = async {
            match &self.tls {
                Some(tls) => token.cancel_query(tls.clone()).await,
                None => token.cancel_query(tokio_postgres::NoTls).await,
            }
        };
        let _ = tokio::time::timeout(CONNECT, cancelling).await;
    }
}

/// Carries a connection's traffic until it ends.
async fn attend<S: AsyncRead + AsyncWrite + Unpin, T: AsyncRead + AsyncWrite + Unpin>(
    mut connection: Connection<S, T>,
    notified: impl Fn(),
) {
    while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
        if let AsyncMessage::Notification(_) = message {
            notified();
        }
    }
}

/// TLS with the certificates web browsers trust, or those of one authority.
fn connector(authority: Option<&str>) -> Result<MakeRustlsConnect, Unreachable> {
    let mut roots = RootCertStore::empty();
    match authority {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                certificate
                    .map_err(|error| error.to_string())
                    .and_then(|der| roots.add(der).map_err(|error| error.to_string()))
                    .map_err(Unreachable::Certificate)?;
            }
            if roots.is_empty() {
                return Err(Unreachable::Certificate("there is none in it".to_owned()));
            }
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Unreachable::Certificate(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

/// An error with its causes: the driver's own text is only the first link.
pub fn explain(error: &tokio_postgres::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
