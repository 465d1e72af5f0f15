//! What the shipped model says of a subject, and what it refuses.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use proptest::prelude::*;
use scorer::{Error, Fact, MODEL_JSON, Value, limits, model::Model};

fn fact(name: &str, value: Value) -> Fact {
    Fact {
        name: name.into(),
        value,
    }
}

fn ordinary() -> Vec<Fact> {
    vec![
        fact("amount_eur_minor", Value::Integer(3_500)),
        fact("cross_currency", Value::Boolean(false)),
        fact("currency", Value::Text("EUR".into())),
        fact("target_currency", Value::Text("EUR".into())),
        fact("payments_24h", Value::Integer(1)),
        fact("amount_24h_minor", Value::Integer(4_000)),
        fact("new_payee", Value::Boolean(false)),
        fact("hour_utc", Value::Integer(14)),
        fact("reason_codes", Value::Texts(vec![])),
        fact("priority", Value::Text("normal".into())),
        fact("payer_account_age_days", Value::Integer(900)),
        fact("payer_tier", Value::Integer(2)),
    ]
}

fn suspicious() -> Vec<Fact> {
    vec![
        fact("amount_eur_minor", Value::Integer(300_000)),
        fact("cross_currency", Value::Boolean(true)),
        fact("currency", Value::Text("EUR".into())),
        fact("target_currency", Value::Text("USD".into())),
        fact("payments_24h", Value::Integer(9)),
        fact("amount_24h_minor", Value::Integer(2_500_000)),
        fact("new_payee", Value::Boolean(true)),
        fact("hour_utc", Value::Integer(3)),
        fact("reason_codes", Value::Texts(vec![])),
        fact("priority", Value::Text("high".into())),
        fact("payer_account_age_days", Value::Integer(4)),
        fact("payer_tier", Value::Integer(0)),
    ]
}

#[test]
fn an_ordinary_payment_scores_low_and_a_suspicious_one_high() {
    let (low, high) = (
        scorer::score(&ordinary()).unwrap(),
        scorer::score(&suspicious()).unwrap(),
    );
    assert!(low.score < 150, "{low:?}");
    assert!(high.score > 600, "{high:?}");
    assert!(high.reasons[0].points > 0);
    assert_eq!(low.model, "shipped/1");
}

#[test]
fn reasons_add_up_to_the_score_and_the_largest_comes_first() {
    let base = i64::from(Model::read(MODEL_JSON).unwrap().base);
    for facts in [ordinary(), suspicious(), vec![]] {
        let scored = scorer::score(&facts).unwrap();
        let sum = base
            + scored
                .reasons
                .iter()
                .map(|r| i64::from(r.points))
                .sum::<i64>();
        assert_eq!(i64::from(scored.score), sum.clamp(0, 1_000), "{scored:?}");
        let sizes: Vec<u32> = scored
            .reasons
            .iter()
            .map(|r| r.points.unsigned_abs())
            .collect();
        assert!(sizes.is_sorted_by(|a, b| a >= b), "{scored:?}");
        assert!(!sizes.contains(&0));
    }
}

#[test]
fn of_whom_nothing_is_known_the_score_is_the_base_without_reasons() {
    let scored = scorer::score(&[]).unwrap();
    assert_eq!(
        i32::from(scored.score),
        Model::read(MODEL_JSON).unwrap().base
    );
    assert!(scored.reasons.is_empty());
}

#[test]
fn facts_the_model_does_not_know_are_ignored() {
    let mut facts = suspicious();
    facts.insert(0, fact("shoe_size", Value::Texts(vec!["42".into()])));
    assert_eq!(scorer::score(&facts), scorer::score(&suspicious()));
}

#[test]
fn a_feature_of_another_type_is_refused_by_name() {
    for feature in scorer::features() {
        let wrong = match feature.kind.as_str() {
            "boolean" => Value::Integer(1),
            _ => Value::Boolean(true),
        };
        assert_eq!(
            scorer::score(&[fact(&feature.name, wrong)]),
            Err(Error::WrongType(feature.name))
        );
    }
}

#[test]
fn too_many_facts_and_too_long_lists_are_refused() {
    let many = vec![fact("x", Value::Boolean(true)); limits::FACTS_MAX + 1];
    assert!(matches!(scorer::score(&many), Err(Error::LimitExceeded(_))));
    let long = Value::Texts(vec!["x".into(); limits::LIST_ITEMS_MAX + 1]);
    assert_eq!(
        scorer::score(&[fact("reason_codes", long)]),
        Err(Error::LimitExceeded("reason_codes".into()))
    );
}

#[test]
fn every_declared_feature_is_optional_and_named_once() {
    let features = scorer::features();
    let mut names: Vec<&str> = features.iter().map(|f| f.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), features.len());
    assert_eq!(features.len(), 12);
    assert!(features.iter().all(|f| !f.required));
}

#[test]
fn a_model_with_points_for_other_bins_than_it_has_is_refused() {
    let broken = MODEL_JSON.replacen("\"points\":[", "\"points\":[0,", 1);
    assert!(Model::read(&broken).unwrap_err().contains("points for"));
}

proptest! {
    #[test]
    fn any_values_of_the_right_types_give_a_score_in_range(
        amount in any::<i64>(), day in any::<i64>(), many in any::<i64>(), tier in any::<i64>(),
        age in any::<i64>(), hour in any::<i64>(), cross in any::<bool>(), new in any::<bool>(),
        source in "[A-Z]{3}", target in ".{0,5}", codes in proptest::collection::vec("[a-z_]{0,30}", 0..5), priority in ".{0,8}",
        taken in proptest::collection::vec(any::<bool>(), 12),
    ) {
        let all = vec![
            fact("amount_eur_minor", Value::Integer(amount)),
            fact("amount_24h_minor", Value::Integer(day)),
            fact("payments_24h", Value::Integer(many)),
            fact("payer_tier", Value::Integer(tier)),
            fact("payer_account_age_days", Value::Integer(age)),
            fact("hour_utc", Value::Integer(hour)),
            fact("cross_currency", Value::Boolean(cross)),
            fact("new_payee", Value::Boolean(new)),
            fact("currency", Value::Text(source)),
            fact("target_currency", Value::Text(target)),
            fact("reason_codes", Value::Texts(codes)),
            fact("priority", Value::Text(priority)),
        ];
        let facts: Vec<Fact> = all.into_iter().zip(taken).filter(|(_, t)| *t).map(|(f, _)| f).collect();
        let scored = scorer::score(&facts).unwrap();
        prop_assert!(scored.score <= 1_000);
        prop_assert_eq!(scorer::score(&facts).unwrap(), scored);
    }
}
