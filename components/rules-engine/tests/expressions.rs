//! What a condition accepts, what it refuses when it is stored, what fails when it is evaluated.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use proptest::prelude::*;
use rules_engine::{
    Fact, Value,
    expr::{Condition, EvalError, ExprError},
    facts::{Given, Known},
};

fn fact(name: &str, value: Value) -> Fact {
    let name = name.into();
    Fact { name, value }
}

fn text(value: &str) -> Value {
    Value::Text(value.into())
}

fn required(amount_minor: i64) -> Vec<Fact> {
    vec![
        fact("amount_minor", Value::Integer(amount_minor)),
        fact("amount_major", Value::Integer(33)),
        fact("currency", text("EUR")),
        fact("target_currency", text("USD")),
        fact("cross_currency", Value::Boolean(true)),
        fact("payer_owner", text("usr_a")),
        fact("payee_owner", text("usr_b")),
        fact("same_owner", Value::Boolean(false)),
    ]
}

fn optional() -> Vec<Fact> {
    vec![fact("amount_eur_minor", Value::Integer(3_333))]
}

/// Every fact, with this amount.
fn facts(amount_minor: i64) -> Vec<Fact> {
    [required(amount_minor), optional()].concat()
}

fn compile(source: &str) -> Result<Condition, ExprError> {
    let known = Known::new(&required(0), &optional());
    Condition::compile(source, Some(&known))
}

fn evaluate(condition: &Condition, facts: &[Fact]) -> Result<bool, EvalError> {
    let given = Given::new(facts).unwrap();
    let named = condition.named().iter();
    let values: Vec<_> = named.map(|name| given.get(name)).collect();
    condition.holds(&values)
}

fn holds(source: &str, facts: &[Fact]) -> Result<bool, EvalError> {
    let checked = compile(source).unwrap_or_else(|e| panic!("{source}: {e}"));
    let unchecked = Condition::compile(source, None).unwrap();
    let result = evaluate(&checked, facts);
    assert_eq!(evaluate(&unchecked, facts), result, "{source}, unchecked");
    result
}

#[test]
fn conditions_say_what_they_say_in_cel() {
    let here = facts(3_333);
    for (source, expected) in [
        ("true", true),
        ("facts.amount_minor == 3333", true),
        ("facts.amount_minor != 3333", false),
        (
            "facts.amount_minor > 3332 && facts.amount_minor < 3334",
            true,
        ),
        (
            "facts.amount_minor >= 3333 && facts.amount_minor <= 3333",
            true,
        ),
        ("facts.amount_minor - 1 == 2 * 1666", true),
        (
            "facts.amount_minor / 10 == 333 && facts.amount_minor % 10 == 3",
            true,
        ),
        ("-facts.amount_minor < -3000", true),
        ("-7 / 2 == -3 && -7 % 2 == -1", true),
        ("1 + 2 * 3 == 7", true),
        (
            "facts.currency == 'EUR' && facts.target_currency == \"USD\"",
            true,
        ),
        (
            "facts.currency in ['USD', 'GBP'] || facts.target_currency in ['USD']",
            true,
        ),
        ("facts.amount_major in [1, 33]", true),
        ("!(facts.currency in ['USD'])", true),
        ("facts.cross_currency && !facts.same_owner", true),
        ("facts.cross_currency == true", true),
        (
            "facts.payer_owner.startsWith('usr_') && facts.payer_owner.endsWith('_a')",
            true,
        ),
        ("facts.payer_owner.contains('sr')", true),
        (
            "size(facts.currency) == 3 && facts.currency.size() == 3",
            true,
        ),
        ("size(['a', 'b']) == 2", true),
        ("facts.currency < 'FFF'", true),
        (
            "has(facts.amount_eur_minor) ? facts.amount_eur_minor > 1 : false",
            true,
        ),
        ("false && 1 / 0 == 1", false),
    ] {
        assert_eq!(holds(source, &here), Ok(expected), "{source}");
    }
}

#[test]
fn what_cannot_be_computed_is_an_error_and_nothing_absorbs_it() {
    let here = facts(i64::MAX);
    for (source, error) in [
        ("facts.amount_minor + 1 > 0", EvalError::Overflow),
        ("facts.amount_minor * 2 > 0", EvalError::Overflow),
        ("-facts.amount_minor - 2 < 0", EvalError::Overflow),
        // In CEL itself these two are true.
        ("facts.amount_minor + 1 > 0 || true", EvalError::Overflow),
        (
            "facts.amount_minor * facts.amount_minor > 0 || facts.cross_currency",
            EvalError::Overflow,
        ),
        (
            "facts.amount_minor / (facts.amount_major - 33) > 0",
            EvalError::DivisionByZero,
        ),
        ("facts.amount_minor % 0 == 0", EvalError::DivisionByZero),
    ] {
        assert_eq!(holds(source, &here), Err(error), "{source}");
    }
}

