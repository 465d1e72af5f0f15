//! The outbox of a PostgreSQL database.
//!
//! Transactions commit in another order than their rows' ids, so no mark tells what was read: rows
//! are told apart by their ids until they are deleted. Ids are time-ordered, and within a key the
//! version of what changed decides: who wrote version 2 had read version 1, so 1 was committed before.
//!
//! Of several bridges on one outbox the one with the lease relays; another takes it over when it is
//! not renewed. One that stalls for longer than its lease may publish what the other has published
//! too, and consumers know events by their ids.

use std::{collections::HashMap, sync::Arc, time::Duration};

use innover_contract::event::OUTBOX_TASK_PREFIX;
use innover_postgres::{Address, explain};
use tokio::{sync::Notify, time::Instant};
use tokio_postgres::{Client, Statement, types::Type};

use super::{Claim, Lease, Row};
use crate::{
    announce,
    limits::{OUTBOX_STATEMENT, RELAY_LEASE, RELAY_ROWS_MAX},
    store::StoreError,
};

/// Takes or renews the lease. The server's clock counts, which all bridges share.
const LEASE: &str = "INSERT INTO relay_lease (id, owner, ends_at)
     VALUES (1, $1, CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT) + $2)
     ON CONFLICT (id) DO UPDATE SET owner = excluded.owner, ends_at = excluded.ends_at
     WHERE relay_lease.owner = excluded.owner
        OR relay_lease.ends_at < excluded.ends_at - $2";

const READ: &str = "SELECT id, topic, key, key_version, type, payload, headers, created_at
     FROM outbox WHERE NOT (id = ANY($1)) ORDER BY id LIMIT $2";

const READ_JOBS: &str = "SELECT id, topic, key, key_version, type, payload, headers, created_at
     FROM outbox WHERE left(type, length($1)) = $1 ORDER BY id LIMIT $2";

/// Rows of these keys with lower versions than these, wherever their ids are in the order: ids are made
/// before the commit, by several clocks.
const EARLIER: &str =
    "SELECT o.id, o.topic, o.key, o.key_version, o.type, o.payload, o.headers, o.created_at
     FROM outbox AS o
     JOIN unnest(CAST($2 AS TEXT[]), CAST($3 AS BIGINT[])) AS p (key, version)
       ON o.key = p.key AND o.key_version < p.version
     WHERE NOT (o.id = ANY($1))";

const DELETE: &str = "DELETE FROM outbox WHERE id = ANY($1)";

pub(crate) struct Server {
    client: Client,
    ask: Statement,
    read: Statement,
    read_jobs: Statement,
    earlier: Statement,
    delete: Statement,
    lease: Arc<Lease>,
    undeleted: Vec<String>,
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> StoreError {
        StoreError::Postgres(explain(&error))
    }
}

impl Server {
    pub(super) async fn open(
        url: &str,
        authority: Option<&str>,
        lease: &Arc<Lease>,
        wake: &Arc<Notify>,
    ) -> Result<Server, StoreError> {
        let unreachable = |error: innover_postgres::Unreachable| {
            StoreError::Postgres(format!("cannot connect: {error}"))
        };
        let address = Address::parse(url, authority, OUTBOX_STATEMENT).map_err(unreachable)?;
        let client = announce::connect_listening(&address, wake)
            .await
            .map_err(unreachable)?;
        bounded(Server::prepared(client, lease.clone())).await
    }

    async fn prepared(client: Client, lease: Arc<Lease>) -> Result<Server, tokio_postgres::Error> {
        // A delete that is lost has rows published again, which their ids make harmless.
        client.batch_execute("SET synchronous_commit = off").await?;
        // With the array at hand the server looks ids up in a table; by the roles' one plan for all it
        // compares each row with each of them. Not every server has this.
        let _ = client
            .batch_execute("SET plan_cache_mode = force_custom_plan")
            .await;
        Ok(Server {
            ask: client.prepare(LEASE).await?,
            read: client.prepare(READ).await?,
            read_jobs: client
                .prepare_typed(READ_JOBS, &[Type::TEXT, Type::INT8])
                .await?,
            earlier: client.prepare(EARLIER).await?,
            delete: client.prepare(DELETE).await?,
            client,
            lease,
            undeleted: Vec::new(),
        })
    }

    /// Whether the rows are this bridge's to publish.
    async fn leased(&mut self) -> Result<bool, StoreError> {
        let now = Instant::now();
        match self.lease.claim(now) {
            Claim::Holds => return Ok(true),
            Claim::Yield => return Ok(false),
            Claim::Ask => {}
        }
        let length = i64::try_from(RELAY_LEASE.as_millis()).unwrap_or(i64::MAX);
        let taken = bounded(async {
            self.client
                .execute(&self.ask, &[&self.lease.owner, &length])
                .await
        });
        let taken = taken.await? == 1;
        if !taken {
            // Whoever has it now publishes what was read here and not deleted.
            self.undeleted.clear();
        }
        self.lease.asked(now, taken);
        Ok(taken)
    }

