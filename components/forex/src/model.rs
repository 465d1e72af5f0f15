//! What a rate, a price and a stale set are: pure, no clock, no I/O.

use std::collections::BTreeMap;

use innover_money::{Currency, ExactAmount, Money, MoneyError, Rate, Rounding, convert, margin};
use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use crate::limits::RATE_AGE_DAYS_WARNED;

/// The euro: what the reference rates are quoted against.
pub const PIVOT: &str = "EUR";

/// One day's rates, ready to price with.
#[derive(Clone, Debug, PartialEq)]
pub struct RateTable {
    /// The day they were fixed, `YYYY-MM-DD`.
    pub date: String,
    /// 1 for the first set of that day, more for its corrections.
    pub revision: i64,
    /// Who published them, e.g. `ECB`.
    pub source: String,
    /// When they were loaded, microseconds.
    pub loaded_at: i64,
    per_eur: BTreeMap<String, (Rate, String)>,
}

/// How a rate follows from the published ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Triangulation {
    /// One side is the euro.
    Direct,
    /// Two published rates, crossed exactly.
    ViaEur,
}

impl Triangulation {
    /// Between these currencies.
    pub fn between(base: &str, quote: &str) -> Triangulation {
        if base == PIVOT || quote == PIVOT {
            Triangulation::Direct
        } else {
            Triangulation::ViaEur
        }
    }

    /// As it stands in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Triangulation::Direct => "direct",
            Triangulation::ViaEur => "via EUR",
        }
    }
}

/// Why a conversion is refused. The text goes to the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The day has no rate for one of the currencies.
    #[error("the rates of {date} have none from {from} to {to}")]
    NoRate {
        /// Source currency.
        from: String,
        /// Target currency.
        to: String,
        /// The set's day.
        date: String,
    },
    /// The newest set is older than allowed.
    #[error(
        "the newest rates are of {date}, {age_days} days old; {max_days} are allowed: load newer ones with `innover forex load`"
    )]
    Stale {
        /// The set's day.
        date: String,
        /// Its age.
        age_days: i64,
        /// What is allowed.
        max_days: i64,
    },
    /// The target amount would round to nothing.
    #[error("{amount} is less than the smallest unit of {to}")]
    TooSmall {
        /// The source amount after the margin.
        amount: String,
        /// Target currency.
        to: String,
    },
    /// The source amount is zero, negative, or its product leaves 64 bits.
    #[error("the amount cannot be converted: {0}")]
    Amount(String),
    /// A currency that payments cannot be made in.
    #[error("{0}")]
    Currency(MoneyError),
    /// The quote was used by another payment.
    #[error("quote `{0}` was used already")]
    QuoteUsed(String),
    /// The quote's time is over.
    #[error("quote `{0}` has expired; ask for a new one")]
    QuoteExpired(String),
    /// There is no such quote.
    #[error("quote `{0}` does not exist")]
    QuoteNotFound(String),
    /// The quote is for another amount or pair.
    #[error("quote `{quote}` is for {quoted}, the payment is for {asked}; nothing was converted")]
    QuoteMismatch {
        /// The quote.
        quote: String,
        /// What it prices.
        quoted: String,
        /// What was asked.
        asked: String,
    },
}

impl RateTable {
    /// A table of currency codes and units per euro, as published.
    ///
    /// # Errors
    /// [`MoneyError`] when a rate is no positive decimal, which loading refuses before.
    pub fn new(
        date: impl Into<String>,
        revision: i64,
        source: impl Into<String>,
        loaded_at: i64,
        rates: impl IntoIterator<Item = (String, String)>,
    ) -> Result<RateTable, MoneyError> {
        let per_eur = rates
            .into_iter()
            .map(|(code, text)| Ok((code, (Rate::parse_decimal(&text)?, text))))
            .collect::<Result<_, MoneyError>>()?;
        Ok(RateTable {
            date: date.into(),
            revision,
            source: source.into(),
            loaded_at,
            per_eur,
        })
    }

    fn per_eur(&self, code: &str) -> Option<Rate> {
        if code == PIVOT {
            return Some(Rate::ONE);
        }
        self.per_eur.get(code).map(|(rate, _)| *rate)
    }

