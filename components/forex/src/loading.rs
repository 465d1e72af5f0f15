//! Daily sets on their way in, whoever brings them: a request or a job. Read and checked whole, then
//! compared with what is stored.

use std::collections::{BTreeMap, BTreeSet};

use innover_kit::{Batch, Code, Db, Failure, Result, config, ids};
use innover_money::{
    RateCurrency,
    ecb::{self, DailyRates},
};

use crate::{
    limits::{RATE_SETS_MAX, SOURCE_BYTES_MAX},
    rates,
    sets::{self, Load, Plan, PlanError},
    store,
};

fn refuse(why: String) -> Failure {
    Failure::new(Code::InvalidRequest, why)
}

/// The days of a file of the ECB's: XML or CSV, what it is shows its content.
///
/// # Errors
/// 400 saying what is wrong with it.
pub fn file(text: &str) -> Result<Load> {
    let days =
        ecb::parse(text).map_err(|e| refuse(format!("this is no file of the ECB's: {e}")))?;
    if days.len() > RATE_SETS_MAX {
        let why = format!(
            "the file holds {} days, {RATE_SETS_MAX} at once are taken: `innover forex load` sends them in parts",
            days.len()
        );
        return Err(refuse(why));
    }
    Ok(Load {
        days,
        source: sets::ECB.into(),
        ..Load::default()
    })
}

/// Sets of `source`: dates and units per euro by currency.
///
/// # Errors
/// 400 naming the field at fault.
pub fn sets(source: String, sets: Vec<(String, BTreeMap<String, String>)>) -> Result<Load> {
    let printable = source.bytes().all(|b| b.is_ascii_graphic());
    if source.is_empty() || source.len() > SOURCE_BYTES_MAX || !printable {
        let why = format!("source is 1 to {SOURCE_BYTES_MAX} printable characters, e.g. ECB");
        return Err(refuse(why).param("/source"));
    }
    if sets.is_empty() || sets.len() > RATE_SETS_MAX {
        let why = format!("send 1 to {RATE_SETS_MAX} daily sets at once");
        return Err(refuse(why).param("/sets"));
    }
    let mut days: Vec<DailyRates> = Vec::with_capacity(sets.len());
    let mut seen = BTreeSet::new();
    for (at, (date, rates)) in sets.iter().enumerate() {
        let day = sets::check(at, date, rates)
            .map_err(|e| refuse(e.fault).param(format!("/sets/{}/{}", e.set, e.field)))?;
        if !seen.insert(date.as_str()) {
            let why = format!("{date} is listed twice");
            return Err(refuse(why).param(format!("/sets/{at}/date")));
        }
        days.push(day);
    }
    Ok(Load {
        days,
        source,
        ..Load::default()
    })
}

/// What a load changes, as things are.
///
/// # Errors
/// 422 for a day that has not come and for a daily set that lacks currencies, 409 for a day that has
/// other rates.
pub async fn plan(db: &Db, load: &Load) -> Result<Plan> {
    // A mistyped year would be the newest day until it comes, and never too old.
    let last = rates::last_day();
    if let Some((set, day)) = sets::after(load, &last) {
        let why = format!("the set of {day} is refused: the day has not come yet");
        let mut failure = refuse(why).param(format!("/sets/{set}/date"));
        failure.0.status = 422;
        return Err(failure);
    }
    let required = required_currencies().await?;
    let newest = rates::newest(db).await?;
    let stored = store::of_days(db, load.days.iter().map(|d| d.date.as_str())).await?;
    sets::plan(load, &stored, Some(&newest.date), &required, ids::now_us()).map_err(refuse_plan)
}

/// The steps of a plan; none when everything is there already.
pub fn write(batch: &mut Batch, plan: &Plan, loaded_by: &str) {
    if plan.insert.is_empty() {
        return;
    }
    let sets = plan.insert.iter();
    let sets = sets.map(|(set, rates)| (set, rates.as_slice()));
    store::insert_sets(batch, sets, loaded_by);
}

/// `fx_currencies` where the platform sets it, else what the ECB quotes today.
async fn required_currencies() -> Result<Vec<RateCurrency>> {
    let configured = config::get("fx_currencies").await.ok();
    let codes = configured.as_deref().unwrap_or(sets::REQUIRED_DEFAULT);
    sets::required(codes).map_err(|e| Failure::new(Code::NotReady, format!("`fx_currencies`: {e}")))
}

fn refuse_plan(error: PlanError) -> Failure {
    let text = error.to_string();
    match error {
        PlanError::Incomplete { set, .. } => {
            let mut failure = refuse(text).param(format!("/sets/{set}/rates"));
            failure.0.status = 422;
            failure
        }
        PlanError::Differs { .. } => Failure::new(Code::AlreadyExists, text),
    }
}
