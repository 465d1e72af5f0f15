use std::cmp::Ordering;

use innover_money::{Currency, Minor, Money, MoneyError, margin};
use proptest::prelude::*;
use rust_decimal::Decimal;

use super::{any_money, currency, money, payable};

#[test]
fn decimals_become_minor_units() {
    for (amount, code, minor) in [
        ("100.00", "EUR", 10_000),
        ("100", "EUR", 10_000),
        ("100.5", "EUR", 10_050),
        ("0.01", "EUR", 1),
        ("-0.01", "EUR", -1),
        ("-0", "EUR", 0),
        ("007.10", "EUR", 710),
        ("5", "JPY", 5),
        ("0.001", "KWD", 1),
        ("1.2345", "CLF", 12_345),
        ("92233720368547758.07", "EUR", i64::MAX),
        ("-92233720368547758.08", "EUR", i64::MIN),
        ("9223372036854775807", "JPY", i64::MAX),
        ("0000000000000000000009223372036854775807", "JPY", i64::MAX),
    ] {
        let parsed = Money::parse(amount, currency(code));
        assert_eq!(parsed.map(Money::minor), Ok(minor), "{amount} {code}");
    }
}

#[test]
fn what_is_not_a_strict_decimal_is_refused_for_its_own_reason() {
    use MoneyError::{NotADecimal, OutOfRange, TooManyDigits};
    let long = "0".repeat(41);
    for (amount, code, error) in [
        ("", "EUR", NotADecimal),
        ("-", "EUR", NotADecimal),
        (".", "EUR", NotADecimal),
        (".5", "EUR", NotADecimal),
        ("5.", "EUR", NotADecimal),
        ("-.5", "EUR", NotADecimal),
        ("--5", "EUR", NotADecimal),
        ("+5", "EUR", NotADecimal),
        (" 5", "EUR", NotADecimal),
        ("5 ", "EUR", NotADecimal),
        ("5\n", "EUR", NotADecimal),
        ("1e3", "EUR", NotADecimal),
        ("1_000", "EUR", NotADecimal),
        ("1,000", "EUR", NotADecimal),
        ("1.0.0", "EUR", NotADecimal),
        ("1.-5", "EUR", NotADecimal),
        ("0x10", "EUR", NotADecimal),
        ("NaN", "EUR", NotADecimal),
        ("٣", "EUR", NotADecimal),
        ("1.000", "EUR", TooManyDigits { max: 2 }),
        ("1.0", "JPY", TooManyDigits { max: 0 }),
        ("1.0000", "KWD", TooManyDigits { max: 3 }),
        ("1.00000", "UYW", TooManyDigits { max: 4 }),
        ("92233720368547758.08", "EUR", OutOfRange),
        ("-92233720368547758.09", "EUR", OutOfRange),
        ("9223372036854775808", "JPY", OutOfRange),
        ("99999999999999999999999999999999999999", "JPY", OutOfRange),
        (long.as_str(), "EUR", OutOfRange),
    ] {
        let parsed = Money::parse(amount, currency(code));
        assert_eq!(parsed, Err(error), "{amount:?} {code}");
    }
}

#[test]
fn amounts_print_with_all_their_minor_digits() {
    for (minor, code, text) in [
        (10_000, "EUR", "100.00"),
        (-5, "EUR", "-0.05"),
        (0, "KWD", "0.000"),
        (5, "JPY", "5"),
        (-5, "JPY", "-5"),
        (1, "CLF", "0.0001"),
        (i64::MIN, "EUR", "-92233720368547758.08"),
        (i64::MIN, "JPY", "-9223372036854775808"),
    ] {
        let amount = Money::new(minor, currency(code)).expect("payable");
        assert_eq!(amount.to_decimal_string(), text);
        assert_eq!(amount.to_string(), format!("{text} {code}"));
        assert_eq!(Decimal::from(amount).to_string(), text);
    }
}

