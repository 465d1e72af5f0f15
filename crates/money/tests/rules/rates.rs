use innover_money::{MoneyError, Rate};
use proptest::prelude::*;
use rust_decimal::Decimal;

use super::{any_rate, published_rate, rate};

#[test]
fn rates_are_read_exactly_and_reduced() {
    for (text, numerator, denominator) in [
        ("1.1172", 2_793, 2_500),
        ("1", 1, 1),
        ("0.50", 1, 2),
        ("1912400", 1_912_400, 1),
        ("2500/2793", 2_500, 2_793),
        ("4/2", 2, 1),
        (
            "99999999999999999999999999999999999999",
            10u128.pow(38) - 1,
            1,
        ),
        ("0.0000000000000000000000000000000000001", 1, 10u128.pow(37)),
    ] {
        let read = Rate::parse(text).map(|read| (read.numerator(), read.denominator()));
        assert_eq!(read, Ok((numerator, denominator)), "{text}");
    }
}

#[test]
fn what_is_no_positive_decimal_or_fraction_is_no_rate() {
    for text in [
        "", "0", "0.000", "-1", "+1", "1.", ".1", "1e3", " 1", "1 ", "N/A", "1,1", "1.1.1", "1/0",
        "0/1", "1/", "/1", "1/2/3", "1.5/2", "-1/2",
    ] {
        assert_eq!(Rate::parse(text), Err(MoneyError::NotARate), "{text:?}");
    }
    let long = "1".repeat(39);
    // 10^-38: its denominator has 39 digits.
    let small = format!("0.{}1", "0".repeat(37));
    let longer = "1".repeat(1_000);
    for text in [
        long.as_str(),
        small.as_str(),
        longer.as_str(),
        "1/1000000000000000000000000000000000000000",
    ] {
        assert_eq!(Rate::parse(text), Err(MoneyError::RateOutOfRange), "{text}");
    }
    assert_eq!(Rate::parse_decimal("1/2"), Err(MoneyError::NotARate));
}

#[test]
fn a_cross_rate_has_no_rounding_at_the_euro() {
    let (dollar, yen) = (rate("1.1172"), rate("175.68"));
    let cross = Rate::cross(&dollar, &yen).expect("in range");
    assert_eq!(cross, Rate::new(1_756_800, 11_172).expect("in range"));
    assert_eq!(cross.to_string(), "146400/931");
    assert_eq!(Rate::cross(&Rate::ONE, &dollar), Ok(dollar));
    assert_eq!(Rate::cross(&dollar, &Rate::ONE), Ok(dollar.invert()));
}

#[test]
fn rates_are_shown_rounded_to_significant_digits() {
    for (text, digits, shown) in [
        ("146400/931", 7, "157.2503"),
        ("1.1172", 7, "1.1172"),
        ("1/3", 5, "0.33333"),
        ("2/3", 5, "0.66667"),
        ("100/2027517", 6, "0.0000493214"),
        ("9.9995", 4, "10"),
        ("0.99995", 4, "1"),
        ("1.0005", 4, "1"),
        ("1.0015", 4, "1.002"),
        ("1912400", 3, "1912400"),
        ("12345.5", 3, "12346"),
        ("12344.5", 3, "12344"),
        ("1.25", 0, "1"),
    ] {
        assert_eq!(rate(text).to_decimal(digits), shown, "{text} to {digits}");
    }
}

#[test]
fn decimals_of_the_decimal_crate_become_rates() {
    let from = |text: &str| Rate::try_from(text.parse::<Decimal>().expect("a decimal"));
    assert_eq!(from("1.1172"), Ok(rate("1.1172")));
    assert_eq!(
        from("0.0000000000000000000000000001").map(|r| r.numerator()),
        Ok(1)
    );
    assert_eq!(from("0"), Err(MoneyError::NotARate));
    assert_eq!(from("-1"), Err(MoneyError::NotARate));
}

#[test]
fn a_product_beyond_38_digits_is_an_error() {
    let large = rate("99999999999999999999999999999999999999");
    assert_eq!(large.times(&rate("2")), Err(MoneyError::RateOutOfRange));
    assert_eq!(large.times(&large.invert()), Ok(Rate::ONE));
}

proptest! {
    #[test]
    fn a_rate_reads_back_from_its_text(rate in prop_oneof![published_rate(), any_rate()]) {
        prop_assert_eq!(Rate::parse(&rate.to_string()), Ok(rate));
        let json = serde_json::to_string(&rate).expect("serializes");
        prop_assert_eq!(serde_json::from_str::<Rate>(&json).ok(), Some(rate));
    }

    #[test]
    fn inverting_twice_changes_nothing(rate in any_rate()) {
        prop_assert_eq!(rate.invert().invert(), rate);
        prop_assert_eq!(rate.times(&rate.invert()), Ok(Rate::ONE));
    }

    #[test]
    fn crossing_there_and_back_is_one(a in published_rate(), b in published_rate()) {
        let there = Rate::cross(&a, &b).expect("in range");
        let back = Rate::cross(&b, &a).expect("in range");
        prop_assert_eq!(there, back.invert());
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC{0,90}|[0-9]{0,42}[./]?[0-9]{0,42}") {
        if let Ok(rate) = Rate::parse(&text) {
            prop_assert_eq!(Rate::parse(&rate.to_string()), Ok(rate));
        }
    }

    #[test]
    fn published_rates_print_as_the_decimal_crate_does(
        digits in 1i64..10_000_000, scale in 0u32..7,
    ) {
        let decimal = Decimal::new(digits, scale);
        let rate = Rate::try_from(decimal).expect("positive");
        prop_assert_eq!(rate.to_string(), decimal.normalize().to_string());
    }
}
