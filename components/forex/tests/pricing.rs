//! Pricing and staleness as pure rules, over random amounts and every pair of the shipped days.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use forex::model::{self, RateTable, Refusal, Triangulation, equivalent, price, price_target};
use innover_money::{Currency, Money, ecb};
use proptest::prelude::*;

fn tables() -> Vec<RateTable> {
    ecb::parse(ecb::ECB_EXTRACT)
        .unwrap()
        .into_iter()
        .map(|day| {
            let rates = day
                .rates
                .iter()
                .map(|(c, rate)| (c.code().to_owned(), rate.clone()));
            RateTable::new(&day.date, 1, "ECB", 0, rates).unwrap()
        })
        .collect()
}

fn currencies() -> Vec<Currency> {
    let codes = forex::sets::REQUIRED_DEFAULT
        .split_whitespace()
        .chain(["EUR"]);
    codes.map(|code| Currency::parse(code).unwrap()).collect()
}

#[test]
fn a_set_is_stale_the_day_after_its_last_allowed_one() {
    let table = &tables()[0];
    for (today, max_days, stale) in [
        ("2026-10-30", 0, false),
        ("2026-10-31", 0, true),
        ("2026-11-29", 30, false),
        ("2026-11-30", 30, true),
        ("2026-10-01", 0, false),
        ("2027-10-30", 364, true),
        ("2027-10-30", 365, false),
    ] {
        let today_date = model::date(today).unwrap();
        assert_eq!(
            table.check_age(today_date, max_days).is_err(),
            stale,
            "{today}, {max_days} days"
        );
    }
    let refusal = table
        .check_age(model::date("2026-12-31").unwrap(), 30)
        .unwrap_err();
    assert!(
        matches!(
            refusal,
            Refusal::Stale {
                age_days: 62,
                max_days: 30,
                ..
            }
        ),
        "{refusal:?}"
    );
}

#[test]
fn rates_older_than_a_week_carry_a_warning() {
    let table = &tables()[0];
    assert_eq!(table.warning(model::date("2026-11-06").unwrap()), None);
    assert!(
        table
            .warning(model::date("2026-11-07").unwrap())
            .unwrap()
            .contains("8 days old")
    );
}

#[test]
fn only_a_pair_with_the_euro_is_direct() {
    assert_eq!(Triangulation::between("EUR", "USD").as_str(), "direct");
    assert_eq!(Triangulation::between("USD", "EUR").as_str(), "direct");
    assert_eq!(Triangulation::between("USD", "JPY").as_str(), "via EUR");
}

