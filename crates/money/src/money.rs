use std::{cmp::Ordering, fmt};

use rust_decimal::Decimal;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser::SerializeStruct};

use crate::{
    Currency, Minor, MoneyError,
    limits::{AMOUNT_BYTES_MAX, MARGIN_BASIS_POINTS_MAX, SPLIT_PARTS_MAX},
};

/// An amount of a payable currency, in minor units.
///
/// In JSON it is `{"amount": "100.00", "currency": "EUR"}`; on the way in an integer number is
/// accepted too and means whole major units.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Money {
    minor: i64,
    currency: Currency,
    // Kept beside the currency so that no later step has to ask again whether it has minor units.
    digits: u8,
}

impl Money {
    /// `minor` units of `currency`; [`MoneyError::CurrencyNotPayable`] if it has no minor units.
    pub fn new(minor: i64, currency: Currency) -> Result<Money, MoneyError> {
        let digits = currency.payable_digits()?;
        Ok(Money {
            minor,
            currency,
            digits,
        })
    }

    /// Nothing, in `currency`.
    pub fn zero(currency: Currency) -> Result<Money, MoneyError> {
        Money::new(0, currency)
    }

    /// Reads a decimal in major units: an optional `-`, digits, and optionally a point with at most
    /// the currency's minor digits behind it. No exponent, no `+`, no spaces, no bare point.
    ///
    /// Errors: [`MoneyError::NotADecimal`], [`MoneyError::TooManyDigits`],
    /// [`MoneyError::OutOfRange`] (also for text longer than [`AMOUNT_BYTES_MAX`]),
    /// [`MoneyError::CurrencyNotPayable`].
    pub fn parse(amount: &str, currency: Currency) -> Result<Money, MoneyError> {
        let digits = currency.payable_digits()?;
        if amount.len() > AMOUNT_BYTES_MAX {
            return Err(MoneyError::OutOfRange);
        }
        let (negative, unsigned) = match amount.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, amount),
        };
        let (whole, fraction) = match unsigned.split_once('.') {
            Some((_, "")) => return Err(MoneyError::NotADecimal),
            Some(parts) => parts,
            None => (unsigned, ""),
        };
        let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !all_digits(whole) || !all_digits(fraction) {
            return Err(MoneyError::NotADecimal);
        }
        if fraction.len() > usize::from(digits) {
            return Err(MoneyError::TooManyDigits { max: digits });
        }
        let padding = usize::from(digits) - fraction.len();
        let minor = whole
            .bytes()
            .chain(fraction.bytes())
            .map(|byte| i64::from(byte - b'0'))
            .chain(std::iter::repeat_n(0, padding))
            // Built on the negative side, which reaches one further than the positive.
            .try_fold(0i64, |minor, digit| {
                minor.checked_mul(10)?.checked_sub(digit)
            })
            .and_then(|minor| {
                if negative {
                    Some(minor)
                } else {
                    minor.checked_neg()
                }
            })
            .ok_or(MoneyError::OutOfRange)?;
        Ok(Money {
            minor,
            currency,
            digits,
        })
    }

    /// Minor units.
    pub fn minor(self) -> i64 {
        self.minor
    }

    /// The currency, always a payable one.
    pub fn currency(self) -> Currency {
        self.currency
    }

    /// Digits of the currency's minor unit.
    pub fn minor_digits(self) -> u8 {
        self.digits
    }

    /// Whether it is nothing.
    pub fn is_zero(self) -> bool {
        self.minor == 0
    }

    /// Whether it is below zero.
    pub fn is_negative(self) -> bool {
        self.minor < 0
    }

    /// Whether it is above zero.
    pub fn is_positive(self) -> bool {
        self.minor > 0
    }

    /// `self + other`, of one currency.
    pub fn checked_add(self, other: Money) -> Result<Money, MoneyError> {
        self.same_currency(other)?;
        Ok(self.with(Minor(self.minor).checked_add(Minor(other.minor))?))
    }

    /// `self - other`, of one currency.
    pub fn checked_sub(self, other: Money) -> Result<Money, MoneyError> {
        self.same_currency(other)?;
        Ok(self.with(Minor(self.minor).checked_sub(Minor(other.minor))?))
    }

    /// `-self`.
    pub fn checked_neg(self) -> Result<Money, MoneyError> {
        Ok(self.with(Minor(self.minor).checked_neg()?))
    }

    /// Orders two amounts of one currency; there is no order across currencies without a rate,
    /// which is why `Money` has no `<`.
    pub fn compare(self, other: Money) -> Result<Ordering, MoneyError> {
        self.same_currency(other)?;
        Ok(self.minor.cmp(&other.minor))
    }

    /// Major units as a decimal with all minor digits: `100.00` EUR, `0.000` KWD, `5` JPY.
    pub fn to_decimal_string(self) -> String {
        let sign = if self.minor < 0 { "-" } else { "" };
        let minor = self.minor.unsigned_abs();
        if self.digits == 0 {
            return format!("{sign}{minor}");
        }
        let unit = 10u64.pow(u32::from(self.digits));
        let width = usize::from(self.digits);
        format!("{sign}{}.{:0width$}", minor / unit, minor % unit)
    }

    /// Shares the amount out by `weights`: each part gets the floor of its share, and the units left
    /// over go one each to the largest remainders, ties to the first. The parts sum to the amount,
    /// always; a weight of zero gets nothing. A negative amount splits as its opposite does.
    ///
    /// [`MoneyError::NotSplittable`] without a weight above zero or with more than
    /// [`SPLIT_PARTS_MAX`] parts.
    pub fn split(self, weights: &[u64]) -> Result<Vec<Money>, MoneyError> {
        let total: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
        if total == 0 || weights.len() > SPLIT_PARTS_MAX {
            return Err(MoneyError::NotSplittable);
        }
        let amount = u128::from(self.minor.unsigned_abs());
        // Both factors are below 2^64, so the product fits.
        let products = weights.iter().map(|weight| amount * u128::from(*weight));
        let (mut parts, remainders): (Vec<u128>, Vec<u128>) = products
            .map(|product| (product / total, product % total))
            .unzip();
        // The remainders sum to `left × total` and each is below `total`, so more than `left` parts
        // have one: the units never run past the parts that earned them.
        let left = amount - parts.iter().sum::<u128>();
        let mut by_remainder: Vec<usize> = (0..parts.len()).collect();
        by_remainder.sort_by_key(|part| std::cmp::Reverse(remainders[*part]));
        for (_, part) in (0..left).zip(by_remainder) {
            parts[part] += 1;
        }
        let signed = |part: u128| {
            // No part exceeds the amount, so it fits with the amount's sign.
            let part = if self.minor < 0 {
                (part as i128).wrapping_neg()
            } else {
                part as i128
            };
            i64::try_from(part)
                .map(|minor| self.with(Minor(minor)))
                .map_err(|_| MoneyError::OutOfRange)
        };
        parts.into_iter().map(signed).collect()
    }

    /// Splits into `parts` equal ones, the first getting the units left over.
    pub fn split_even(self, parts: usize) -> Result<Vec<Money>, MoneyError> {
        if parts > SPLIT_PARTS_MAX {
            return Err(MoneyError::NotSplittable);
        }
        self.split(&vec![1; parts])
    }

    fn with(self, minor: Minor) -> Money {
        Money {
            minor: minor.0,
            ..self
        }
    }

    fn same_currency(self, other: Money) -> Result<(), MoneyError> {
        if self.currency == other.currency {
            return Ok(());
        }
        Err(MoneyError::CurrencyMismatch {
            expected: self.currency.code(),
            got: other.currency.code(),
        })
    }
}