#[test]
fn amounts_of_two_currencies_never_mix() {
    let (euro, yen) = (money("1", "EUR"), money("1", "JPY"));
    let error = MoneyError::CurrencyMismatch {
        expected: "EUR",
        got: "JPY",
    };
    assert_eq!(euro.checked_add(yen), Err(error.clone()));
    assert_eq!(euro.checked_sub(yen), Err(error.clone()));
    assert_eq!(euro.compare(yen), Err(error));
    assert_eq!(euro.compare(money("2", "EUR")), Ok(Ordering::Less));
}

#[test]
fn arithmetic_beyond_64_bits_is_an_error() {
    let euros = |minor| Money::new(minor, Currency::EUR).expect("payable");
    let (most, least, one) = (euros(i64::MAX), euros(i64::MIN), euros(1));
    assert_eq!(most.checked_add(one), Err(MoneyError::OutOfRange));
    assert_eq!(least.checked_sub(one), Err(MoneyError::OutOfRange));
    assert_eq!(least.checked_neg(), Err(MoneyError::OutOfRange));
    assert_eq!(most.checked_neg(), Ok(euros(-i64::MAX)));
    let all = [Minor(i64::MAX), Minor(1), Minor(-1)];
    assert_eq!(Minor::sum(all), Ok(Minor(i64::MAX)));
    assert_eq!(
        Minor::sum([Minor(i64::MAX), Minor(1)]),
        Err(MoneyError::OutOfRange)
    );
}

#[test]
fn units_left_over_go_to_the_largest_remainders_and_ties_to_the_first() {
    for (amount, weights, parts) in [
        ("100", &[1, 1, 1][..], &["34", "33", "33"][..]),
        ("-100", &[1, 1, 1], &["-34", "-33", "-33"]),
        ("5", &[3, 7], &["2", "3"]),
        ("1", &[0, 1], &["0", "1"]),
        ("10", &[1, 2, 4], &["1", "3", "6"]),
        ("2", &[1, 1, 1, 1], &["1", "1", "0", "0"]),
        ("0", &[5, 5], &["0", "0"]),
        (
            "9223372036854775807",
            &[u64::MAX, u64::MAX],
            &["4611686018427387904", "4611686018427387903"],
        ),
        ("-9223372036854775808", &[7], &["-9223372036854775808"]),
    ] {
        let split = money(amount, "JPY").split(weights).expect("splittable");
        let split: Vec<_> = split.iter().map(|part| part.to_decimal_string()).collect();
        assert_eq!(split, parts, "{amount} by {weights:?}");
    }
}

#[test]
fn a_split_without_weight_or_with_too_many_parts_is_refused() {
    let amount = money("1", "EUR");
    for weights in [vec![], vec![0], vec![0, 0], vec![1; 8_191]] {
        assert_eq!(amount.split(&weights), Err(MoneyError::NotSplittable));
    }
    assert_eq!(amount.split_even(0), Err(MoneyError::NotSplittable));
    assert_eq!(
        amount.split_even(usize::MAX),
        Err(MoneyError::NotSplittable)
    );
    assert_eq!(amount.split_even(8_190).map(|parts| parts.len()), Ok(8_190));
}

#[test]
fn the_margin_is_rounded_up_to_the_next_minor_unit() {
    for (amount, basis_points, expected) in [
        ("33.33", 25, "0.09"),
        ("100.00", 25, "0.25"),
        ("100.00", 0, "0.00"),
        ("0.01", 1, "0.01"),
        ("0.00", 9_999, "0.00"),
        ("100.00", 10_000, "100.00"),
        ("92233720368547758.07", 10_000, "92233720368547758.07"),
    ] {
        let got = margin(money(amount, "EUR"), basis_points).map(Money::to_decimal_string);
        assert_eq!(got.as_deref(), Ok(expected), "{amount} at {basis_points}");
    }
    let amount = money("1", "EUR");
    let error = MoneyError::MarginOutOfRange {
        basis_points: 10_001,
    };
    assert_eq!(margin(amount, 10_001), Err(error));
    assert_eq!(
        margin(money("-1", "EUR"), 1),
        Err(MoneyError::NegativeAmount)
    );
}