    pub(super) async fn read(&mut self) -> Result<Vec<Row>, StoreError> {
        if !self.leased().await? {
            return match self.lease.claim(Instant::now()) {
                // Nothing became better meanwhile.
                Claim::Yield => Err(StoreError::Yields),
                _ => Ok(Vec::new()),
            };
        }
        let limit = RELAY_ROWS_MAX as i64;
        let rows = bounded(async {
            self.client
                .query(&self.read, &[&self.undeleted, &limit])
                .await
        });
        let mut found: Vec<(i64, Row)> = rows.await?.iter().map(row).collect::<Result<_, _>>()?;
        self.undeleted
            .extend(found.iter().map(|(_, row)| row.id.clone()));
        if found.len() == RELAY_ROWS_MAX {
            let mut newest: HashMap<&str, i64> = HashMap::new();
            for (version, row) in found.iter().filter(|(_, row)| !row.key.is_empty()) {
                let known = newest.entry(&row.key).or_insert(*version);
                *known = (*known).max(*version);
            }
            let (keys, versions): (Vec<&str>, Vec<i64>) = newest.into_iter().unzip();
            let rows = bounded(async {
                self.client
                    .query(&self.earlier, &[&self.undeleted, &keys, &versions])
                    .await
            });
            let earlier: Vec<(i64, Row)> = rows.await?.iter().map(row).collect::<Result<_, _>>()?;
            self.undeleted
                .extend(earlier.iter().map(|(_, row)| row.id.clone()));
            found.extend(earlier);
        }
        Ok(in_order(found))
    }

    pub(super) async fn read_jobs(&mut self) -> Result<Vec<Row>, StoreError> {
        if !self.leased().await? {
            return Ok(Vec::new());
        }
        let limit = RELAY_ROWS_MAX as i64;
        let rows = bounded(async {
            self.client
                .query(&self.read_jobs, &[&OUTBOX_TASK_PREFIX, &limit])
                .await
        });
        let found: Vec<(i64, Row)> = rows.await?.iter().map(row).collect::<Result<_, _>>()?;
        let rows: Vec<Row> = found.into_iter().map(|(_, row)| row).collect();
        self.undeleted.extend(rows.iter().map(|row| row.id.clone()));
        Ok(rows)
    }

    pub(super) fn undeleted(&self) -> usize {
        self.undeleted.len()
    }

    pub(super) async fn delete(&mut self) -> Result<(), StoreError> {
        bounded(async { self.client.execute(&self.delete, &[&self.undeleted]).await }).await?;
        self.undeleted.clear();
        Ok(())
    }
}

fn row(row: &tokio_postgres::Row) -> Result<(i64, Row), tokio_postgres::Error> {
    let id: String = row.try_get(0)?;
    let read = Row {
        topic: row.try_get(1)?,
        key: row.try_get(2)?,
        kind: row.try_get(4)?,
        payload: row.try_get(5)?,
        headers: row.try_get(6)?,
        created_at: row.try_get(7)?,
        place: id.clone(),
        id,
    };
    Ok((row.try_get(3)?, read))
}

/// A server that is gone without a word must not hold up the relay for good.
async fn bounded<T>(
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(OUTBOX_STATEMENT + Duration::from_secs(1), work).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(StoreError::Postgres(format!(
            "no answer within {} s",
            OUTBOX_STATEMENT.as_secs()
        ))),
    }
}

/// The rows of each key by version, on the places that rows of that key have in the order of ids.
fn in_order(rows: Vec<(i64, Row)>) -> Vec<Row> {
    let mut of_key: HashMap<String, Vec<usize>> = HashMap::new();
    for (i, (_, row)) in rows.iter().enumerate() {
        of_key.entry(row.key.clone()).or_default().push(i);
    }
    let mut order: Vec<usize> = (0..rows.len()).collect();
    for places in of_key.values().filter(|places| places.len() > 1) {
        let mut sorted = places.clone();
        // Stable: equal versions (several events of one change) stay as they were.
        sorted.sort_by_key(|i| rows[*i].0);
        for (place, row) in places.iter().zip(sorted) {
            order[*place] = row;
        }
    }
    let mut rows: Vec<Option<Row>> = rows.into_iter().map(|(_, row)| Some(row)).collect();
    order
        .into_iter()
        .filter_map(|i| rows.get_mut(i).and_then(Option::take))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keys_rows_are_published_by_version_and_others_by_id() {
        let row = |id: &str, key: &str, version| {
            let row = Row {
                id: id.into(),
                topic: String::new(),
                key: key.into(),
                kind: String::new(),
                payload: String::new(),
                headers: String::new(),
                created_at: 0,
                place: String::new(),
            };
            (version, row)
        };
        let rows = vec![
            row("1", "a", 2),
            row("2", "b", 1),
            row("3", "a", 1),
            row("4", "c", 9),
            row("5", "a", 2),
        ];
        let ids: Vec<String> = in_order(rows).into_iter().map(|row| row.id).collect();
        assert_eq!(ids, ["3", "2", "1", "4", "5"]);
    }
}