/// The house's margin of `basis_points` (hundredths of a percent) on `amount`, rounded up to the
/// next minor unit: toward the house. 25 basis points of 33.33 EUR are 0.083325, so 0.09.
///
/// [`MoneyError::MarginOutOfRange`] above 10,000 basis points, [`MoneyError::NegativeAmount`] below
/// zero. The margin never exceeds the amount.
pub fn margin(amount: Money, basis_points: u32) -> Result<Money, MoneyError> {
    if basis_points > MARGIN_BASIS_POINTS_MAX {
        return Err(MoneyError::MarginOutOfRange { basis_points });
    }
    let minor = u128::try_from(amount.minor).map_err(|_| MoneyError::NegativeAmount)?;
    let margin = (minor * u128::from(basis_points)).div_ceil(10_000);
    let margin = i64::try_from(margin).map_err(|_| MoneyError::OutOfRange)?;
    Ok(amount.with(Minor(margin)))
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.to_decimal_string(), self.currency)
    }
}

impl fmt::Debug for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Major units, exactly.
impl From<Money> for Decimal {
    fn from(money: Money) -> Decimal {
        Decimal::new(money.minor, u32::from(money.digits))
    }
}

impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Money", 2)?;
        object.serialize_field("amount", &self.to_decimal_string())?;
        object.serialize_field("currency", &self.currency)?;
        object.end()
    }
}

impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "amount must be a decimal string or an integer")]
        enum Amount {
            Text(String),
            Whole(i64),
        }
        #[derive(Deserialize)]
        struct Wire {
            amount: Amount,
            currency: Currency,
        }
        let wire = Wire::deserialize(deserializer)?;
        let text = match wire.amount {
            Amount::Text(text) => text,
            Amount::Whole(major) => major.to_string(),
        };
        Money::parse(&text, wire.currency).map_err(de::Error::custom)
    }
}
