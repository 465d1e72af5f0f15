//! The task of `forex-tasks`.

use std::collections::BTreeMap;

use innover_kit::{
    Code, Cx, Db, Failure, Job, Result,
    jobs::{Handled, Running, Task},
};
use serde::Deserialize;
use serde_json::json;

use crate::{
    api::rate_sets::RateSetsView,
    loading,
    sets::{self, Load},
};

/// Stores daily sets of rates.
pub const LOAD_RATES: Task = Task::new(
    "forex.load_rates",
    &[
        "day?",
        "rates?",
        "document?",
        "source?",
        "replace?",
        "history?",
    ],
    load_rates,
);

/// Either a day and its rates, or a file of the ECB's as text.
#[derive(Deserialize)]
struct LoadRates {
    /// e.g. `2026-10-30`
    day: Option<String>,
    /// Units per euro by currency.
    rates: Option<BTreeMap<String, String>>,
    /// XML or CSV as the ECB publishes it.
    document: Option<String>,
    /// Who published the rates of `day`; the ECB when nobody says.
    source: Option<String>,
    #[serde(default)]
    replace: bool,
    #[serde(default)]
    history: bool,
}

impl LoadRates {
    fn load(self) -> Result<Load> {
        let load = match (self.day, self.rates, self.document) {
            (Some(day), Some(rates), None) => {
                let source = self.source.unwrap_or_else(|| sets::ECB.into());
                loading::sets(source, vec![(day, rates)])?
            }
            (None, None, Some(document)) => loading::file(&document)?,
            _ => {
                let what =
                    "forex.load_rates() takes day and rates, or document: a file of the ECB's";
                return Err(Failure::new(Code::InvalidArguments, what));
            }
        };
        Ok(Load {
            replace: self.replace,
            history: self.history,
            ..load
        })
    }
}

/// `forex.load_rates(day=None, rates=None, document=None, source="ECB", replace=False,
/// history=False)`: stores daily sets as `POST /v1/rate-sets` does; the result says how many were
/// added, replaced and unchanged.
fn load_rates<'a>(_: &'a Cx, db: &'a Db, jobs: &'a [Job]) -> Running<'a> {
    Box::pin(async move {
        let mut handled = Handled::default();
        let Some((job, others)) = jobs.split_first() else {
            return Ok(handled);
        };
        // One at a time: two in one commit would write the same tables. They come again.
        for other in others {
            let later = Failure::new(Code::Conflict, "another load goes first");
            handled.refused.insert(other.id.clone(), later);
        }
        let load = LOAD_RATES.arguments::<LoadRates>(job)?.load()?;
        let plan = loading::plan(db, &load).await.map_err(|mut failure| {
            // Another try would find the other rates as well.
            if failure.code() == Code::AlreadyExists {
                failure.0.status = 422;
            }
            failure
        })?;
        let loaded_by = job.asked_by.as_deref().unwrap_or(LOAD_RATES.name);
        loading::write(&mut handled.batch, &plan, loaded_by);
        let result = json!(RateSetsView::from(&plan));
        handled.results.insert(job.id.clone(), result);
        Ok(handled)
    })
}
