//! A daily set on its way in: checked whole, compared with what is there, never changed afterwards.
//! Pure, like model.rs.

use std::collections::BTreeMap;

use innover_money::{
    Rate, RateCurrency,
    ecb::{DailyRates, complete},
};
use sha2::{Digest, Sha256};

use crate::{model, store::SetRow};

/// The currencies the ECB quotes today. A set for a new day must hold all of them (see
/// [`required`]); older days keep the holes of the history.
pub const REQUIRED_DEFAULT: &str = "USD JPY CZK DKK GBP HUF PLN RON SEK CHF ISK NOK TRY AUD BRL CAD \
                                    CNY HKD IDR ILS INR KRW MXN MYR NZD PHP SGD THB ZAR";

/// Who publishes the reference rates.
pub const ECB: &str = "ECB";

/// Why a set is refused; `set` counts from 0.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{fault}")]
pub struct SetError {
    /// Position in the request.
    pub set: usize,
    /// The field at fault, `date` or `rates/USD`.
    pub field: String,
    /// What is wrong.
    pub fault: String,
}

/// Reads a list of currency codes, separated by spaces or commas.
///
/// # Errors
/// The code no rate exists for.
pub fn required(codes: &str) -> Result<Vec<RateCurrency>, String> {
    codes
        .split([' ', ','])
        .filter(|code| !code.is_empty())
        .map(|code| RateCurrency::parse(code).map_err(|e| e.to_string()))
        .collect()
}

/// Checks one set: a day of the calendar, codes with a rate against the euro, positive decimals.
///
/// # Errors
/// [`SetError`] naming the field.
pub fn check(
    at: usize,
    date: &str,
    rates: &BTreeMap<String, String>,
) -> Result<DailyRates, SetError> {
    let error = |field: &str, fault: String| SetError {
        set: at,
        field: field.into(),
        fault,
    };
    if model::date(date).is_none() {
        return Err(error(
            "date",
            format!("`{}` is not a date like 2026-10-30", cut(date)),
        ));
    }
    if rates.is_empty() {
        return Err(error("rates", format!("the set of {date} has no rates")));
    }
    let rates = rates
        .iter()
        .map(|(code, rate)| {
            let field = || format!("rates/{}", cut(code));
            let currency = RateCurrency::parse(code)
                .ok()
                .filter(|currency| *currency != RateCurrency::EUR)
                .ok_or_else(|| {
                    error(
                        &field(),
                        format!(
                            "`{}` is not a currency with a rate against the euro",
                            cut(code)
                        ),
                    )
                })?;
            Rate::parse_decimal(rate)
                .map_err(|e| error(&field(), format!("the rate of {code}: {e}")))?;
            Ok((currency, rate.clone()))
        })
        .collect::<Result<_, SetError>>()?;
    Ok(DailyRates {
        date: date.into(),
        rates,
    })
}

/// A caller's text in a message, cut: it may be a megabyte.
fn cut(text: &str) -> String {
    text.chars().take(32).collect()
}

/// The SHA-256 of a set's content, by value: `1.130` and `1.13` are the same rate.
pub fn digest(day: &DailyRates) -> String {
    let mut lines: Vec<String> = day
        .rates
        .iter()
        .map(|(currency, text)| {
            let rate = Rate::parse_decimal(text).map_or_else(|_| text.clone(), |r| r.to_string());
            format!("{}={rate}\n", currency.code())
        })
        .collect();
    lines.sort_unstable();
    let hash = Sha256::digest(lines.concat());
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Sets somebody wants stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Checked days.
    pub days: Vec<DailyRates>,
    /// Who published them.
    pub source: String,
    /// Whether a day that has other rates gets another revision.
    pub replace: bool,
    /// Whether a single day belongs to the history, where currencies that were not quoted yet, or
    /// are not any more, are holes.
    pub history: bool,
}

impl Load {
    /// One day is a daily set, as the bank publishes it every working day: complete, or something
    /// is wrong with it. Several are the history.
    fn is_daily(&self) -> bool {
        self.days.len() == 1 && !self.history
    }
}

/// The first day of a load after the day `last`, and its position.
pub fn after<'a>(load: &'a Load, last: &str) -> Option<(usize, &'a str)> {
    let mut days = load.days.iter().map(|day| day.date.as_str()).enumerate();
    // Days are written in one way, so their text is in their order.
    days.find(|(_, day)| *day > last)
}

/// What a request changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Sets to insert with their rates, as revision 1 of a new day or as the next of a known one.
    pub insert: Vec<(SetRow, Vec<(String, String)>)>,
    /// Days that were new.
    pub added: usize,
    /// Days that got another revision.
    pub replaced: usize,
    /// Days whose newest revision says the same.
    pub unchanged: usize,
}

/// Why a request as a whole is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A daily set, or one for today's use, lacks currencies.
    #[error("the set of {date} is refused: it lacks {missing}")]
    Incomplete {
        /// Position in the request.
        set: usize,
        /// Its day.
        date: String,
        /// Codes.
        missing: String,
    },
    /// A day is there with other rates.
    #[error(
        "there are other rates of {dates} already; send `\"replace\": true` to add a revision (the old one is kept)"
    )]
    Differs {
        /// The days, the first few.
        dates: String,
    },
}

/// Decides what to do with a load, given all revisions of its days that are stored and the newest
/// day there is. A daily set must be complete, and so must a day on or after the newest one: it will
/// be priced with.
///
/// # Errors
/// [`PlanError`]; nothing of the request is taken then.
pub fn plan(
    load: &Load,
    stored: &[SetRow],
    newest: Option<&str>,
    required: &[RateCurrency],
    now_us: i64,
) -> Result<Plan, PlanError> {
    // Revisions come oldest first, so the newest one stays.
    let known: BTreeMap<&str, &SetRow> = stored.iter().map(|s| (s.date.as_str(), s)).collect();
    let mut plan = Plan::default();
    let mut differing = Vec::new();
    for (at, day) in load.days.iter().enumerate() {
        let digest = digest(day);
        let revision = match known.get(day.date.as_str()) {
            Some(set) if set.digest == digest => {
                plan.unchanged += 1;
                continue;
            }
            Some(_) if !load.replace => {
                differing.push(day.date.as_str());
                continue;
            }
            Some(set) => {
                plan.replaced += 1;
                set.revision + 1
            }
            None => {
                plan.added += 1;
                1
            }
        };
        let priced_with = newest.is_none_or(|newest| day.date.as_str() >= newest);
        if (load.is_daily() || priced_with)
            && let Err(lacking) = complete(day, required)
        {
            let missing: Vec<_> = lacking
                .missing
                .iter()
                .map(|currency| currency.code())
                .collect();
            return Err(PlanError::Incomplete {
                set: at,
                date: day.date.clone(),
                missing: missing.join(", "),
            });
        }
        let set = SetRow {
            date: day.date.clone(),
            revision,
            source: load.source.clone(),
            digest,
            loaded_at: now_us,
        };
        let rates = day
            .rates
            .iter()
            .map(|(c, rate)| (c.code().to_owned(), rate.clone()))
            .collect();
        plan.insert.push((set, rates));
    }
    if differing.is_empty() {
        return Ok(plan);
    }
    let more = if differing.len() > 5 {
        " and others"
    } else {
        ""
    };
    differing.truncate(5);
    Err(PlanError::Differs {
        dates: format!("{}{more}", differing.join(", ")),
    })
}