    /// Major units of `to` for one of `from`, exactly.
    ///
    /// # Errors
    /// [`Refusal::NoRate`].
    pub fn rate(&self, from: &str, to: &str) -> Result<Rate, Refusal> {
        let rate = match (self.per_eur(from), self.per_eur(to)) {
            (Some(from), Some(to)) => Rate::cross(&from, &to).ok(),
            _ => None,
        };
        rate.ok_or_else(|| Refusal::NoRate {
            from: from.into(),
            to: to.into(),
            date: self.date.clone(),
        })
    }

    /// Every rate from `base`, for people to read: as published from the euro, else the exact cross
    /// rounded half-even to ten significant digits. `None` when the day has no rate for `base`.
    pub fn from_base(&self, base: &str) -> Option<BTreeMap<String, String>> {
        if base == PIVOT {
            return Some(
                self.per_eur
                    .iter()
                    .map(|(c, (_, text))| (c.clone(), text.clone()))
                    .collect(),
            );
        }
        let base_rate = self.per_eur(base)?;
        let euro = [(PIVOT.to_owned(), Rate::ONE)];
        let others = self
            .per_eur
            .iter()
            .map(|(code, (rate, _))| (code.clone(), *rate));
        let rates = euro
            .into_iter()
            .chain(others)
            .filter(|(code, _)| code != base)
            .filter_map(|(code, rate)| Some((code, Rate::cross(&base_rate, &rate).ok()?)))
            .map(|(code, rate)| (code, readable(rate)))
            .collect();
        Some(rates)
    }

    /// Days from the set's day to `today`; negative for a set of the future.
    pub fn age_days(&self, today: Date) -> i64 {
        // Dates are checked when a set is loaded; one that is none counts as ancient, never as fresh.
        date(&self.date).map_or(i64::MAX, |day| days_between(day, today))
    }

    /// Refuses a set that is too old to price with.
    ///
    /// # Errors
    /// [`Refusal::Stale`].
    pub fn check_age(&self, today: Date, max_days: i64) -> Result<(), Refusal> {
        let age_days = self.age_days(today);
        if age_days <= max_days {
            return Ok(());
        }
        Err(Refusal::Stale {
            date: self.date.clone(),
            age_days,
            max_days,
        })
    }

    /// What a reader of a price should know about its age.
    pub fn warning(&self, today: Date) -> Option<String> {
        let age = self.age_days(today);
        (age > RATE_AGE_DAYS_WARNED).then(|| {
            format!("these rates are {age} days old; load newer ones with `innover forex load`")
        })
    }
}

/// A rate to ten significant digits, or in full where that is shorter.
pub fn readable(rate: Rate) -> String {
    let exact = rate.to_string();
    if exact.contains('/') || exact.len() > 12 {
        rate.to_decimal(10)
    } else {
        exact
    }
}

/// A calendar day written `YYYY-MM-DD` and no other way.
pub fn date(text: &str) -> Option<Date> {
    text.parse::<Date>()
        .ok()
        .filter(|date| date.to_string() == text)
}

fn days_between(from: Date, to: Date) -> i64 {
    // Both are days of the calendar, so the difference in days always exists.
    from.until(to)
        .map_or(i64::MAX, |span| i64::from(span.get_days()))
}

/// Which amount of a price is given; the other one follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// What the payer pays, margin included.
    #[default]
    Source,
    /// What the payee gets.
    Target,
}

impl Side {
    /// The name on the wire and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Side::Source => "source",
            Side::Target => "target",
        }
    }

    /// The side of this name.
    pub fn parse(name: &str) -> Option<Side> {
        [Side::Source, Side::Target]
            .into_iter()
            .find(|side| side.as_str() == name)
    }
}

/// A price: what is paid, what the house keeps, what arrives.
#[derive(Clone, Debug, PartialEq)]
pub struct Price {
    /// What the payer pays, margin included.
    pub source: Money,
    /// The house's part, in the source currency.
    pub margin: Money,
    /// What the payee gets, never more than the exact product.
    pub target: Money,
    /// The mid rate, exact.
    pub rate: Rate,
    /// `(source − margin) × rate` in major units of the target, exact.
    pub exact: ExactAmount,
}