#[test]
fn unknown_names_wrong_types_and_loops_are_refused_when_a_rule_is_stored() {
    for (source, said) in [
        ("", "empty"),
        ("facts.amount", "`facts.amount` is unknown"),
        ("amount_minor > 1", "`amount_minor` is unknown"),
        (
            "request.amount_minor > 1",
            "`request.amount_minor` is unknown",
        ),
        ("has(facts.nothing)", "`facts.nothing` is unknown"),
        ("facts.amount_minor.x > 1", "unknown"),
        ("facts['amount_minor'] > 1", "not available"),
        ("facts.amount_minor", "a rule needs true or false"),
        (
            "facts.amount_minor && true",
            "`&&` needs bool here, not int",
        ),
        ("facts.currency > 5", "needs string here, not int"),
        ("facts.amount_minor == '5'", "needs int here, not string"),
        (
            "facts.currency + 'x' == 'EURx'",
            "`+` needs int here, not string",
        ),
        ("facts.cross_currency > false", "does not compare bool"),
        ("facts.amount_minor > 1.5", "no floats"),
        ("facts.amount_minor > 1u", "literals are"),
        ("facts.currency == null", "literals are"),
        ("facts.currency in [1]", "needs list of strings here"),
        (
            "facts.currency in facts.payer_owner",
            "needs list of strings here",
        ),
        ("facts.currency in ['EUR', 1]", "one type"),
        ("1 in []", "a list holds"),
        ("{'a': 1} == {'a': 1}", "not available"),
        ("['a'].all(x, x == 'a')", "no loops"),
        ("['a'].exists(x, x == 'a')", "no loops"),
        ("size(['a'].map(x, x)) == 1", "no loops"),
        ("matches(facts.currency, '.*')", "not available"),
        ("facts.currency.matches('.*')", "not available"),
        (
            "timestamp('2026-10-30T00:00:00Z') > timestamp('2026-10-29T00:00:00Z')",
            "not available",
        ),
        ("facts.amount_minor > 9223372036854775808", ""),
        ("facts.amount_minor >", ""),
        ("facts.amount_minor = 1", ""),
        ("true true", ""),
    ] {
        let error = compile(source).map(|_| ()).expect_err(source).to_string();
        assert!(error.contains(said), "{source}: {error}");
    }
}

#[test]
fn a_fact_that_may_be_absent_is_tested_before_it_is_used() {
    for source in [
        "has(facts.amount_eur_minor) && facts.amount_eur_minor > 1",
        "!has(facts.amount_eur_minor) || facts.amount_eur_minor > 1",
        "!(!has(facts.amount_eur_minor)) && facts.amount_eur_minor > 1",
        "has(facts.amount_eur_minor) ? facts.amount_eur_minor > 1 : facts.amount_major > 1",
        "(facts.cross_currency && has(facts.amount_eur_minor)) && facts.amount_eur_minor > 1",
    ] {
        assert!(compile(source).is_ok(), "{source}");
    }
    for source in [
        "facts.amount_eur_minor > 1",
        "facts.amount_eur_minor > 1 && has(facts.amount_eur_minor)",
        "has(facts.amount_eur_minor) || facts.amount_eur_minor > 1",
        "!has(facts.amount_eur_minor) && facts.amount_eur_minor > 1",
        "(facts.cross_currency || has(facts.amount_eur_minor)) && facts.amount_eur_minor > 1",
        "has(facts.amount_eur_minor) ? true : facts.amount_eur_minor > 1",
    ] {
        let error = compile(source).expect_err(source).to_string();
        assert!(error.contains("may be absent"), "{source}: {error}");
    }
    let absent = required(3_333);
    assert_eq!(
        holds(
            "has(facts.amount_eur_minor) && facts.amount_eur_minor > 1",
            &absent
        ),
        Ok(false)
    );
    assert_eq!(
        holds(
            "!has(facts.amount_eur_minor) && facts.amount_major > 1",
            &absent
        ),
        Ok(true)
    );
}

