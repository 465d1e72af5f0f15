//! `add`, `echo`, `slow`: what a Celery user tries first, as `<service>.add`. They change nothing.

use innover_contract::Job;
use rust_decimal::Decimal;
use serde_json::{Number, Value as Json, json};

use super::{
    Answering, Task,
    arguments::{misfit, tagged},
};
use crate::{Cx, Result, call};

/// Under their bare names.
pub(crate) const SAMPLES: &[Task] = &[
    Task::pure("add", &["a", "b"], add).batch(100),
    Task::pure("echo", &["*args", "**kwargs"], echo).batch(100),
    SLOW,
];

/// Its deadline leaves the longest one time to answer.
const SLOW: Task = Task::pure("slow", &["seconds?"], slow).deadline_s(310);
const SLOW_SECONDS_DEFAULT: f64 = 5.0;
const SLOW_SECONDS_MAX: f64 = 300.0;

/// `add(a, b)`: whole numbers in 64 bits, floats, and decimals as kombu writes them, as Python adds
/// them.
fn add<'a>(_: &'a Cx, job: &'a Job) -> Answering<'a> {
    Box::pin(std::future::ready(sum(job)))
}

fn sum(job: &Job) -> Result<Json> {
    let bound = SAMPLES[0].bind(job)?;
    let [(_, Some(a)), (_, Some(b))] = bound[..] else {
        return Err(misfit("add takes two numbers"));
    };
    match (Operand::read(a)?, Operand::read(b)?) {
        (Operand::Whole(a), Operand::Whole(b)) => a
            .checked_add(b)
            .map(Json::from)
            .ok_or_else(|| misfit("the sum does not fit 64 bits")),
        (Operand::Decimal(a), Operand::Decimal(b)) => decimal(a, b),
        (Operand::Decimal(a), Operand::Whole(b)) | (Operand::Whole(b), Operand::Decimal(a)) => {
            decimal(a, b.into())
        }
        (Operand::Float(a), Operand::Float(b)) => float(a + b),
        (Operand::Float(a), Operand::Whole(b)) | (Operand::Whole(b), Operand::Float(a)) => {
            float(a + b as f64)
        }
        // Python refuses it as well: it would lose what the decimal is for.
        (Operand::Float(_), Operand::Decimal(_)) | (Operand::Decimal(_), Operand::Float(_)) => Err(
            misfit("unsupported operand types for +: a decimal and a float"),
        ),
    }
}

enum Operand {
    Whole(i64),
    Float(f64),
    Decimal(Decimal),
}

impl Operand {
    fn read(value: &Json) -> Result<Operand> {
        match value {
            Json::Number(n) if n.is_f64() => Ok(Operand::Float(n.as_f64().unwrap_or_default())),
            Json::Number(n) => n
                .as_i64()
                .map(Operand::Whole)
                .ok_or_else(|| misfit(format!("{n} does not fit 64 bits"))),
            _ => match tagged(value) {
                Some(("decimal", Json::String(text))) => Decimal::from_str_exact(text)
                    .or_else(|_| Decimal::from_scientific(text))
                    .map(Operand::Decimal)
                    .map_err(|e| misfit(format!("`{text}` is no decimal add can take: {e}"))),
                _ => Err(misfit(format!(
                    "add takes two numbers, not {}",
                    kind(value)
                ))),
            },
        }
    }
}

fn kind(value: &Json) -> &'static str {
    match value {
        Json::Null => "null",
        Json::Bool(_) => "a boolean",
        Json::String(_) => "a string",
        Json::Array(_) => "a list",
        _ => "an object",
    }
}

fn decimal(a: Decimal, b: Decimal) -> Result<Json> {
    a.checked_add(b)
        // A sum that was rounded does not come back.
        .filter(|sum| sum.checked_sub(a) == Some(b) && sum.checked_sub(b) == Some(a))
        .map(|sum| json!({"__type__": "decimal", "__value__": sum.to_string()}))
        .ok_or_else(|| misfit("the exact sum has more than 28 digits"))
}

fn float(sum: f64) -> Result<Json> {
    Number::from_f64(sum)
        .map(Json::Number)
        .ok_or_else(|| misfit("the sum is no finite number"))
}

/// `echo(*args, **kwargs)`: one argument as it came, several as `{"args": […], "kwargs": {…}}`.
fn echo<'a>(_: &'a Cx, job: &'a Job) -> Answering<'a> {
    let said = match (&job.args[..], job.kwargs.is_empty()) {
        ([one], true) => one.clone(),
        (args, _) => json!({"args": args, "kwargs": job.kwargs}),
    };
    Box::pin(std::future::ready(Ok(said)))
}

/// `slow(seconds=5)`: takes its time.
fn slow<'a>(_: &'a Cx, job: &'a Job) -> Answering<'a> {
    Box::pin(async move {
        let seconds = match SLOW.bind(job)?[..] {
            [(_, Some(given))] => given.as_f64(),
            _ => Some(SLOW_SECONDS_DEFAULT),
        };
        match seconds.filter(|s| (0.0..=SLOW_SECONDS_MAX).contains(s)) {
            Some(seconds) => {
                call::sleep_ms((seconds * 1_000.0).round() as u64).await;
                Ok(format!("slept {seconds} s").into())
            }
            None => Err(misfit("slow takes seconds, 0 to 300")),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(text: &str) -> Json {
        json!({"__type__": "decimal", "__value__": text})
    }

    fn added(a: Json, b: Json) -> Result<Json, String> {
        sum(&Job::new("1", "x.add", vec![a, b])).map_err(|failure| failure.0.detail)
    }

    #[test]
    fn numbers_are_added_as_python_adds_them() {
        for (a, b, want) in [
            (json!(10), json!(20), json!(30)),
            (json!(-1), json!(1), json!(0)),
            (json!(1), json!(0.5), json!(1.5)),
            (json!(0.1), json!(0.2), json!(0.30000000000000004)),
            (json!(1.5), json!(2.5), json!(4.0)),
            (tag("1.10"), tag("2.2"), tag("3.30")),
            (tag("1.50"), json!(1), tag("2.50")),
            (tag("-0.10"), tag("0.1"), tag("0.00")),
            (tag("1E+2"), tag("1"), tag("101")),
        ] {
            assert_eq!(added(a.clone(), b.clone()), Ok(want), "{a} + {b}");
        }
        for (a, b, why) in [
            (json!(1), json!("2"), "not a string"),
            (json!(true), json!(1), "not a boolean"),
            (json!(null), json!(1), "not null"),
            (json!(i64::MAX), json!(1), "does not fit 64 bits"),
            (json!(u64::MAX), json!(1), "does not fit 64 bits"),
            (json!(1e308), json!(1e308), "no finite number"),
            (json!(1.5), tag("1.5"), "a decimal and a float"),
            (tag("NaN"), json!(1), "is no decimal"),
            (
                tag("79228162514264337593543950335"),
                tag("0.1"),
                "28 digits",
            ),
        ] {
            let refused = added(a.clone(), b.clone()).unwrap_err();
            assert!(refused.contains(why), "{a} + {b}: {refused}");
        }
    }
}
