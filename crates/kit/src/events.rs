//! `POST /_events`: events the service subscribed to.

use std::{future::Future, pin::Pin};

use innover_contract::{
    Code, Event, EventAnswer, EventAnswers, event::CLOUDEVENTS_BATCH, limits::EVENT_BATCH_MAX,
};

pub use crate::inbox::{Handled, Locking};
use crate::{Answer, Cx, Db, Failure, Result, inbox};

/// A future a handler returns.
pub type Handling<'a> = Pin<Box<dyn Future<Output = Result<Handled>> + 'a>>;

/// Handles events of one type, several at once: no two have the same key. It reads, decides and
/// returns one batch; it never commits. Its batch is tried again from the read when a guard fails.
pub type EventHandler = for<'a> fn(&'a Cx, &'a Db, &'a [Event]) -> Handling<'a>;

/// Event types and their handlers, or [`EVERY`] alone.
pub type EventHandlers = &'static [(&'static str, EventHandler)];

/// The handler of this name gets everything of a delivery at once, in order, whatever its type and
/// key: for who keeps events rather than acts on them. It must not mind two events of one key.
pub const EVERY: &str = "*";

/// An event for [`EVERY`]: one kind, and a key of its own, so that the delivery stays together.
#[derive(Clone)]
struct Kept(Event);

impl inbox::Item for Kept {
    const MARKED_ALWAYS: bool = true;

    fn id(&self) -> &str {
        &self.0.id
    }
    fn key(&self) -> &str {
        &self.0.id
    }
    fn kind(&self) -> &str {
        EVERY
    }
}

impl inbox::Item for Event {
    const MARKED_ALWAYS: bool = true;

    fn id(&self) -> &str {
        &self.id
    }
    fn key(&self) -> &str {
        if self.partitionkey.is_empty() {
            &self.id
        } else {
            &self.partitionkey
        }
    }
    fn kind(&self) -> &str {
        &self.kind
    }
}

pub(crate) async fn receive(
    cx: &Cx,
    handlers: EventHandlers,
    content_type: &str,
    body: &[u8],
    locking: Locking,
) -> Result<Answer> {
    let malformed =
        |e: serde_json::Error| Failure::new(Code::MalformedJson, format!("not a CloudEvent: {e}"));
    let events: Vec<Event> = if content_type.starts_with(CLOUDEVENTS_BATCH) {
        serde_json::from_slice(body).map_err(malformed)?
    } else {
        vec![serde_json::from_slice(body).map_err(malformed)?]
    };
    if events.len() > EVENT_BATCH_MAX {
        return Err(Failure::new(
            Code::InvalidRequest,
            format!(
                "{} events in one delivery, {EVENT_BATCH_MAX} at most",
                events.len()
            ),
        ));
    }
    let handle = async |db: &Db, group: &[Event]| {
        let kind = group.first().map_or("", |e| e.kind.as_str());
        match handlers.iter().find(|(name, _)| *name == kind) {
            Some((_, handler)) => handler(cx, db, group).await,
            None => {
                let reason = format!("this service does not subscribe to `{kind}`");
                let failure = Failure::new(Code::NotFound, reason);
                let refused = group
                    .iter()
                    .map(|e| (e.id.clone(), failure.clone()))
                    .collect();
                Ok(Handled {
                    refused,
                    ..Handled::default()
                })
            }
        }
    };
    let mut outcomes = match handlers {
        [(EVERY, keep)] => {
            let kept: Vec<Kept> = events.iter().cloned().map(Kept).collect();
            let handle = async |db: &Db, group: &[Kept]| {
                let events: Vec<Event> = group.iter().map(|kept| kept.0.clone()).collect();
                keep(cx, db, &events).await
            };
            inbox::deliver(cx, "", &kept, &handle, locking).await?
        }
        _ => inbox::deliver(cx, "", &events, &handle, locking).await?,
    };
    let results = events
        .into_iter()
        .map(|event| match outcomes.remove(&event.id) {
            Some(o) => EventAnswer {
                id: event.id,
                status: o.status,
                error: o.error,
            },
            None => EventAnswer {
                id: event.id,
                status: 500,
                error: "no outcome".into(),
            },
        })
        .collect();
    Answer::json(200, &EventAnswers { results })
}

/// The payload of an event as the handler's type; a payload that does not fit is refused for good.
///
/// # Errors
/// 422, which parks the event.
pub fn data<T: serde::de::DeserializeOwned>(event: &Event) -> Result<T> {
    serde_json::from_value(event.data.clone()).map_err(|e| {
        let mut failure = Failure::new(
            Code::InvalidRequest,
            format!("the data of `{}` does not fit: {e}", event.kind),
        );
        failure.0.status = 422;
        failure
    })
}
