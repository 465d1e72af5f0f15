//! Wakes the relays of bridges in other processes. The host that has seen a commit says so on the
//! service's own database, after the commit and never in it: NOTIFY inside a transaction makes all
//! commits of a server queue. Only a wake-up: relays look by themselves too, and a server that knows
//! no NOTIFY does without.

use std::sync::Arc;

use innover_postgres::{Address, Unreachable, explain};
use tokio::{sync::Notify, task::JoinSet};
use tokio_postgres::{Client, Error, error::SqlState};

use crate::{
    Commits,
    config::{Place, ServiceSpec},
    limits::{ANNOUNCE_PAUSE, OUTBOX_STATEMENT, POLL_MAX},
};

/// The channel in each service's database.
const CHANNEL: &str = "innover_outbox";

/// Announces every commit that `commits` is told of. Ends with the set.
pub fn announce(services: &[ServiceSpec], commits: &Commits) -> JoinSet<()> {
    let mut announcers = JoinSet::new();
    for service in services {
        if let Some(database) = &service.database
            && let Place::Server { url, authority } = &database.place
            && let Some(bell) = commits.relays.get(&database.label)
        {
            let (url, authority, bell) = (url.clone(), authority.clone(), bell.clone());
            let service = service.name.clone();
            announcers.spawn(async move { run(&service, &url, authority, &bell).await });
        }
    }
    announcers
}

async fn run(service: &str, url: &str, authority: Option<String>, bell: &Notify) {
    let mut client: Option<Client> = None;
    loop {
        bell.notified().await;
        let said = async {
            let connected = match client.take() {
                Some(client) if !client.is_closed() => client,
                _ => {
                    let address = Address::parse(url, authority.as_deref(), OUTBOX_STATEMENT)?;
                    address.connect().await?
                }
            };
            let notified = send(&connected, "NOTIFY").await?;
            Ok::<_, Unreachable>((notified, connected))
        };
        match said.await {
            Ok((Ok(()), connected)) => client = Some(connected),
            Ok((Err(error), _)) if is_unknown(&error) => {
                tracing::info!(
                    service,
                    "the server knows no NOTIFY: bridges look for events by themselves"
                );
                return;
            }
            Ok((Err(error), _)) => {
                tracing::warn!(
                    service,
                    error = explain(&error),
                    "bridges were not told of a commit; they look by themselves"
                );
                tokio::time::sleep(POLL_MAX).await;
            }
            Err(error) => {
                tracing::warn!(service, %error, "bridges were not told of a commit; they look by themselves");
                tokio::time::sleep(POLL_MAX).await;
            }
        }
        // Commits of the next moment are announced together.
        tokio::time::sleep(ANNOUNCE_PAUSE).await;
    }
}

/// Connects, and rings `bell` for every announcement from then on.
pub(crate) async fn connect_listening(
    address: &Address,
    bell: &Arc<Notify>,
) -> Result<Client, Unreachable> {
    let bell = bell.clone();
    let client = address.connect_with(move || bell.notify_one()).await?;
    match send(&client, "LISTEN").await? {
        Err(error) if !is_unknown(&error) => Err(Unreachable::Server(explain(&error))),
        _ => Ok(client),
    }
}

/// Something between here and the server may take it and never answer.
async fn send(client: &Client, what: &str) -> Result<Result<(), Error>, Unreachable> {
    let sql = format!("{what} {CHANNEL}");
    tokio::time::timeout(OUTBOX_STATEMENT, client.batch_execute(&sql))
        .await
        .map_err(|_| Unreachable::Server(format!("no answer to {what}")))
}

fn is_unknown(error: &tokio_postgres::Error) -> bool {
    matches!(
        error.code(),
        Some(&SqlState::FEATURE_NOT_SUPPORTED | &SqlState::SYNTAX_ERROR)
    )
}
