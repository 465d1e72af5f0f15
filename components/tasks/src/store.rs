//! SQL of the tasks component.

use innover_kit::{Batch, Cause, Cx, Db, Expect, Result, ids, params};

use crate::model::Pushed;

/// What became of a pushed message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It had an id: whoever else heard it does nothing.
    Once,
    /// It had none: every replica that heard it enqueues it.
    PerReplica,
    /// Its id was taken before.
    Before,
}

/// Puts the job into the outbox, once per id.
///
/// # Errors
/// When the database refuses; the message is lost then, as the log says.
pub async fn enqueue(db: &mut Db, cx: &Cx, pushed: Pushed) -> Result<Taken> {
    let Pushed { job, queue, named } = pushed;
    let mut batch = Batch::new();
    if named {
        batch.step(
            "taken",
            "INSERT INTO taken (id, at) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING",
            params![&job.id, ids::now_us()],
            Expect::Rows(1),
        );
    }
    batch.enqueue(&queue, job, Cause::from(cx));
    match batch.commit(db).await {
        Ok(()) if named => Ok(Taken::Once),
        Ok(()) => Ok(Taken::PerReplica),
        Err(error) if error.step() == Some("taken") => Ok(Taken::Before),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::parse;

    #[tokio::test]
    async fn a_message_with_an_id_is_enqueued_once_and_one_without_each_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("tasks.db");
        rusqlite::Connection::open(&file)
            .and_then(|c| c.execute_batch(include_str!("../migrations/0001_init.sql")))
            .expect("migrated");
        let mut db = Db::open_file(&file).expect("a database");
        let cx = Cx::detached("tasks");
        let named =
            || parse(br#"{"task": "profile.add", "args": [1, 2], "id": "one"}"#).expect("a job");
        let plain = || parse(br#"{"task": "profile.add", "args": [1, 2]}"#).expect("a job");
        assert_eq!(enqueue(&mut db, &cx, named()).await.ok(), Some(Taken::Once));
        assert_eq!(
            enqueue(&mut db, &cx, named()).await.ok(),
            Some(Taken::Before)
        );
        assert_eq!(
            enqueue(&mut db, &cx, plain()).await.ok(),
            Some(Taken::PerReplica)
        );
        assert_eq!(
            enqueue(&mut db, &cx, plain()).await.ok(),
            Some(Taken::PerReplica)
        );
        let rows = db
            .query("SELECT topic, type FROM outbox", vec![])
            .await
            .expect("rows");
        assert_eq!(rows.len(), 3);
        assert_eq!(rows[0].text(0).ok(), Some("profile-tasks"));
        assert_eq!(rows[0].text(1).ok(), Some("task:profile.add"));
    }
}
