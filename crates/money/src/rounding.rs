use std::{cmp::Ordering, fmt};

use serde::{Deserialize, Serialize, Serializer};

use crate::{
    Currency, Money, MoneyError, Rate, RateCurrency,
    limits::EXACT_DIGITS_SHOWN,
    wide::{Tail, Wide, decimal, gcd},
};

/// How an exact amount becomes whole minor units.
///
/// The house never gives away a fraction it does not have: what the customer *receives* is rounded
/// [`Down`](Rounding::Down), what the customer *pays* is rounded [`Up`](Rounding::Up). Then no chain
/// of conversions at mid rates can return more than it started with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rounding {
    /// The next minor unit at or below the exact amount (toward −∞): what the customer receives.
    Down,
    /// The next minor unit at or above the exact amount (toward +∞): what the customer pays.
    Up,
    /// The nearest minor unit, of two equally near ones the even. For statements and reports, not
    /// for conversions: there and back it can return more than it started with.
    HalfEven,
}

/// An exact amount in major units: a fraction in lowest terms.
///
/// As text and in JSON it is its decimal where that ends (`"37.236276"`), else its first 38
/// significant digits, cut, and the fraction itself (`"0.33333333333333333333333333333333333333
/// (1/3)"`).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ExactAmount {
    negative: bool,
    numerator: Wide,
    denominator: Wide,
}

impl ExactAmount {
    const ZERO: ExactAmount = ExactAmount {
        negative: false,
        numerator: Wide::ZERO,
        denominator: Wide::ONE,
    };

    /// `minor / 10^digits × rate`. It cannot overflow: 64 bits times 128, over 128 times 14.
    fn product(minor: i64, digits: u8, rate: &Rate) -> ExactAmount {
        if minor == 0 {
            return ExactAmount::ZERO;
        }
        let mut minor_left = u128::from(minor.unsigned_abs());
        let mut unit = u128::from(unit(digits));
        let (mut numerator, mut denominator) = (rate.numerator(), rate.denominator());
        for (above, below) in [
            (&mut minor_left, &mut denominator),
            (&mut numerator, &mut unit),
        ] {
            let shared = gcd(*above, *below);
            *above /= shared;
            *below /= shared;
        }
        let shared = gcd(minor_left, unit);
        ExactAmount {
            negative: minor < 0,
            numerator: Wide::product(minor_left / shared, numerator),
            denominator: Wide::product(denominator, unit / shared),
        }
    }

    /// Whole minor units of a currency with `digits`, rounded.
    fn round(&self, digits: u8, rounding: Rounding) -> Result<i64, MoneyError> {
        let scaled = self
            .numerator
            .times(unit(digits))
            .ok_or(MoneyError::OutOfRange)?;
        let (whole, rest) = scaled.div_rem(self.denominator);
        let whole = whole
            .to_u128()
            .and_then(|whole| i128::try_from(whole).ok())
            .ok_or(MoneyError::OutOfRange)?;
        let away_from_zero = !rest.is_zero()
            && match rounding {
                Rounding::Down => self.negative,
                Rounding::Up => !self.negative,
                Rounding::HalfEven => {
                    match rest.times(2).map(|twice| twice.cmp(&self.denominator)) {
                        Some(Ordering::Less) => false,
                        Some(Ordering::Equal) => whole % 2 == 1,
                        _ => true,
                    }
                }
            };
        let magnitude = whole
            .checked_add(i128::from(away_from_zero))
            .ok_or(MoneyError::OutOfRange)?;
        let minor = if self.negative { -magnitude } else { magnitude };
        i64::try_from(minor).map_err(|_| MoneyError::OutOfRange)
    }

