//! Parts of a payment: whatever their sizes and order, they sum to it.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use innover_money::{Currency, Money, Rate, Rounding, convert};
use proptest::prelude::*;
use refund::model::{Legs, Refusal, Terms};

fn currency(code: &str) -> Currency {
    Currency::parse(code).unwrap()
}

fn terms(captured: (i64, i64, i64), source: &str, target: &str, rate: &str) -> Terms {
    let (source_minor, margin, target_minor) = captured;
    let captured = Legs {
        source: source_minor,
        margin,
        target: target_minor,
    };
    let rate = Rate::parse(rate).unwrap();
    Terms::new(captured, currency(source), currency(target), rate).unwrap()
}

fn plus(a: Legs, b: Legs) -> Legs {
    Legs {
        source: a.source + b.source,
        margin: a.margin + b.margin,
        target: a.target + b.target,
    }
}

fn minus(a: Legs, b: Legs) -> Legs {
    Legs {
        source: a.source - b.source,
        margin: a.margin - b.margin,
        target: a.target - b.target,
    }
}

fn within(legs: Legs, whole: Legs) -> bool {
    let fits = |part: i64, whole: i64| (0..=whole).contains(&part);
    fits(legs.source, whole.source)
        && fits(legs.margin, whole.margin)
        && fits(legs.target, whole.target)
        && legs.margin <= legs.source
}

#[test]
fn thirds_of_a_converted_payment_give_back_every_cent() {
    let payment = terms((3333, 0, 3723), "EUR", "USD", "1.1172");
    let mut refunded = Legs::default();
    let mut targets = Vec::new();
    for _ in 0..3 {
        let part = payment.part(refunded, 1111).unwrap();
        targets.push(part.target);
        refunded = plus(refunded, part);
    }
    // 1111 × 1.1172 = 1241.2092 and 2222 × 1.1172 = 2482.4184, both rounded up; then the rest.
    assert_eq!(targets, [1242, 1241, 1240]);
    assert_eq!(refunded, payment.captured());
}

#[test]
fn the_margin_goes_back_in_proportion() {
    // 25 basis points of 100.00 are 0.25; 99.75 × 1.1172 = 111.4407.
    let payment = terms((10_000, 25, 11_144), "EUR", "USD", "1.1172");
    let half = payment.part(Legs::default(), 5_000).unwrap();
    assert_eq!((half.source, half.margin), (5_000, 12));
    let rest = payment.part(half, 5_000).unwrap();
    assert_eq!((rest.source, rest.margin), (5_000, 13));
    assert_eq!(plus(half, rest), payment.captured());
}

#[test]
fn a_part_too_small_to_convert_takes_nothing_that_earlier_parts_gave() {
    let payment = terms((100, 0, 56), "JPY", "EUR", "0.00569");
    let mut refunded = Legs::default();
    let mut targets = Vec::new();
    for _ in 0..4 {
        let part = payment.part(refunded, 1).unwrap();
        targets.push(part.target);
        refunded = plus(refunded, part);
    }
    // 0.569, 1.138, 1.707 and 2.276 cents, rounded up.
    assert_eq!(targets, [1, 1, 0, 1]);
}

#[test]
fn more_than_is_left_is_refused_and_says_what_is() {
    let payment = terms((500, 0, 500), "EUR", "EUR", "1");
    let refunded = payment.part(Legs::default(), 200).unwrap();
    let refusal = payment.part(refunded, 301).unwrap_err();
    assert!(matches!(refusal, Refusal::Exceeds { left } if left.minor() == 300));
    assert!(refusal.to_string().starts_with("3.00 EUR"), "{refusal}");
    assert!(payment.part(refunded, i64::MAX).is_err());
}

#[test]
fn amounts_that_no_payment_has_make_no_terms() {
    let rate = Rate::ONE;
    for (source, margin, target) in [(0, 0, 1), (100, 100, 1), (100, -1, 1), (100, 0, 0)] {
        let captured = Legs {
            source,
            margin,
            target,
        };
        let made = Terms::new(captured, Currency::EUR, Currency::EUR, rate);
        assert!(made.is_err(), "{captured:?}");
    }
}

