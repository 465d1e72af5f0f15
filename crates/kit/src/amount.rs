//! Amounts as callers send them: a decimal string, or an integer; never a float.

use innover_contract::Code;
use innover_money::{Currency, Money};
use serde::{Deserialize, Deserializer, de};
use utoipa::{PartialSchema, ToSchema};

use crate::{Failure, Result};

/// The `amount` of a request body: `"100.00"`, or an integer number of whole units. A float is
/// kept as what it is, so that [`money`] can say what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Amount {
    /// A decimal string or an integer, as text.
    Decimal(String),
    /// A JSON number with a fraction or an exponent.
    Float(String),
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Amount, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Amount;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a decimal string like \"100.00\"")
            }
            fn visit_str<E>(self, text: &str) -> Result<Amount, E> {
                Ok(Amount::Decimal(text.into()))
            }
            fn visit_u64<E>(self, n: u64) -> Result<Amount, E> {
                Ok(Amount::Decimal(n.to_string()))
            }
            fn visit_i64<E>(self, n: i64) -> Result<Amount, E> {
                Ok(Amount::Decimal(n.to_string()))
            }
            fn visit_f64<E>(self, n: f64) -> Result<Amount, E> {
                Ok(Amount::Float(n.to_string()))
            }
        }
        d.deserialize_any(Visitor)
    }
}

impl PartialSchema for Amount {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        use utoipa::openapi::schema::{ObjectBuilder, Type};
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some(
                "A decimal string with at most the currency's minor digits; a JSON integer means whole units.",
            ))
            .examples(["100.00"])
            .into()
    }
}

impl ToSchema for Amount {
    fn name() -> std::borrow::Cow<'static, str> {
        "Amount".into()
    }
}

/// A currency that can be paid in. `param` is the JSON pointer of the field.
///
/// # Errors
/// 400 `unsupported_currency`.
pub fn currency(code: &str, param: &str) -> Result<Currency> {
    Currency::parse(code)
        .and_then(Currency::payable)
        .map_err(|e| Failure::new(Code::UnsupportedCurrency, e.to_string()).param(param))
}

/// The amount of `/amount` and `/currency`, greater than zero.
///
/// # Errors
/// 400 `unsupported_currency` or `invalid_amount`, naming the field.
pub fn money(amount: &Amount, code: &str) -> Result<Money> {
    let currency = currency(code, "/currency")?;
    let invalid = |what: String| Failure::new(Code::InvalidAmount, what).param("/amount");
    let text = match amount {
        Amount::Decimal(text) => text,
        Amount::Float(number) => {
            return Err(invalid(format!(
                "{number} is a float; send the amount as a string, e.g. \"100.00\""
            )));
        }
    };
    let money = Money::parse(text, currency).map_err(|e| invalid(e.to_string()))?;
    if !money.is_positive() {
        return Err(invalid("the amount must be greater than zero".into()));
    }
    Ok(money)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_positive_amount_of_the_currency_is_refused_with_its_field() {
        let amount = |json: &str| serde_json::from_str::<Amount>(json).expect("an amount");
        assert_eq!(
            money(&amount("\"33.33\""), "EUR").map(|m| m.minor()).ok(),
            Some(3333)
        );
        assert_eq!(money(&amount("5"), "JPY").map(|m| m.minor()).ok(), Some(5));
        for (json, code, expected, param) in [
            ("\"0.00\"", "EUR", Code::InvalidAmount, "/amount"),
            ("\"-1.00\"", "EUR", Code::InvalidAmount, "/amount"),
            ("\"1.234\"", "EUR", Code::InvalidAmount, "/amount"),
            ("\"1.0\"", "JPY", Code::InvalidAmount, "/amount"),
            ("1.5", "EUR", Code::InvalidAmount, "/amount"),
            ("\"1e3\"", "EUR", Code::InvalidAmount, "/amount"),
            (
                "\"1000000000000000000000000000000\"",
                "EUR",
                Code::InvalidAmount,
                "/amount",
            ),
            (
                "1000000000000000000000000000000",
                "EUR",
                Code::InvalidAmount,
                "/amount",
            ),
            ("\"1.00\"", "XAU", Code::UnsupportedCurrency, "/currency"),
            ("\"1.00\"", "eur", Code::UnsupportedCurrency, "/currency"),
        ] {
            let failure = money(&amount(json), code).expect_err(json);
            assert_eq!(
                (failure.code(), failure.0.param.as_deref()),
                (expected, Some(param)),
                "{json} {code}"
            );
        }
    }
}
