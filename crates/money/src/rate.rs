use std::fmt;

use rust_decimal::Decimal;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    MoneyError,
    limits::{RATE_BYTES_MAX, RATE_DIGITS_MAX},
    wide::{Tail, Wide, decimal, gcd},
};

/// The first integer with too many digits: numerators and denominators stay below it.
const TOO_LARGE: u128 = 10u128.pow(RATE_DIGITS_MAX);

/// An exchange rate: how many major units of the quote currency one major unit of the base buys.
/// It is an exact, positive fraction in lowest terms, so inverting and crossing lose nothing.
///
/// As text and in JSON it is its decimal where that ends within 38 digits (`"1.1172"`), else its
/// fraction (`"2500/2793"`); [`Rate::parse`] reads both.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    numerator: u128,
    denominator: u128,
}

impl Rate {
    /// One for one.
    pub const ONE: Rate = Rate {
        numerator: 1,
        denominator: 1,
    };

    /// `numerator / denominator`. [`MoneyError::NotARate`] if either is zero,
    /// [`MoneyError::RateOutOfRange`] if either needs more than 38 digits in lowest terms.
    pub fn new(numerator: u128, denominator: u128) -> Result<Rate, MoneyError> {
        if numerator == 0 || denominator == 0 {
            return Err(MoneyError::NotARate);
        }
        let shared = gcd(numerator, denominator);
        let (numerator, denominator) = (numerator / shared, denominator / shared);
        if numerator >= TOO_LARGE || denominator >= TOO_LARGE {
            return Err(MoneyError::RateOutOfRange);
        }
        Ok(Rate {
            numerator,
            denominator,
        })
    }

    /// Reads a decimal (`1.1172`) or a fraction of two integers (`2500/2793`). Both are strict: no
    /// sign, exponent, space or bare point. [`MoneyError::NotARate`] for other text and for zero,
    /// [`MoneyError::RateOutOfRange`] beyond 38 digits.
    pub fn parse(text: &str) -> Result<Rate, MoneyError> {
        if text.len() > RATE_BYTES_MAX {
            return Err(MoneyError::RateOutOfRange);
        }
        match text.split_once('/') {
            Some((numerator, denominator)) => Rate::new(integer(numerator)?, integer(denominator)?),
            None => Rate::parse_decimal(text),
        }
    }

    /// Reads a decimal only: what a published rate may look like.
    pub fn parse_decimal(text: &str) -> Result<Rate, MoneyError> {
        if text.len() > RATE_BYTES_MAX {
            return Err(MoneyError::RateOutOfRange);
        }
        let Some((whole, fraction)) = text.split_once('.') else {
            return Rate::new(integer(text)?, 1);
        };
        let (whole, value) = (integer(whole)?, integer(fraction)?);
        let denominator = power_of_ten(fraction.len())?;
        let numerator = whole
            .checked_mul(denominator)
            .and_then(|scaled| scaled.checked_add(value))
            .ok_or(MoneyError::RateOutOfRange)?;
        Rate::new(numerator, denominator)
    }

    /// The rate of the opposite direction, exactly.
    pub fn invert(self) -> Rate {
        Rate {
            numerator: self.denominator,
            denominator: self.numerator,
        }
    }

    /// The rate from base to quote when both are quoted per euro: `quote_per_eur / base_per_eur`,
    /// without a rounding step at the euro. With USD 1.1172 and JPY 175.68, base USD and quote JPY
    /// give 175.68/1.1172.
    pub fn cross(base_per_eur: &Rate, quote_per_eur: &Rate) -> Result<Rate, MoneyError> {
        quote_per_eur.times(&base_per_eur.invert())
    }

    /// The rate of two conversions one after the other.
    pub fn times(&self, next: &Rate) -> Result<Rate, MoneyError> {
        // Both are in lowest terms, so removing the crosswise factors leaves lowest terms, and a
        // product that is out of range is so because it must be.
        let left = gcd(self.numerator, next.denominator);
        let right = gcd(next.numerator, self.denominator);
        let multiply = |a: u128, b: u128| {
            a.checked_mul(b)
                .filter(|product| *product < TOO_LARGE)
                .ok_or(MoneyError::RateOutOfRange)
        };
        Ok(Rate {
            numerator: multiply(self.numerator / left, next.numerator / right)?,
            denominator: multiply(self.denominator / right, next.denominator / left)?,
        })
    }

    /// Numerator in lowest terms.
    pub fn numerator(self) -> u128 {
        self.numerator
    }

    /// Denominator in lowest terms.
    pub fn denominator(self) -> u128 {
        self.denominator
    }

    /// The rate rounded half-even to `significant_digits`, for people to read. Digits before the
    /// point are never dropped. Amounts are computed from the fraction, not from this.
    pub fn to_decimal(self, significant_digits: usize) -> String {
        let significant_digits = significant_digits.max(1);
        self.decimal(Some(significant_digits), Tail::HalfEven)
    }

    fn decimal(self, significant: Option<usize>, tail: Tail) -> String {
        let (numerator, denominator) = (Wide::from(self.numerator), Wide::from(self.denominator));
        decimal(numerator, denominator, significant, tail)
    }
}

fn integer(text: &str) -> Result<u128, MoneyError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(MoneyError::NotARate);
    }
    text.parse().map_err(|_| MoneyError::RateOutOfRange)
}

fn power_of_ten(digits: usize) -> Result<u128, MoneyError> {
    u32::try_from(digits)
        .ok()
        .filter(|digits| *digits <= RATE_DIGITS_MAX)
        .map(|digits| 10u128.pow(digits))
        .ok_or(MoneyError::RateOutOfRange)
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if Wide::from(self.denominator).divides_a_power_of_ten() {
            let text = self.decimal(None, Tail::Cut);
            // What is printed must be readable again, so the same bound holds as for reading.
            if Rate::parse_decimal(&text).as_ref() == Ok(self) {
                return f.write_str(&text);
            }
        }
        write!(f, "{}/{}", self.numerator, self.denominator)
    }
}

impl fmt::Debug for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Rate {
    type Err = MoneyError;
    fn from_str(text: &str) -> Result<Self, MoneyError> {
        Rate::parse(text)
    }
}

/// Exactly; [`MoneyError::NotARate`] for zero and below.
impl TryFrom<Decimal> for Rate {
    type Error = MoneyError;
    fn try_from(decimal: Decimal) -> Result<Self, MoneyError> {
        let numerator = u128::try_from(decimal.mantissa()).map_err(|_| MoneyError::NotARate)?;
        let scale = usize::try_from(decimal.scale()).map_err(|_| MoneyError::RateOutOfRange)?;
        Rate::new(numerator, power_of_ten(scale)?)
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Rate::parse(&text).map_err(de::Error::custom)
    }
}
