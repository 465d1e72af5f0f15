//! What a payer did before: counts and sums over sliding windows. Pure.
//!
//! A payment counts from the moment it is asked for, under review too, until it ends without money
//! having moved: declined, failed or cancelled. Its equivalent in euro is the one that was decided on.

/// Microseconds of an hour.
pub const HOUR_US: i64 = 3_600_000_000;

/// A payer's payments before the one that is decided on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Velocity {
    /// Payments of the last hour.
    pub count_1h: i64,
    /// Payments of the last 24 hours.
    pub count_24h: i64,
    /// Their equivalents in euro cents, of the last hour.
    pub sum_eur_minor_1h: i64,
    /// The same of 24 hours.
    pub sum_eur_minor_24h: i64,
}

impl Velocity {
    /// The fact of this name; `None` when it is none of these.
    pub fn get(&self, fact: &str) -> Option<i64> {
        Some(match fact {
            "payer_count_1h" => self.count_1h,
            "payer_count_24h" => self.count_24h,
            "payer_sum_eur_minor_1h" => self.sum_eur_minor_1h,
            "payer_sum_eur_minor_24h" => self.sum_eur_minor_24h,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::FACTS;

    #[test]
    fn exactly_the_facts_that_are_said_to_be_added_are() {
        for fact in FACTS {
            assert_eq!(
                Velocity::default().get(fact.name).is_some(),
                fact.added,
                "{}",
                fact.name
            );
        }
    }
}
