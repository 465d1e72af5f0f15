//! Exponential backoff with jitter.

use std::time::Duration;

/// How long to wait after try number `tries` (1 is the first) failed: `min·2^(tries-1)`, at most
/// `max`, spread by `±jitter`. `random` is in 0..1.
pub fn backoff(tries: u32, min: Duration, max: Duration, jitter: f64, random: f64) -> Duration {
    let doubled = min
        .saturating_mul(2_u32.saturating_pow(tries.saturating_sub(1)))
        .min(max);
    doubled
        .mul_f64(1.0 + jitter * (2.0 * random - 1.0))
        .min(max)
}

/// A random number in 0..1. The random bits of a UUIDv7 are at hand; jitter needs no more.
pub fn random() -> f64 {
    let bits = uuid::Uuid::now_v7().as_u128() & u128::from(u32::MAX);
    bits as f64 / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_from_the_least_to_the_most_and_stay_within_the_jitter() {
        let (min, max) = (Duration::from_millis(100), Duration::from_secs(300));
        for (tries, middle_ms) in [
            (1, 100),
            (2, 200),
            (3, 400),
            (12, 204_800),
            (13, 300_000),
            (40, 300_000),
        ] {
            let wait = |random| backoff(tries, min, max, 0.2, random).as_millis();
            assert_eq!(wait(0.5), middle_ms, "try {tries}");
            assert_eq!(wait(0.0), middle_ms * 8 / 10, "try {tries}");
            assert_eq!(wait(1.0), (middle_ms * 12 / 10).min(300_000), "try {tries}");
        }
    }

    #[test]
    fn random_numbers_are_in_range_and_differ() {
        let some: Vec<f64> = (0..100).map(|_| random()).collect();
        assert!(some.iter().all(|r| (0.0..1.0).contains(r)));
        assert!(some.iter().any(|r| *r < 0.5) && some.iter().any(|r| *r > 0.5));
    }
}