/// Prices `source` in `target`: the margin is taken off first, the rest converted by one exact
/// product and rounded once.
///
/// # Errors
/// [`Refusal`].
pub fn price(
    source: Money,
    target: Currency,
    table: &RateTable,
    margin_bps: u32,
) -> Result<Price, Refusal> {
    if !source.is_positive() {
        return Err(Refusal::Amount("it must be above zero".into()));
    }
    target.payable().map_err(Refusal::Currency)?;
    let rate = table.rate(source.currency().code(), target.code())?;
    let amount = |e: MoneyError| Refusal::Amount(e.to_string());
    let margin = margin(source, margin_bps).map_err(amount)?;
    let rest = source.checked_sub(margin).map_err(amount)?;
    let converted = convert(rest, &rate, target, Rounding::Down).map_err(amount)?;
    if !converted.result.is_positive() {
        return Err(Refusal::TooSmall {
            amount: rest.to_string(),
            to: target.code().into(),
        });
    }
    Ok(Price {
        source,
        margin,
        target: converted.result,
        rate,
        exact: converted.exact,
    })
}

/// Prices a `target` amount that must arrive in full: what is converted is rounded up to the source
/// currency's minor unit, the margin comes on top, and the payer pays both. So both roundings go
/// toward the house, and the margin is exactly the one [`price`] would take of the same payment.
///
/// # Errors
/// [`Refusal`].
pub fn price_target(
    target: Money,
    source: Currency,
    table: &RateTable,
    margin_bps: u32,
) -> Result<Price, Refusal> {
    if !target.is_positive() {
        return Err(Refusal::Amount("it must be above zero".into()));
    }
    source.payable().map_err(Refusal::Currency)?;
    let rate = table.rate(source.code(), target.currency().code())?;
    let amount = |e: MoneyError| Refusal::Amount(e.to_string());
    let needed = convert(target, &rate.invert(), source, Rounding::Up).map_err(amount)?;
    let paid = with_margin(needed.result, margin_bps)?;
    let margin = margin(paid, margin_bps).map_err(amount)?;
    let rest = paid.checked_sub(margin).map_err(amount)?;
    let converted = convert(rest, &rate, target.currency(), Rounding::Down).map_err(amount)?;
    Ok(Price {
        source: paid,
        margin,
        target,
        rate,
        exact: converted.exact,
    })
}

/// The least amount of which `rest` is left when the margin is taken off. The margin is rounded up,
/// so what is left of `s` is ⌊s × (10,000 − bps) / 10,000⌋, and that reaches `rest` first at
/// ⌈rest × 10,000 / (10,000 − bps)⌉.
fn with_margin(rest: Money, margin_bps: u32) -> Result<Money, Refusal> {
    const WHOLE: i128 = 10_000;
    let kept = WHOLE - i128::from(margin_bps);
    if kept <= 0 {
        return Err(Refusal::Amount(
            "the margin is the whole amount, so nothing could arrive".into(),
        ));
    }
    // 64 bits times 14: far below 128.
    let scaled = i128::from(rest.minor()) * WHOLE;
    let paid = (scaled + kept - 1) / kept;
    i64::try_from(paid)
        .map_err(|_| MoneyError::OutOfRange)
        .and_then(|minor| Money::new(minor, rest.currency()))
        .map_err(|e| Refusal::Amount(e.to_string()))
}

/// What `minor` units of `from` are worth in minor units of `to` at mid, rounded up: an equivalent
/// is compared with limits, and rounding must not slip an amount under one.
///
/// # Errors
/// [`Refusal::NoRate`], or [`Refusal::Amount`] when the result leaves 64 bits.
pub fn equivalent(amount: Money, to: Currency, table: &RateTable) -> Result<i64, Refusal> {
    if amount.currency() == to {
        return Ok(amount.minor());
    }
    let rate = table.rate(amount.currency().code(), to.code())?;
    convert(amount, &rate, to, Rounding::Up)
        .map(|converted| converted.result.minor())
        .map_err(|e| Refusal::Amount(e.to_string()))
}
