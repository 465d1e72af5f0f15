//! What a request brings, and what a stored set decides.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use rules::{
    facts::Facts,
    model::{Outcome, Rule, RuleSet},
    velocity::Velocity,
};
use serde_json::{Value, json};

fn with(name: &str, value: Value) -> Value {
    let mut all = json!({
        "amount_minor": 1, "amount_major": 0, "currency": "EUR", "target_currency": "EUR",
        "cross_currency": false, "payer_owner": "a", "payee_owner": "b", "same_owner": false,
    });
    all[name] = value;
    all
}

#[test]
fn a_stored_set_decides_as_the_one_it_was_compiled_from() {
    let rule = |id: &str, when: &str| Rule {
        id: id.into(),
        description: String::new(),
        when: when.into(),
        outcome: Outcome::Review,
        reason_codes: vec![id.into()],
        weight: 1,
    };
    let written = vec![
        rule(
            "a",
            "has(facts.amount_eur_minor) ? facts.amount_eur_minor > 1 : facts.currency in ['EUR', 'USD']",
        ),
        rule(
            "b",
            "!facts.same_owner && size(facts.payer_owner) * -2 < facts.amount_major % 7 - 1",
        ),
        rule(
            "c",
            "facts.payer_owner.startsWith('x') || facts.cross_currency",
        ),
    ];
    let set = RuleSet::compile(written.clone()).unwrap();
    let stored = set.stored();
    let facts = Facts::read(
        with("amount_major", json!(3)).as_object().unwrap(),
        &Velocity::default(),
    )
    .unwrap();
    let decision = set.decide(&facts).unwrap();
    assert_eq!(decision.reason_codes, ["a", "b"]);
    // Damaged, or written by another engine: read again from the rules.
    for stored in [
        stored,
        "",
        "{}",
        "{\"format\":1,\"conditions\":[]}",
        &stored.replace("\"format\":2", "\"format\":0"),
    ] {
        let restored = RuleSet::restore(written.clone(), stored).unwrap();
        assert_eq!(restored, set, "{stored}");
        assert_eq!(restored.decide(&facts).unwrap(), decision);
    }
}

#[test]
fn facts_are_complete_known_and_typed() {
    let read = |name: &str, value: Value| {
        Facts::read(with(name, value).as_object().unwrap(), &Velocity::default())
    };
    assert!(read("amount_eur_minor", json!(1)).is_ok());
    assert!(read("amount_eur_minor", Value::Null).is_ok());
    for (name, value) in [
        ("amount_minor", json!(1.5)),
        ("amount_minor", json!("1")),
        ("amount_minor", json!(9_223_372_036_854_775_808u64)),
        ("amount_minor", Value::Null),
        ("currency", json!(1)),
        ("currency", json!("x".repeat(2_000))),
        ("same_owner", json!("false")),
        ("amount_eur_minor", json!(true)),
        ("colour", json!("red")),
    ] {
        let error = read(name, value.clone()).unwrap_err();
        assert_eq!(error.name, name, "{name} = {value}");
    }
}
