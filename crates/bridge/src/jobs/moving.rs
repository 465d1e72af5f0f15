//! Takes jobs, schedules and dead letters of a bridge's file to the database that it shares from now
//! on. Each piece is on that server's disk before it is deleted here, and what is known there by its
//! id stays as it is: a crash in the middle neither doubles nor loses anything.

use rusqlite::{Connection, Result, params};

use super::server::Server;
use crate::{
    inspect::{self, DeadLetterRow, JobRow, LetterFilter},
    limits::JOBS_MOVED_ROWS,
    store::{Durability, Store, StoreError},
};

/// Moves everything. Nobody else uses these tables of the file now, and no job there is leased.
pub(super) async fn everything(store: &Store, server: &Server) -> Result<(), StoreError> {
    for (id, last_fire) in store.read(schedules).await? {
        server.take_over_schedule(&id, last_fire).await?;
    }
    let mut moved = 0;
    loop {
        let rows: Vec<(i64, JobRow, i64)> = store.read(jobs).await?;
        if rows.is_empty() {
            break;
        }
        moved += rows.len();
        let seqs: Vec<i64> = rows.iter().map(|(seq, ..)| *seq).collect();
        let rows: Vec<_> = rows
            .into_iter()
            .map(|(_, job, alone)| (job, alone))
            .collect();
        server.take_over_jobs(&rows).await?;
        server.harden().await?;
        delete(
            store,
            "DELETE FROM jobs WHERE seq IN (SELECT value FROM json_each(?1))",
            seqs,
        )
        .await?;
    }
    for kind in ["job", "outbox"] {
        loop {
            let filter = LetterFilter {
                kind: Some(kind),
                ..LetterFilter::default()
            };
            let rows: Vec<DeadLetterRow> = store
                .read(move |c| inspect::letters_in(c, &filter, JOBS_MOVED_ROWS))
                .await?;
            if rows.is_empty() {
                break;
            }
            moved += rows.len();
            server.take_over_letters(&rows).await?;
            server.harden().await?;
            let seqs = rows.iter().map(|letter| letter.seq).collect();
            let sql = "DELETE FROM dead_letters WHERE seq IN (SELECT value FROM json_each(?1))";
            delete(store, sql, seqs).await?;
        }
    }
    if moved > 0 {
        tracing::info!(
            moved,
            "jobs and dead letters of the bridge's file are in the shared database now"
        );
    }
    Ok(())
}

async fn delete(store: &Store, sql: &'static str, seqs: Vec<i64>) -> Result<(), StoreError> {
    let seqs = serde_json::json!(seqs).to_string();
    store
        .write(Durability::Full, move |c| c.execute(sql, [seqs]).map(drop))
        .await
}

fn schedules(c: &Connection) -> Result<Vec<(String, i64)>> {
    c.prepare("SELECT id, last_fire FROM schedules")?
        .query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?
        .collect()
}

/// The oldest jobs, with their seq and whether they travel alone.
fn jobs(c: &Connection) -> Result<Vec<(i64, JobRow, i64)>> {
    let sql = format!(
        "SELECT {}, seq, alone FROM jobs ORDER BY seq LIMIT ?1",
        inspect::JOB_COLUMNS
    );
    c.prepare(&sql)?
        .query_map(params![JOBS_MOVED_ROWS as i64], |r| {
            Ok((r.get(13)?, inspect::job_row(r)?, r.get(14)?))
        })?
        .collect()
}
