//! What a payer did before: counts and sums over sliding windows. Pure.
//!
//! A payment counts from the moment it is asked for, under review too, until it ends without money
//! having moved: declined, failed or cancelled. Its equivalent in euro is the one that was decided on.

/// Microseconds of an hour.
pub const HOUR_US: i64 = 3_600_000_000;
/// Microseconds of a day.
pub const DAY_US: i64 = 24 * HOUR_US;

/// A payment as velocity facts see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The payment.
    pub payment_id: String,
    /// Who pays.
    pub payer_owner: String,
    /// When it was asked for, microseconds.
    pub asked_at: i64,
    /// Its equivalent in euro cents, where there was a rate.
    pub amount_eur_minor: Option<i64>,
}

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
    /// The same at `now` without one payment that `payer` is counted for: the one that is decided on
    /// is none of those before it.
    #[must_use]
    pub fn without(self, payment: &Asked, payer: &str, now: i64) -> Velocity {
        let age_us = now - payment.asked_at;
        let within = |span_us| payment.payer_owner == payer && age_us < span_us;
        let minor = payment.amount_eur_minor.unwrap_or_default();
        let count = |span_us| i64::from(within(span_us));
        let sum = |span_us| if within(span_us) { minor } else { 0 };
        Velocity {
            count_1h: self.count_1h - count(HOUR_US),
            count_24h: self.count_24h - count(DAY_US),
            sum_eur_minor_1h: self.sum_eur_minor_1h - sum(HOUR_US),
            sum_eur_minor_24h: self.sum_eur_minor_24h - sum(DAY_US),
        }
    }

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
    fn a_payment_is_taken_out_of_the_windows_it_is_in() {
        let before = Velocity {
            count_1h: 2,
            count_24h: 3,
            sum_eur_minor_1h: 700,
            sum_eur_minor_24h: 900,
        };
        let asked = |asked_at, amount_eur_minor| Asked {
            payment_id: "pay_1".into(),
            payer_owner: "usr_a".into(),
            asked_at,
            amount_eur_minor,
        };
        let now = 2 * DAY_US;
        let counts = |payment: &Asked, payer| {
            let v = before.without(payment, payer, now);
            [
                v.count_1h,
                v.count_24h,
                v.sum_eur_minor_1h,
                v.sum_eur_minor_24h,
            ]
        };
        let fresh = asked(now - HOUR_US + 1, Some(500));
        assert_eq!(counts(&fresh, "usr_a"), [1, 2, 200, 400]);
        // The windows of the query: `asked_at > now - span`.
        let older = asked(now - HOUR_US, Some(500));
        assert_eq!(counts(&older, "usr_a"), [2, 2, 700, 400]);
        let gone = asked(now - DAY_US, Some(500));
        assert_eq!(counts(&gone, "usr_a"), [2, 3, 700, 900]);
        let without_a_rate = asked(now, None);
        assert_eq!(counts(&without_a_rate, "usr_a"), [1, 2, 700, 900]);
        // Whoever names another payer's payment changes nothing.
        assert_eq!(counts(&fresh, "usr_b"), [2, 3, 700, 900]);
    }

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
