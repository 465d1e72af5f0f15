use innover_money::{
    Money, MoneyError, Rate, RateCurrency, Rounding, convert, convert_minor,
    ecb::{self, DailyRates, ECB_EXTRACT},
};
use proptest::prelude::*;

use super::{any_money, any_rate, currency, money, payable, published_rate, rate, rate_currency};

#[test]
fn one_exact_product_is_rounded_once() {
    for (amount, from, text, to, rounding, result, exact) in [
        (
            "33.33",
            "EUR",
            "1.1172",
            "USD",
            Rounding::Down,
            "37.23",
            "37.236276",
        ),
        (
            "33.33",
            "EUR",
            "1.1172",
            "USD",
            Rounding::Up,
            "37.24",
            "37.236276",
        ),
        (
            "-33.33",
            "EUR",
            "1.1172",
            "USD",
            Rounding::Down,
            "-37.24",
            "-37.236276",
        ),
        (
            "-33.33",
            "EUR",
            "1.1172",
            "USD",
            Rounding::Up,
            "-37.23",
            "-37.236276",
        ),
        (
            "100",
            "EUR",
            "175.68",
            "JPY",
            Rounding::Down,
            "17568",
            "17568",
        ),
        (
            "100",
            "EUR",
            "175.68",
            "JPY",
            Rounding::Up,
            "17568",
            "17568",
        ),
        (
            "1",
            "JPY",
            "0.30769",
            "KWD",
            Rounding::Down,
            "0.307",
            "0.30769",
        ),
        ("0.001", "KWD", "1000", "CLF", Rounding::Down, "1.0000", "1"),
        ("0", "EUR", "1.5", "USD", Rounding::Up, "0.00", "0"),
        (
            "0.05",
            "EUR",
            "0.5",
            "USD",
            Rounding::HalfEven,
            "0.02",
            "0.025",
        ),
        (
            "0.07",
            "EUR",
            "0.5",
            "USD",
            Rounding::HalfEven,
            "0.04",
            "0.035",
        ),
        (
            "-0.05",
            "EUR",
            "0.5",
            "USD",
            Rounding::HalfEven,
            "-0.02",
            "-0.025",
        ),
        (
            "1",
            "EUR",
            "1/3",
            "USD",
            Rounding::HalfEven,
            "0.33",
            "0.33333333333333333333333333333333333333 (1/3)",
        ),
        (
            "-2",
            "EUR",
            "1/3",
            "USD",
            Rounding::Up,
            "-0.66",
            "-0.66666666666666666666666666666666666666 (-2/3)",
        ),
        (
            "92233720368547758.07",
            "EUR",
            "1",
            "USD",
            Rounding::Up,
            "92233720368547758.07",
            "92233720368547758.07",
        ),
    ] {
        let got =
            convert(money(amount, from), &rate(text), currency(to), rounding).expect("in range");
        assert_eq!(
            got.result,
            money(result, to),
            "{amount} {from} × {text} {rounding:?}"
        );
        assert_eq!(got.exact.to_string(), exact);
    }
}

#[test]
fn the_residual_is_what_rounding_took_or_gave() {
    for (amount, text, rounding, residual) in [
        ("33.33", "1.1172", Rounding::Down, "0.006276"),
        ("33.33", "1.1172", Rounding::Up, "-0.003724"),
        ("-33.33", "1.1172", Rounding::Down, "0.003724"),
        ("-33.33", "1.1172", Rounding::Up, "-0.006276"),
        ("100", "1.1172", Rounding::Down, "0"),
        ("-0.01", "0.1", Rounding::Up, "-0.001"),
        ("-0.01", "0.1", Rounding::Down, "0.009"),
        (
            "1",
            "1/3",
            Rounding::Down,
            "0.0033333333333333333333333333333333333333 (1/300)",
        ),
        (
            "1",
            "1/3",
            Rounding::Up,
            "-0.0066666666666666666666666666666666666666 (-1/150)",
        ),
    ] {
        let got = convert(money(amount, "EUR"), &rate(text), currency("USD"), rounding)
            .expect("in range");
        let got = got.residual.to_string();
        assert_eq!(got, residual, "{amount} × {text} {rounding:?}");
    }
}

#[test]
fn a_fraction_shows_38_significant_digits_and_itself() {
    let amount = money("100", "JPY");
    let dollars = Rate::cross(&rate("175.68"), &rate("1.1172")).expect("in range");
    let got = convert(amount, &dollars, currency("USD"), Rounding::Down).expect("in range");
    assert_eq!(got.result, money("0.63", "USD"));
    assert!(!got.exact.is_finite());
    // 100 × 1.1172 / 175.68 in lowest terms.
    assert_eq!(got.exact.to_fraction_string(), "931/1464");
    let digits = got.exact.to_decimal_string();
    assert_eq!(digits.trim_start_matches("0.").len(), 38);
    assert!(digits.starts_with("0.63592896"), "{digits}");
    let json = serde_json::to_string(&got).expect("serializes");
    let wanted = format!(
        r#"{{"result":{{"amount":"0.63","currency":"USD"}},"exact":"{}","residual":"{}"}}"#,
        got.exact, got.residual
    );
    assert_eq!(json, wanted);
}

