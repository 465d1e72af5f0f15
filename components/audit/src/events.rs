//! Whatever happens, kept.

use innover_kit::{
    Batch, Cause, Cx, Db, Event,
    contract::time::parse_rfc3339,
    events::{Handled, Handling},
    ids,
};

use crate::{
    model::{self, Record},
    store,
};

/// Every event of a delivery becomes a row, in one commit: that of the rows, of the head that moves
/// on, and of the inbox, which makes it one row per event however often it is delivered. Deliveries
/// at the same moment meet at the head, and the second reads again.
pub fn record<'a>(_: &'a Cx, db: &'a Db, events: &'a [Event]) -> Handling<'a> {
    Box::pin(async move {
        // One chain has one end, which every delivery moves.
        db.claim([("head", true)]).await?;
        let before = store::head(db).await?;
        let now = ids::now_us();
        let mut records: Vec<Record> = events.iter().map(|event| row(event, now)).collect();
        let after = model::append(before.clone(), &mut records);
        let mut batch = Batch::new();
        store::append(&mut batch, &before, &after, &records);
        Ok(Handled::all(batch))
    })
}

fn row(event: &Event, now: i64) -> Record {
    Record {
        seq: 0,
        event_id: event.id.clone(),
        source: event.source.clone(),
        action: event.kind.clone(),
        subject: event.subject.clone(),
        actor: event.authid.clone().unwrap_or_default(),
        // What is put on a topic by hand may have any time, and is kept all the same.
        occurred_at: parse_rfc3339(&event.time).unwrap_or(now),
        recorded_at: now,
        correlation_id: event.correlationid.clone().unwrap_or_default(),
        trace_id: Cause::from(event).trace_id(),
        data: event.data.to_string(),
        hash: String::new(),
    }
}