#[test]
fn money_in_json_is_a_decimal_string_and_may_arrive_as_a_whole_number() {
    let amount = money("100", "EUR");
    let text = r#"{"amount":"100.00","currency":"EUR"}"#;
    assert_eq!(serde_json::to_string(&amount).ok().as_deref(), Some(text));
    for accepted in [text, r#"{"amount":100,"currency":"EUR"}"#] {
        assert_eq!(serde_json::from_str::<Money>(accepted).ok(), Some(amount));
    }
    for refused in [
        r#"{"amount":100.0,"currency":"EUR"}"#,
        r#"{"amount":1e2,"currency":"EUR"}"#,
        r#"{"amount":"100.001","currency":"EUR"}"#,
        r#"{"amount":"100","currency":"XAU"}"#,
        r#"{"amount":99999999999999999999,"currency":"EUR"}"#,
        r#"{"amount":null,"currency":"EUR"}"#,
        r#"{"amount":"100"}"#,
    ] {
        assert!(serde_json::from_str::<Money>(refused).is_err(), "{refused}");
    }
}

proptest! {
    #[test]
    fn what_is_printed_reads_back(amount in any_money()) {
        let text = amount.to_decimal_string();
        prop_assert_eq!(Money::parse(&text, amount.currency()), Ok(amount));
        let json = serde_json::to_string(&amount).expect("serializes");
        prop_assert_eq!(serde_json::from_str::<Money>(&json).ok(), Some(amount));
    }

    #[test]
    fn no_text_makes_the_parser_panic_and_what_it_accepts_is_the_value(
        text in "\\PC{0,44}|-?[0-9]{0,22}\\.?[0-9]{0,6}",
        currency in payable(),
    ) {
        if let Ok(amount) = Money::parse(&text, currency) {
            let value: Decimal = text.parse().expect("an accepted amount is a decimal");
            prop_assert_eq!(value, Decimal::from(amount));
        }
    }

    #[test]
    fn addition_agrees_with_wider_integers(a in any::<i64>(), b in any::<i64>()) {
        let wide = i64::try_from(i128::from(a) + i128::from(b)).ok().map(Minor);
        prop_assert_eq!(Minor(a).checked_add(Minor(b)).ok(), wide);
        let wide = i64::try_from(i128::from(a) - i128::from(b)).ok().map(Minor);
        prop_assert_eq!(Minor(a).checked_sub(Minor(b)).ok(), wide);
    }

    #[test]
    fn parts_always_sum_to_the_amount_and_stay_within_one_unit_of_their_share(
        amount in any_money(),
        weights in prop::collection::vec(prop_oneof![0u64..100, any::<u64>()], 1..40),
    ) {
        let total: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
        prop_assume!(total > 0);
        let parts = amount.split(&weights).expect("splittable");
        let sum = parts.iter().map(|part| i128::from(part.minor())).sum::<i128>();
        prop_assert_eq!(sum, i128::from(amount.minor()));
        for (part, weight) in parts.iter().zip(&weights) {
            let magnitude = u128::from(amount.minor().unsigned_abs());
            let floor = magnitude * u128::from(*weight) / total;
            let got = u128::from(part.minor().unsigned_abs());
            prop_assert!(got == floor || got == floor + 1);
            prop_assert!(*weight > 0 || got == 0);
        }
    }

    #[test]
    fn even_parts_differ_by_at_most_one_unit_the_larger_first(
        amount in any_money(),
        parts in 1usize..200,
    ) {
        let split = amount.split_even(parts).expect("splittable");
        let sizes: Vec<_> = split.iter().map(|part| part.minor().unsigned_abs()).collect();
        prop_assert!(sizes.is_sorted_by(|a, b| a >= b));
        prop_assert!(sizes[0] - sizes[parts - 1] <= 1);
    }

    #[test]
    fn the_margin_is_the_smallest_amount_that_covers_it(
        minor in 0..i64::MAX,
        basis_points in 0u32..=10_000,
    ) {
        let amount = Money::new(minor, Currency::EUR).expect("payable");
        let margin = i128::from(margin(amount, basis_points).expect("in range").minor());
        let exact = i128::from(minor) * i128::from(basis_points);
        prop_assert!(margin * 10_000 >= exact && (margin - 1) * 10_000 < exact);
        prop_assert!(margin <= i128::from(minor));
    }
}