#[test]
fn the_exact_amount_of_the_widest_rates_is_complete() {
    // 38 digits over 38 digits times 63 bits: beyond 128 bits on both sides of the fraction.
    let text = "99999999999999999999999999999999999999/99999999999999999999999999999999999997";
    let most = Money::new(i64::MAX - 1, currency("EUR")).expect("payable");
    let got = convert(most, &rate(text), currency("EUR"), Rounding::Down).expect("in range");
    assert_eq!(got.result.minor(), i64::MAX - 1);
    let (above, below) = (
        "461168601842738790299999999999999999995388313981572612097",
        "4999999999999999999999999999999999999850",
    );
    assert_eq!(got.exact.to_fraction_string(), format!("{above}/{below}"));
    let up = convert(most, &rate(text), currency("EUR"), Rounding::Up).expect("in range");
    assert_eq!(up.result.minor(), i64::MAX);
    let tiny = rate("1/99999999999999999999999999999999999999");
    let got = convert(money("0.01", "EUR"), &tiny, currency("JPY"), Rounding::Up);
    assert_eq!(got.map(|got| got.result), Ok(money("1", "JPY")));
}

#[test]
fn a_result_beyond_64_bits_is_an_error() {
    let most = Money::new(i64::MAX, currency("EUR")).expect("payable");
    for text in ["1.1172", "2", "99999999999999999999999999999999999999"] {
        let got = convert(most, &rate(text), currency("USD"), Rounding::Down);
        assert_eq!(got, Err(MoneyError::OutOfRange), "{text}");
    }
    let least = Money::new(i64::MIN, currency("EUR")).expect("payable");
    let same = convert(least, &Rate::ONE, currency("USD"), Rounding::Down).expect("in range");
    assert_eq!(same.result.minor(), i64::MIN);
}

#[test]
fn nothing_is_converted_into_a_currency_without_minor_units() {
    let got = convert(
        money("1", "EUR"),
        &Rate::ONE,
        currency("XAU"),
        Rounding::Down,
    );
    assert_eq!(got, Err(MoneyError::CurrencyNotPayable("XAU")));
}

#[test]
fn historic_amounts_can_be_restated() {
    let (lira, euro) = (rate_currency("TRL"), RateCurrency::EUR);
    let rate = rate("1836200").invert();
    let (cents, _) = convert_minor(1_836_200, lira, &rate, euro, Rounding::Down).expect("in range");
    assert_eq!(cents, 100);
}

fn pairs(day: &DailyRates) -> impl Iterator<Item = (RateCurrency, RateCurrency)> {
    let mut all: Vec<_> = day.rates.iter().map(|(currency, _)| *currency).collect();
    all.push(RateCurrency::EUR);
    let quotes = all.clone();
    all.into_iter().flat_map(move |base| {
        let quotes = quotes.clone();
        quotes
            .into_iter()
            .filter(move |quote| *quote != base)
            .map(move |quote| (base, quote))
    })
}

/// Minor units of `base` after going to `quote` and back at the mid rate.
fn there_and_back(
    day: &DailyRates,
    (base, quote): (RateCurrency, RateCurrency),
    start: i64,
    rounding: Rounding,
) -> i64 {
    let there = day.cross(base, quote).expect("both have rates");
    let back = day.cross(quote, base).expect("both have rates");
    let (middle, _) = convert_minor(start, base, &there, quote, rounding).expect("in range");
    let (end, _) = convert_minor(middle, quote, &back, base, rounding).expect("in range");
    end
}

fn hundred(currency: RateCurrency) -> i64 {
    100 * 10i64.pow(u32::from(currency.minor_digits()))
}

#[test]
fn no_round_trip_at_the_mid_rates_of_the_extract_returns_more_than_it_started_with() {
    let days = ecb::parse(ECB_EXTRACT).expect("the extract is valid");
    let mut trips = 0;
    for day in &days {
        for pair in pairs(day) {
            for start in [1, 99, 3_333, hundred(pair.0), 123_456_789] {
                let end = there_and_back(day, pair, start, Rounding::Down);
                assert!(end <= start, "{} {pair:?}: {start} became {end}", day.date);
                trips += 1;
            }
        }
    }
    assert_eq!(trips, 15 * 870 * 5);
}

/// Why conversions are not rounded half-even: on 2026-10-30, 160 of the 870 pairs would pay.
#[test]
fn half_even_rounding_would_make_round_trips_profitable() {
    let days = ecb::parse(ECB_EXTRACT).expect("the extract is valid");
    let profitable = pairs(&days[0])
        .filter(|pair| {
            let start = hundred(pair.0);
            there_and_back(&days[0], *pair, start, Rounding::HalfEven) > start
        })
        .count();
    assert_eq!((days[0].date.as_str(), profitable), ("2026-10-30", 160));
}

