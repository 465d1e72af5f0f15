//! How the ledger ends a refund: `ledger.posted` or `ledger.rejected`.

use std::collections::{BTreeMap, HashMap};

use innover_kit::{
    Cause, Cx, Db, Event, Failure, Result,
    events::{Handled, Handling, data},
    log,
};
use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    model::State,
    store::{self, End, Refund, Writer},
};

/// The only service that knows whether money moved.
const LEDGER: &str = "ledger";

/// Of an entry or a refusal, whatever it is of.
trait Told: DeserializeOwned {
    /// The refund; `None` for what is no refund's.
    fn refund_id(&self) -> Option<&str>;
    /// How it ends.
    fn end(&self) -> End;
}

#[derive(Deserialize)]
struct Posted {
    refund_id: Option<String>,
    entry_id: String,
}

impl Told for Posted {
    fn refund_id(&self) -> Option<&str> {
        self.refund_id.as_deref()
    }

    fn end(&self) -> End {
        End::Booked {
            entry_id: self.entry_id.clone(),
        }
    }
}

#[derive(Deserialize)]
struct Rejected {
    refund_id: Option<String>,
    code: String,
    detail: String,
}

impl Told for Rejected {
    fn refund_id(&self) -> Option<&str> {
        self.refund_id.as_deref()
    }

    fn end(&self) -> End {
        End::Refused {
            code: self.code.clone(),
            detail: self.detail.clone(),
        }
    }
}

/// `ledger.posted`: the payer has it back.
pub fn posted<'a>(cx: &'a Cx, db: &'a Db, events: &'a [Event]) -> Handling<'a> {
    Box::pin(apply::<Posted>(cx, db, events))
}

/// `ledger.rejected`: nothing was booked and nothing will be, so its amount is free again.
pub fn rejected<'a>(cx: &'a Cx, db: &'a Db, events: &'a [Event]) -> Handling<'a> {
    Box::pin(apply::<Rejected>(cx, db, events))
}

/// Reads the refunds of all events at once, ends each that is pending, and returns one batch. Late
/// and repeated events change nothing.
async fn apply<T: Told>(cx: &Cx, db: &Db, events: &[Event]) -> Result<Handled> {
    let mut refused: BTreeMap<String, Failure> = BTreeMap::new();
    let mut wanted: Vec<(&Event, T)> = Vec::new();
    for event in events {
        // Whoever can write to a topic must not be able to end a refund. Acknowledged, so that it
        // is not delivered again.
        if event.service() != Some(LEDGER) {
            log::warn(
                cx,
                "an event of another source was ignored",
                &[
                    ("id", event.id.as_str().into()),
                    ("source", event.source.as_str().into()),
                ],
            );
            continue;
        }
        match data::<T>(event) {
            Ok(told) if told.refund_id().is_some() => wanted.push((event, told)),
            Ok(_) => {}
            Err(failure) => drop(refused.insert(event.id.clone(), failure)),
        }
    }
    let mut writer = Writer::default();
    if !wanted.is_empty() {
        let ids = wanted.iter().filter_map(|(_, told)| told.refund_id());
        let refunds = store::by_ids(db, ids.map(str::to_owned)).await?;
        let refunds: HashMap<&str, &Refund> = refunds.iter().map(|r| (r.id.as_str(), r)).collect();
        for (event, told) in &wanted {
            let refund = told.refund_id().and_then(|id| refunds.get(id));
            if let Some(refund) = refund.filter(|r| r.state == State::Pending) {
                writer.end(refund, &told.end(), &Cause::from(*event));
            }
        }
    }
    Ok(Handled {
        batch: writer.finish(),
        refused,
        ..Handled::default()
    })
}
