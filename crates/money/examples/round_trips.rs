//! Goes from every currency to every other and back, at the mid rates of every day of an ECB
//! history file, and counts the trips that return more than they started with:
//!
//! ```sh
//! cargo run --release -p innover-money --example round_trips -- eurofxref-hist.csv
//! ```
//!
//! 28.6 million trips take 15 seconds, so this is no test; the same property on the shipped extract
//! is one.

use std::{error::Error, process::ExitCode};

use innover_money::{MoneyError, Rate, RateCurrency, Rounding, convert_minor, ecb};

/// Minor units each trip starts with: the smallest, odd ones, and one with many digits.
const STARTS: [i64; 4] = [1, 3_333, 10_000, 987_654_321];

#[derive(Default)]
struct Count {
    days: u64,
    rates: u64,
    pairs: u64,
    trips: u64,
    profitable: u64,
    profitable_half_even: u64,
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let path = std::env::args_os()
        .nth(1)
        .ok_or("usage: round_trips <unzipped ECB history>")?;
    let mut count = Count::default();
    for day in ecb::parse(&std::fs::read_to_string(path)?)? {
        count.days += 1;
        count.rates += day.rates.len() as u64;
        let mut per_eur = vec![(RateCurrency::EUR, Rate::ONE)];
        for (currency, text) in &day.rates {
            per_eur.push((*currency, Rate::parse_decimal(text)?));
        }
        for base in &per_eur {
            for quote in per_eur.iter().filter(|quote| quote.0 != base.0) {
                pair(base, quote, &mut count)?;
            }
        }
    }
    println!(
        "{} days, {} rates, {} ordered pairs, {} round trips: {} profitable ({} if rounded half-even)",
        count.days,
        count.rates,
        count.pairs,
        count.trips,
        count.profitable,
        count.profitable_half_even
    );
    Ok(ExitCode::from(u8::from(count.profitable > 0)))
}

fn pair(
    base: &(RateCurrency, Rate),
    quote: &(RateCurrency, Rate),
    count: &mut Count,
) -> Result<(), MoneyError> {
    let there = Rate::cross(&base.1, &quote.1)?;
    let back = Rate::cross(&quote.1, &base.1)?;
    count.pairs += 1;
    for start in STARTS {
        let trip = |rounding| {
            let (middle, _) = convert_minor(start, base.0, &there, quote.0, rounding)?;
            let (end, _) = convert_minor(middle, quote.0, &back, base.0, rounding)?;
            Ok::<bool, MoneyError>(end > start)
        };
        count.trips += 1;
        count.profitable += u64::from(trip(Rounding::Down)?);
        count.profitable_half_even += u64::from(trip(Rounding::HalfEven)?);
    }
    Ok(())
}