    /// `self - minor / 10^digits`, where `minor` is `self` rounded: it has the same sign or is zero.
    fn residual(&self, minor: i64, digits: u8) -> ExactAmount {
        const FITS: &str = "190 bits times 14, and 142 bits times 64, are below 256";
        let scaled = self.numerator.times(unit(digits)).expect(FITS);
        let rounded = self.denominator.times(minor.unsigned_abs()).expect(FITS);
        let (numerator, negative) = match scaled.minus(rounded) {
            Some(cut_off) => (cut_off, self.negative),
            None => (rounded.minus(scaled).unwrap_or(Wide::ZERO), !self.negative),
        };
        if numerator.is_zero() {
            return ExactAmount::ZERO;
        }
        let mut residual = ExactAmount {
            negative,
            numerator,
            denominator: self.denominator.times(unit(digits)).expect(FITS),
        };
        // The fraction was in lowest terms, so only factors of the unit can be common now.
        for prime in [2u128, 5].map(Wide::from) {
            loop {
                let (above, above_rest) = residual.numerator.div_rem(prime);
                let (below, below_rest) = residual.denominator.div_rem(prime);
                if !above_rest.is_zero() || !below_rest.is_zero() {
                    break;
                }
                (residual.numerator, residual.denominator) = (above, below);
            }
        }
        residual
    }

    /// Whether the decimal form ends.
    pub fn is_finite(&self) -> bool {
        self.denominator.divides_a_power_of_ten()
    }

    /// The decimal form: complete where it ends, else cut after 38 significant digits.
    pub fn to_decimal_string(&self) -> String {
        let significant = (!self.is_finite()).then_some(EXACT_DIGITS_SHOWN);
        let sign = if self.negative { "-" } else { "" };
        let digits = decimal(self.numerator, self.denominator, significant, Tail::Cut);
        format!("{sign}{digits}")
    }

    /// The fraction in lowest terms, `"10/3"`.
    pub fn to_fraction_string(&self) -> String {
        let sign = if self.negative { "-" } else { "" };
        format!("{sign}{}/{}", self.numerator, self.denominator)
    }
}

impl fmt::Display for ExactAmount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_decimal_string())?;
        if !self.is_finite() {
            write!(f, " ({})", self.to_fraction_string())?;
        }
        Ok(())
    }
}

impl fmt::Debug for ExactAmount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for ExactAmount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What [`convert`] answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Conversion {
    /// Whole minor units of the target currency.
    pub result: Money,
    /// The exact product in major units of the target currency, before the one rounding.
    pub exact: ExactAmount,
    /// `exact - result`, below one minor unit: what the house keeps of the rounding when it rounds
    /// down, negative when it rounds up.
    pub residual: ExactAmount,
}

/// Converts `amount` at `rate` (major units of `to` for one major unit of the amount's currency):
/// one exact product, rounded once.
///
/// To price a fixed target amount instead, convert that with the inverted rate and
/// [`Rounding::Up`]: the result is what the customer pays.
///
/// Errors: [`MoneyError::OutOfRange`] when the result leaves 64 bits,
/// [`MoneyError::CurrencyNotPayable`] when `to` has no minor units.
pub fn convert(
    amount: Money,
    rate: &Rate,
    to: Currency,
    rounding: Rounding,
) -> Result<Conversion, MoneyError> {
    let digits = to.payable_digits()?;
    let exact = ExactAmount::product(amount.minor(), amount.minor_digits(), rate);
    let minor = exact.round(digits, rounding)?;
    Ok(Conversion {
        result: Money::new(minor, to)?,
        exact,
        residual: exact.residual(minor, digits),
    })
}

/// [`convert`] on bare minor units, for currencies that only rates know (restating an old amount,
/// checking the whole history). The pair is the rounded minor units of `to` and the exact amount.
pub fn convert_minor(
    minor: i64,
    from: RateCurrency,
    rate: &Rate,
    to: RateCurrency,
    rounding: Rounding,
) -> Result<(i64, ExactAmount), MoneyError> {
    let exact = ExactAmount::product(minor, from.minor_digits(), rate);
    let rounded = exact.round(to.minor_digits(), rounding)?;
    Ok((rounded, exact))
}

/// Minor units in one major unit. ISO's digits end at 4; 18 is where 64 bits would.
fn unit(digits: u8) -> u64 {
    10u64.pow(u32::from(digits.min(18)))
}
