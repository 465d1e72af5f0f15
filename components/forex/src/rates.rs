//! The rates in force: the extract that ships with the service until sets are loaded, and one parsed
//! table per instance.

use std::sync::{Arc, Mutex, PoisonError};

use innover_kit::{Batch, BatchError, Code, Db, Failure, Result, config, contract, ids};
use innover_money::ecb;
use jiff::civil::Date;

use crate::{
    model::{self, RateTable},
    sets::{self, Load, Plan},
    store::{self, SetRow},
};

const DAY_US: i64 = 86_400_000_000;
/// Who the extract is recorded as loaded by.
const LOADED_BY_EXTRACT: &str = "extract";

/// The newest table, kept until a query says that another set is newer. It is the same for every
/// request of the instance.
static NEWEST: Mutex<Option<Arc<RateTable>>> = Mutex::new(None);

/// The last day there can be rates of: UTC's tomorrow, which has begun in the east.
pub fn last_day() -> String {
    contract::time::date(ids::now_us() + DAY_US)
}

/// The newest set, read and parsed only when it is not the one this instance has.
///
/// # Errors
/// A database failure.
pub async fn newest(db: &Db) -> Result<Arc<RateTable>> {
    let set = match store::newest(db, &last_day()).await? {
        Some(set) => set,
        None => {
            // A connection of its own: an event handler has one it may only read from.
            seed(&mut Db::open().await?).await?;
            store::newest(db, &last_day())
                .await?
                .ok_or_else(|| Failure::new(Code::NotReady, "no rates are loaded"))?
        }
    };
    let cached = NEWEST
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    if let Some(table) = cached.filter(|table| is_table_of(table, &set)) {
        return Ok(table);
    }
    let table = Arc::new(table(db, &set).await?);
    *NEWEST.lock().unwrap_or_else(PoisonError::into_inner) = Some(table.clone());
    Ok(table)
}

fn is_table_of(table: &RateTable, set: &SetRow) -> bool {
    table.date == set.date && table.revision == set.revision && table.loaded_at == set.loaded_at
}

/// The rates of one set.
///
/// # Errors
/// A database failure.
pub async fn table(db: &Db, set: &SetRow) -> Result<RateTable> {
    let rates = store::rates(db, set).await?;
    RateTable::new(&set.date, set.revision, &set.source, set.loaded_at, rates).map_err(|e| {
        Failure::new(
            Code::Internal,
            format!("the stored rates of {} are damaged: {e}", set.date),
        )
    })
}

/// Loads the extract into an empty database. A migration could not: it is parsed and checked as any
/// other set, and never overwrites one.
///
/// # Errors
/// A database failure.
pub async fn seed(db: &mut Db) -> Result<()> {
    if store::newest(db, &last_day()).await?.is_some() {
        return Ok(());
    }
    let damaged = |e: String| {
        Failure::new(
            Code::Internal,
            format!("the shipped rates are damaged: {e}"),
        )
    };
    let days = ecb::parse(ecb::ECB_EXTRACT).map_err(|e| damaged(e.to_string()))?;
    let extract = Load {
        days,
        source: sets::ECB.into(),
        history: true,
        ..Load::default()
    };
    let Plan { insert, .. } =
        sets::plan(&extract, &[], None, &[], ids::now_us()).map_err(|e| damaged(e.to_string()))?;
    let mut batch = Batch::new();
    store::insert_sets(
        &mut batch,
        insert.iter().map(|(s, r)| (s, r.as_slice())),
        LOADED_BY_EXTRACT,
    );
    match batch.commit(db).await {
        // Another request loaded something first, and that is as good.
        Ok(()) | Err(BatchError::Expectation { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// What the platform's operator decided: margin, age, today.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The house's margin in basis points.
    pub margin_bps: u32,
    /// Oldest set that may be priced with, in days.
    pub max_age_days: i64,
    /// The UTC day.
    pub today: Date,
}

impl Policy {
    /// Reads `fx_margin_bps`, `rates_max_age_days` and the clock.
    ///
    /// # Errors
    /// 503 naming the variable that is missing or no number in range.
    pub async fn read() -> Result<Policy> {
        let bps = config::get_number("fx_margin_bps").await?;
        let margin_bps = u32::try_from(bps)
            .ok()
            .filter(|bps| *bps <= 10_000)
            .ok_or_else(|| {
                Failure::new(
                    Code::NotReady,
                    format!("`fx_margin_bps` is 0 to 10000, not {bps}"),
                )
            })?;
        let max_age_days = config::get_number("rates_max_age_days").await?;
        let today = model::date(&contract::time::date(ids::now_us()))
            .ok_or_else(|| Failure::new(Code::Internal, "the clock is outside the calendar"))?;
        Ok(Policy {
            margin_bps,
            max_age_days,
            today,
        })
    }
}
