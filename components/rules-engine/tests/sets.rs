//! The interface as a caller sees it: rule sets in both forms, decisions, explanations, errors.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use rules_engine::{Error, Fact, Outcome, Value, check, evaluate};
use serde_json::{Value as Json, json};

fn fact(name: &str, value: Value) -> Fact {
    let name = name.into();
    Fact { name, value }
}

fn amount(value: i64) -> Fact {
    fact("amount", Value::Integer(value))
}

fn country(name: &str) -> Fact {
    fact("country", Value::Text(name.into()))
}

fn set(rules: Json) -> String {
    json!({ "rules": rules }).to_string()
}

fn rule(id: &str, when: &str, outcome: &str) -> Json {
    json!({"id": id, "when": when, "outcome": outcome, "reason_codes": [id], "weight": 10})
}

fn checked(text: &str) -> Result<String, Error> {
    check(text, &[amount(0)], &[country("")])
}

#[test]
fn the_strictest_outcome_decides_and_everything_that_matched_is_explained() {
    let text = set(json!([
        rule("any", "facts.amount > 0", "approve"),
        rule("large", "facts.amount > 100", "decline"),
        rule(
            "far",
            "has(facts.country) && facts.country != 'DE'",
            "review"
        ),
        rule("nowhere", "!has(facts.country)", "review"),
    ]));
    for text in [checked(&text).unwrap(), text] {
        let decision = evaluate(&text, &[country("FR"), amount(101)]).unwrap();
        assert_eq!((decision.outcome, decision.score), (Outcome::Decline, 30));
        let ids: Vec<_> = decision.matched.iter().map(|m| m.rule.as_str()).collect();
        assert_eq!(ids, ["any", "large", "far"]);
        assert_eq!(decision.matched[1].reasons, ["large"]);
        assert_eq!(decision.matched[2].values, [country("FR")]);

        let decision = evaluate(&text, &[amount(0)]).unwrap();
        assert_eq!(decision.outcome, Outcome::Review);
        assert_eq!(decision.matched[0].absent, ["country"]);
        assert_eq!(decision.matched[0].values, []);

        let decision = evaluate(&text, &[amount(0), country("DE")]).unwrap();
        assert_eq!(
            (decision.outcome, decision.score, decision.matched.len()),
            (Outcome::Approve, 0, 0)
        );
    }
}

#[test]
fn a_check_names_every_rule_that_is_wrong() {
    let text = set(json!([
        rule("good", "true", "review"),
        rule("unknown", "facts.colour == 'red'", "review"),
        rule("typed", "facts.amount == '1'", "review"),
        rule("unread", "facts.amount >", "review"),
        rule("untested", "facts.country == 'DE'", "review"),
    ]));
    let Err(Error::InvalidRuleSet(faults)) = checked(&text) else {
        panic!("it must be refused");
    };
    let ids: Vec<_> = faults.iter().map(|fault| fault.rule.as_str()).collect();
    assert_eq!(ids, ["unknown", "typed", "unread", "untested"]);
}

#[test]
fn what_is_no_rule_set_is_refused_by_check_and_by_evaluate() {
    let many: Vec<Json> = (0..201)
        .map(|n| rule(&format!("r{n}"), "true", "review"))
        .collect();
    let heavy: Vec<Json> = (0..150)
        .map(|n| {
            rule(
                &format!("r{n}"),
                &vec!["facts.amount > 1"; 30].join(" && "),
                "review",
            )
        })
        .collect();
    for text in [
        String::new(),
        "[]".into(),
        "{}".into(),
        set(json!([])),
        set(json!([{"id": "a", "when": "true", "outcome": "maybe"}])),
        set(json!([{"id": "a", "when": "true", "outcome": "review", "colour": "red"}])),
        set(json!(many)),
        set(json!(heavy)),
        " ".repeat(3 << 20),
        checked(&set(json!([rule("a", "true", "review")])))
            .unwrap()
            .replace("\"format\":2", "\"format\":1"),
    ] {
        let start: String = text.chars().take(60).collect();
        for result in [checked(&text).err(), evaluate(&text, &[]).err()] {
            assert!(
                matches!(result, Some(Error::InvalidRuleSet(_))),
                "{start}: {result:?}"
            );
        }
    }
}

#[test]
fn what_cannot_be_evaluated_is_an_error_of_its_kind_that_names_the_rule() {
    let fails = |when: &str, facts: &[Fact]| {
        let text = set(json!([
            rule("always", "true", "decline"),
            rule("r", when, "review")
        ]));
        evaluate(&text, facts).unwrap_err()
    };
    let most = [amount(i64::MAX)];
    for when in ["facts.amount + 1 > 0 || true", "facts.amount / 0 > 1"] {
        assert!(matches!(fails(when, &most), Error::Overflow(f) if f.rule == "r"));
    }
    for when in ["facts.colour == 1", "facts.country == 'DE' || true"] {
        assert!(matches!(fails(when, &most), Error::UnknownFact(f) if f.rule == "r"));
    }
    for (when, given) in [
        ("facts.amount > 1", fact("amount", Value::Text("2".into()))),
        ("facts.amount", amount(1)),
        ("1 in facts.amount", amount(1)),
        ("size(facts.amount) > 1", amount(1)),
        ("facts.amount in ['1', facts.amount]", amount(1)),
        ("!facts.amount", amount(1)),
    ] {
        let error = fails(when, &[given]);
        assert!(
            matches!(&error, Error::TypeMismatch(f) if f.rule == "r"),
            "{when}: {error:?}"
        );
    }
}

#[test]
fn facts_keep_their_bounds_and_each_is_given_once() {
    let text = set(json!([rule("a", "true", "review")]));
    let long = fact("text", Value::Text("x".repeat(1_025)));
    let wide = fact("list", Value::Integers(vec![0; 201]));
    let many: Vec<Fact> = (0..201)
        .map(|n| fact(&format!("f{n}"), Value::Integer(n)))
        .collect();
    for facts in [vec![long], vec![wide], many] {
        let error = evaluate(&text, &facts).unwrap_err();
        assert!(matches!(error, Error::LimitExceeded(_)), "{error:?}");
    }
    let twice = evaluate(&text, &[amount(1), country("DE"), amount(2)]).unwrap_err();
    assert!(matches!(twice, Error::UnknownFact(f) if f.message.contains("`amount`")));
}

#[test]
fn more_sets_than_are_kept_parsed_each_decide_by_their_own_rules() {
    for round in 0..3 {
        for limit in 0..10 {
            let text = set(json!([rule(
                "r",
                &format!("facts.amount > {limit}"),
                "review"
            )]));
            let decision = evaluate(&text, &[amount(5)]).unwrap();
            assert_eq!(
                decision.matched.len(),
                usize::from(limit < 5),
                "{round}, {limit}"
            );
        }
    }
}