#[test]
fn the_example_of_the_specification_is_exact() {
    let eur = Money::parse("33.33", Currency::EUR).unwrap();
    let price = price(eur, Currency::parse("USD").unwrap(), &tables()[0], 0).unwrap();
    assert_eq!(
        (price.target.to_string(), price.exact.to_string()),
        ("37.23 USD".into(), "37.236276".into())
    );
    assert_eq!(price.rate.to_string(), "1.1172");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whoever converts there and back at mid, on any day and pair, never has more than before.
    #[test]
    fn no_round_trip_profits(minor in 1i64..1_000_000_000_000, day in 0usize..15, from in 0usize..30, to in 0usize..30) {
        let (table, all) = (&tables()[day], currencies());
        prop_assume!(from != to);
        let start = Money::new(minor, all[from]).unwrap();
        if let Ok(there) = price(start, all[to], table, 0)
            && let Ok(back) = price(there.target, all[from], table, 0)
        {
            prop_assert!(back.target.minor() <= minor);
        }
    }

    /// The margin and the converted part are the whole source; a margin never gives the payee more.
    #[test]
    fn a_margin_only_takes(minor in 1i64..1_000_000_000_000, bps in 0u32..=10_000, to in 0usize..29) {
        let (table, target) = (&tables()[0], currencies()[to]);
        let start = Money::new(minor, Currency::EUR).unwrap();
        let free = price(start, target, table, 0);
        match price(start, target, table, bps) {
            Ok(priced) => {
                prop_assert!(!priced.margin.is_negative());
                prop_assert!(priced.margin.minor() <= minor);
                prop_assert!(priced.target.minor() <= free.unwrap().target.minor());
                prop_assert!(priced.target.is_positive());
            }
            Err(refusal) => {
                let small = matches!(refusal, Refusal::TooSmall { .. });
                prop_assert!(small, "{:?}", refusal);
            }
        }
    }

    /// An equivalent is never below the exact value, so rounding slips nothing under a limit.
    #[test]
    fn an_equivalent_is_at_least_what_a_conversion_pays(minor in 1i64..1_000_000_000_000, from in 0usize..29) {
        let (table, currency) = (&tables()[0], currencies()[from]);
        let money = Money::new(minor, currency).unwrap();
        let worth = equivalent(money, Currency::EUR, table).unwrap();
        if let Ok(paid) = price(money, Currency::EUR, table, 0) {
            prop_assert!((paid.target.minor()..=paid.target.minor() + 1).contains(&worth));
        } else {
            prop_assert_eq!(worth, 1);
        }
    }

    /// A fixed target arrives in full, the house keeps both roundings, and one minor unit less would
    /// not have been enough.
    #[test]
    fn a_fixed_target_costs_the_least_that_pays_for_it(minor in 1i64..1_000_000_000, bps in 0u32..10_000, day in 0usize..15, from in 0usize..30, to in 0usize..30) {
        let (table, all) = (&tables()[day], currencies());
        prop_assume!(from != to);
        let wanted = Money::new(minor, all[to]).unwrap();
        let fixed = price_target(wanted, all[from], table, bps).unwrap();
        prop_assert_eq!(fixed.target, wanted);
        // The same payment priced from its source gives at least as much, at the same margin.
        let same = price(fixed.source, all[to], table, bps).unwrap();
        prop_assert!(same.target.minor() >= minor);
        prop_assert_eq!((same.margin, same.rate, same.exact), (fixed.margin, fixed.rate, fixed.exact));
        if fixed.source.minor() > 1 {
            let less = Money::new(fixed.source.minor() - 1, all[from]).unwrap();
            match price(less, all[to], table, bps) {
                Ok(less) => prop_assert!(less.target.minor() < minor),
                Err(refusal) => {
                    let small = matches!(refusal, Refusal::TooSmall { .. });
                    prop_assert!(small, "{:?}", refusal);
                }
            }
        }
    }

    /// Whichever side is fixed on the way there and on the way back, at mid nobody gains.
    #[test]
    fn no_round_trip_profits_with_the_target_fixed(minor in 1i64..1_000_000_000, day in 0usize..15, from in 0usize..30, to in 0usize..30) {
        let (table, all) = (&tables()[day], currencies());
        prop_assume!(from != to);
        let wanted = Money::new(minor, all[to]).unwrap();
        let there = price_target(wanted, all[from], table, 0).unwrap();
        // Back with everything that arrived.
        if let Ok(back) = price(there.target, all[from], table, 0) {
            prop_assert!(back.target.minor() <= there.source.minor());
        }
        // Back until what was paid is there again: that takes at least what arrived.
        let back = price_target(there.source, all[to], table, 0).unwrap();
        prop_assert!(back.source.minor() >= minor);
        // There from a fixed source, back to the same amount: that takes at least what arrived.
        let start = Money::new(minor, all[from]).unwrap();
        if let Ok(there) = price(start, all[to], table, 0) {
            let back = price_target(start, all[to], table, 0).unwrap();
            prop_assert!(back.source.minor() >= there.target.minor());
        }
    }
}

#[test]
fn a_margin_of_everything_leaves_no_target_to_fix() {
    let usd = Money::parse("1.00", Currency::parse("USD").unwrap()).unwrap();
    let refusal = price_target(usd, Currency::EUR, &tables()[0], 10_000).unwrap_err();
    assert!(matches!(refusal, Refusal::Amount(_)), "{refusal:?}");
    let huge = Money::new(i64::MAX, Currency::EUR).unwrap();
    let refusal = price_target(huge, Currency::parse("IDR").unwrap(), &tables()[0], 0);
    assert!(matches!(refusal, Err(Refusal::Amount(_))), "{refusal:?}");
}