/// A payment as forex prices it, within one currency or across two of 0, 2 and 3 digits.
fn payment() -> impl Strategy<Value = Terms> {
    let codes = prop::sample::select(vec!["EUR", "USD", "JPY", "KWD"]);
    let rate = (1u128..1_000_000, 1u128..1_000_000);
    (1i64..10_000_000, 0u32..3_000, codes.clone(), codes, rate).prop_filter_map(
        "nothing reaches the payee",
        |(minor, basis_points, source, target, (numerator, denominator))| {
            let paid = Money::new(minor, currency(source)).unwrap();
            if source == target {
                let captured = Legs {
                    source: minor,
                    margin: 0,
                    target: minor,
                };
                return Terms::new(captured, paid.currency(), paid.currency(), Rate::ONE).ok();
            }
            let rate = Rate::new(numerator, denominator).unwrap();
            let margin = innover_money::margin(paid, basis_points).unwrap();
            let kept = paid.checked_sub(margin).unwrap();
            let got = convert(kept, &rate, currency(target), Rounding::Down).ok()?;
            let captured = Legs {
                source: minor,
                margin: margin.minor(),
                target: got.result.minor(),
            };
            Terms::new(captured, paid.currency(), currency(target), rate).ok()
        },
    )
}

proptest! {
    #[test]
    fn parts_sum_to_the_whole_exactly(payment in payment(), cuts in prop::collection::vec(1i64..1_000_000, 0..20)) {
        let whole = payment.captured();
        let mut refunded = Legs::default();
        let sizes = cuts.into_iter().map(|cut| 1 + cut % whole.source);
        for size in sizes.chain([whole.source]) {
            let size = size.min(whole.source - refunded.source);
            if size == 0 {
                break;
            }
            let part = payment.part(refunded, size).unwrap();
            prop_assert_eq!(part.source, size);
            prop_assert!(within(part, whole), "{:?}", part);
            refunded = plus(refunded, part);
            prop_assert!(within(refunded, whole), "{:?}", refunded);
        }
        prop_assert_eq!(refunded, whole);
    }

    #[test]
    fn a_part_is_the_running_total_less_the_one_before(payment in payment(), a in 1i64..10_000_000, b in 1i64..10_000_000) {
        let whole = payment.captured().source;
        let first = 1 + a % whole;
        prop_assume!(first < whole);
        let second = 1 + b % (whole - first);
        let before = payment.part(Legs::default(), first).unwrap();
        let total = payment.part(Legs::default(), first + second).unwrap();
        let part = payment.part(before, second).unwrap();
        prop_assert_eq!(part, minus(total, before));
    }

    #[test]
    fn what_is_taken_grows_with_what_is_refunded_and_never_favours_the_customers(payment in payment(), a in 1i64..10_000_000) {
        let whole = payment.captured();
        let size = 1 + a % whole.source;
        let some = payment.part(Legs::default(), size).unwrap();
        if size < whole.source {
            let more = payment.part(Legs::default(), size + 1).unwrap();
            prop_assert!(more.margin >= some.margin && more.target >= some.target);
            prop_assert!(more.source - more.margin >= some.source - some.margin);
        }
        // The payee gives back no less than the source is worth at the payment's rate.
        let kept = Money::new(some.source - some.margin, payment.source()).unwrap();
        let worth = convert(kept, &payment.rate(), payment.target(), Rounding::Down).unwrap();
        prop_assert!(some.target >= worth.result.minor().min(whole.target));
    }

    #[test]
    fn refunds_that_fail_free_their_legs_and_the_rest_still_comes_out(
        payment in payment(),
        steps in prop::collection::vec((1i64..10_000_000, any::<bool>(), 0usize..20), 0..40),
    ) {
        let whole = payment.captured();
        let mut refunded = Legs::default();
        let mut pending: Vec<Legs> = Vec::new();
        for (size, fails, which) in steps {
            if fails && !pending.is_empty() {
                let failed = pending.swap_remove(which % pending.len());
                refunded = minus(refunded, failed);
            } else {
                // Small parts, so that there are many.
                let size = 1 + size % (whole.source / 8 + 1);
                match payment.part(refunded, size) {
                    Ok(part) => {
                        prop_assert!(within(part, whole), "{:?}", part);
                        refunded = plus(refunded, part);
                        pending.push(part);
                    }
                    Err(refusal) => {
                        prop_assert!(size > whole.source - refunded.source, "{}", refusal);
                    }
                }
            }
            prop_assert!(within(refunded, whole), "{:?}", refunded);
        }
        let left = whole.source - refunded.source;
        if left > 0 {
            let rest = payment.part(refunded, left).unwrap();
            prop_assert!(within(rest, whole), "{:?}", rest);
            refunded = plus(refunded, rest);
        }
        prop_assert_eq!(refunded, whole);
    }
}