proptest! {
    #[test]
    fn down_and_up_enclose_the_exact_amount_within_one_unit(
        amount in any_money(),
        rate in prop_oneof![published_rate(), any_rate()],
        to in payable(),
    ) {
        let down = convert(amount, &rate, to, Rounding::Down);
        let up = convert(amount, &rate, to, Rounding::Up);
        let even = convert(amount, &rate, to, Rounding::HalfEven);
        if let (Ok(down), Ok(up), Ok(even)) = (down, up, even) {
            prop_assert_eq!(down.exact, up.exact);
            // Toward the house: rounding down leaves it something or nothing, rounding up takes it.
            prop_assert!(!down.residual.to_fraction_string().starts_with('-'));
            let taken = up.residual.to_fraction_string();
            prop_assert!(taken.starts_with('-') || taken == "0/1", "{}", taken);
            let (down, up, even) = (down.result.minor(), up.result.minor(), even.result.minor());
            prop_assert!(up - down == 0 || up - down == 1);
            prop_assert!(even == down || even == up);
        }
    }

    #[test]
    fn small_conversions_agree_with_plain_integer_arithmetic(
        minor in -1_000_000_000i64..1_000_000_000,
        rate in published_rate(),
        from in payable(),
        to in payable(),
    ) {
        let amount = Money::new(minor, from).expect("payable");
        let unit = |currency: innover_money::Currency| {
            10i128.pow(u32::from(currency.minor_digits().expect("payable")))
        };
        let above = i128::from(minor) * rate.numerator() as i128 * unit(to);
        let below = rate.denominator() as i128 * unit(from);
        let got = convert(amount, &rate, to, Rounding::Down).map(|got| got.result.minor());
        match i64::try_from(above.div_euclid(below)) {
            Ok(floor) => prop_assert_eq!(got, Ok(floor)),
            Err(_) => prop_assert_eq!(got, Err(MoneyError::OutOfRange)),
        }
    }

    #[test]
    fn no_round_trip_at_one_rate_returns_more_than_it_started_with(
        start in 0i64..1_000_000_000_000,
        rate in prop_oneof![published_rate(), any_rate()],
        from in payable(),
        to in payable(),
    ) {
        let start = Money::new(start, from).expect("payable");
        if let Ok(there) = convert(start, &rate, to, Rounding::Down) {
            let back = convert(there.result, &rate.invert(), from, Rounding::Down)
                .expect("at most the start");
            prop_assert!(back.result.minor() <= start.minor());
        }
    }

    #[test]
    fn a_round_trip_through_a_third_currency_does_not_pay_either(
        start in 0i64..1_000_000_000_000,
        rates in prop::array::uniform3(published_rate()),
        currencies in prop::array::uniform3(payable()),
    ) {
        let mut amount = Money::new(start, currencies[0]).expect("payable");
        for leg in 0..3 {
            let next = (leg + 1) % 3;
            let cross = Rate::cross(&rates[leg], &rates[next]).expect("in range");
            match convert(amount, &cross, currencies[next], Rounding::Down) {
                Ok(done) => amount = done.result,
                Err(_) => return Ok(()),
            }
        }
        prop_assert!(amount.minor() <= start);
    }

    #[test]
    fn what_the_customer_pays_for_a_fixed_amount_buys_at_least_that_amount(
        wanted in 0i64..1_000_000_000_000,
        rate in published_rate(),
        from in payable(),
        to in payable(),
    ) {
        let wanted = Money::new(wanted, to).expect("payable");
        if let Ok(price) = convert(wanted, &rate.invert(), from, Rounding::Up)
            && let Ok(bought) = convert(price.result, &rate, to, Rounding::Down)
        {
            prop_assert!(bought.result.minor() >= wanted.minor());
        }
    }

    #[test]
    fn a_finite_exact_amount_is_its_decimal(
        minor in -1_000_000_000i64..1_000_000_000,
        digits in 1i64..10_000_000,
        scale in 0u32..7,
    ) {
        let amount = Money::new(minor, currency("EUR")).expect("payable");
        let factor = rust_decimal::Decimal::new(digits, scale);
        let rate = Rate::try_from(factor).expect("positive");
        if let Ok(got) = convert(amount, &rate, currency("USD"), Rounding::Down) {
            let product = rust_decimal::Decimal::from(amount) * factor;
            prop_assert!(got.exact.is_finite());
            prop_assert_eq!(got.exact.to_string(), product.normalize().to_string());
            let residual = product - rust_decimal::Decimal::from(got.result);
            prop_assert_eq!(got.residual.to_string(), residual.normalize().to_string());
        }
    }
}