#[test]
fn size_and_depth_are_bounded() {
    let wide = vec!["facts.amount_minor > 1"; 50].join(" && ");
    assert!(compile(&wide).is_ok());
    let long = vec!["facts.amount_minor > 1"; 200].join(" && ");
    assert!(compile(&long).unwrap_err().to_string().contains("longer"));
    let busy = format!("1{} > 0", " + 1".repeat(200));
    assert!(
        compile(&busy)
            .unwrap_err()
            .to_string()
            .contains("operators")
    );
    for deep in [
        format!("{}true{}", "(".repeat(100), ")".repeat(100)),
        format!("{}true", "true ? true : ".repeat(60)),
    ] {
        let error = compile(&deep).unwrap_err().to_string();
        assert!(error.contains("nested deeper than 32"), "{error}");
    }
}

/// A component's stack is 1 MiB and an overflow ends every request of its instance.
#[test]
fn the_deepest_expressions_fit_half_of_a_components_stack() {
    let here = facts(3_333);
    let most = rules_engine::limits::WHEN_OPERATORS_MAX - 10;
    let depth = usize::from(rules_engine::limits::WHEN_DEPTH_MAX);
    let around = |open: &str, inner: &str, close: &str, times: usize| {
        format!("{}{inner}{}", open.repeat(times), close.repeat(times))
    };
    let worst = [
        format!("1{} > 0", " + 1".repeat(most)),
        format!("1{} > 0", " * 1".repeat(most)),
        format!("true{}", " == true".repeat(most / 2)),
        format!("'a' in ['a']{}", " == true".repeat(most / 2)),
        format!("1{}", " in [1]".repeat(most / 2)),
        format!("{}true", "!".repeat(most)),
        format!("{}1 > 0", "- ".repeat(most)),
        format!("facts{}", ".currency".repeat(most)),
        format!("facts.currency{}", "[0]".repeat(most)),
        format!("{}true", "true ? true : ".repeat(most)),
        around("(", "true", ")", most),
        around("(", "true", ")", depth / 2),
        around("[", "1", "]", most),
        around("!(", "true", ")", most / 2),
        around("size([", "1", "])", most / 2),
        around("has(", "facts.currency", ")", most),
        format!("{}true{}", "{1:".repeat(most), "}".repeat(most)),
        "(".repeat(most),
    ];
    std::thread::Builder::new()
        .stack_size(512 << 10)
        .spawn(move || {
            for source in worst {
                for known in [true, false] {
                    let condition = match known {
                        true => compile(&source),
                        false => Condition::compile(&source, None),
                    };
                    if let Ok(condition) = condition {
                        let _ = evaluate(&condition, &here);
                    }
                }
            }
        })
        .unwrap()
        .join()
        .unwrap();
}

/// Random conditions of the grammar, to compare with a reference that computes in 128 bits.
fn number() -> impl Strategy<Value = (String, Option<i128>)> {
    let leaf = prop_oneof![
        (-5i64..5).prop_map(|n| (n.to_string(), Some(i128::from(n)))),
        Just(("facts.amount_minor".to_owned(), Some(i128::from(i64::MAX)))),
        Just(("facts.amount_major".to_owned(), Some(33))),
    ];
    leaf.prop_recursive(3, 12, 2, |inner| {
        (
            inner.clone(),
            prop_oneof![Just('+'), Just('-'), Just('*'), Just('/'), Just('%')],
            inner,
        )
            .prop_map(|((left, a), op, (right, b))| {
                let fits = |n: i128| i64::try_from(n).ok().map(i128::from);
                let value = a.zip(b).and_then(|(a, b)| match op {
                    '+' => fits(a + b),
                    '-' => fits(a - b),
                    '*' => fits(a * b),
                    '/' => a.checked_div(b).and_then(fits),
                    _ => a.checked_rem(b).and_then(fits),
                });
                (format!("({left} {op} {right})"), value)
            })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arithmetic_is_exact_or_an_error((source, expected) in number(), against in -40i64..40) {
        let here = facts(i64::MAX);
        let got = holds(&format!("{source} > {against}"), &here);
        prop_assert_eq!(got.ok(), expected.map(|value| value > i128::from(against)), "{}", source);
    }

    #[test]
    fn no_text_makes_the_reader_panic(source in "[a-z_.()\\[\\]{}!&|?:+*/%<>='\" 0-9-]{0,60}|\\PC{0,40}") {
        let _ = compile(&source);
        let _ = Condition::compile(&source, None);
    }
}
