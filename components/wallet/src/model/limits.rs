//! How much an owner may let leave: per transaction and per day, by KYC tier, in euro cents. Pure.

use innover_money::{Currency, Money};

/// KYC tiers: 0, of whom nothing is known, to 3, who is known best.
const TIERS: usize = 4;

/// No limit at all is this one, so that sums of what is used always fit 64 bits.
pub const NONE: i64 = i64::MAX / 2;

/// What one tier may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// At once, in euro cents.
    pub per_transaction: Option<i64>,
    /// Within a day (UTC), in euro cents.
    pub per_day: Option<i64>,
}

/// Why an amount is too much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exceeded {
    /// More than may leave at once.
    Transaction {
        /// Euro cents.
        limit: i64,
    },
    /// More than is left of the day.
    Day {
        /// Euro cents.
        limit: i64,
        /// Euro cents.
        used: i64,
    },
}

/// The limits of every tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table([Limits; TIERS]);

impl Table {
    /// Reads `0=250.00/500.00, 1=…, 2=…, 3=none`: per transaction and per day in euros, for each
    /// tier once.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Table, String> {
        let mut tiers = [None; TIERS];
        for part in text.split(',') {
            let (tier, limits) = part
                .split_once('=')
                .ok_or_else(|| format!("`{}` is not `<tier>=<limits>`", part.trim()))?;
            let tier: usize = tier
                .trim()
                .parse()
                .map_err(|_| format!("`{}` is no tier", tier.trim()))?;
            let slot = tiers
                .get_mut(tier)
                .ok_or_else(|| format!("tier {tier} does not exist; tiers are 0 to 3"))?;
            if slot.replace(limits_of(limits.trim())?).is_some() {
                return Err(format!("tier {tier} is there twice"));
            }
        }
        let mut table = [Limits {
            per_transaction: None,
            per_day: None,
        }; TIERS];
        for (n, (limits, slot)) in tiers.into_iter().zip(&mut table).enumerate() {
            *slot = limits.ok_or_else(|| format!("tier {n} is missing"))?;
        }
        Ok(Table(table))
    }

    /// The limits of a tier. One that is not known is the lowest.
    pub fn of(&self, tier: i64) -> Limits {
        usize::try_from(tier)
            .ok()
            .and_then(|tier| self.0.get(tier))
            .copied()
            .unwrap_or(self.0[0])
    }
}

fn limits_of(text: &str) -> Result<Limits, String> {
    if text == "none" {
        return Ok(Limits {
            per_transaction: None,
            per_day: None,
        });
    }
    let (transaction, day) = text
        .split_once('/')
        .ok_or_else(|| format!("`{text}` is neither `none` nor `<per transaction>/<per day>`"))?;
    let cents = |text: &str| {
        Money::parse(text.trim(), Currency::EUR)
            .ok()
            .filter(|money| !money.is_negative() && money.minor() < NONE)
            .map(Money::minor)
            .ok_or_else(|| format!("`{}` is no amount in euros", text.trim()))
    };
    let (per_transaction, per_day) = (cents(transaction)?, cents(day)?);
    if per_transaction > per_day {
        return Err(format!("`{text}` allows more at once than in a day"));
    }
    Ok(Limits {
        per_transaction: Some(per_transaction),
        per_day: Some(per_day),
    })
}

impl Limits {
    /// What `used` may grow to, in euro cents.
    pub fn ceiling(self) -> i64 {
        self.per_day.unwrap_or(NONE)
    }

    /// Whether `cents` more may leave when `used` of the day is taken.
    ///
    /// # Errors
    /// The limit that says no.
    pub fn check(self, used: i64, cents: i64) -> Result<(), Exceeded> {
        let at_once = self.per_transaction.unwrap_or(NONE);
        if cents > at_once {
            return Err(Exceeded::Transaction { limit: at_once });
        }
        let limit = self.ceiling();
        if used.saturating_add(cents) > limit {
            return Err(Exceeded::Day { limit, used });
        }
        Ok(())
    }

    /// What is left of the day, in euro cents; `None` without a limit. A tier that was lowered may
    /// leave less than nothing, which is nothing.
    pub fn remaining(self, used: i64) -> Option<i64> {
        self.per_day.map(|limit| limit.saturating_sub(used).max(0))
    }
}

/// Days since 1970, UTC, of a time in microseconds.
pub fn day(at_us: i64) -> i64 {
    at_us.div_euclid(86_400_000_000)
}
