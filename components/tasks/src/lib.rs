//! Takes a job pushed with `PUBLISH <service>-tasks '{"task": "payment.confirm", "args": [...]}'`
//! and enqueues it.
//!
//! Redis calls it, at most once by nature. It puts the message into its own outbox before it
//! returns, from where the relay moves it to the queue; from then on it has a queue's guarantees.
//! It calls nobody and runs nothing.

pub mod model;
pub mod store;

#[cfg(target_family = "wasm")]
mod entry {
    use innover_kit::{Cx, Db, log};
    use spin_sdk::redis_subscriber;

    use crate::{model, store};

    #[redis_subscriber]
    async fn on_message(message: Vec<u8>) -> Result<(), innover_kit::Failure> {
        let cx = Cx::detached("tasks");
        let pushed = model::parse(&message).inspect_err(|failure| {
            log::error(
                &cx,
                "a pushed message was refused",
                &[("error", failure.to_string().into())],
            );
        })?;
        let mut db = Db::open().await?;
        let (id, task) = (pushed.job.id.clone(), pushed.job.task.clone());
        let taken = store::enqueue(&mut db, &cx, pushed).await?;
        let text = match taken {
            store::Taken::Once => "enqueued; it runs once",
            store::Taken::PerReplica => {
                "enqueued; without an id it runs once per replica that heard it"
            }
            store::Taken::Before => "was enqueued before; nothing to do",
        };
        log::info(&cx, text, &[("id", id.into()), ("task", task.into())]);
        Ok(())
    }
}
