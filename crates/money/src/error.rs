use thiserror::Error;

/// Why an amount, a currency or a rate was refused. [`MoneyError::code`] is the stable name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MoneyError {
    /// The code is not in today's ISO 4217 list (codes are upper case).
    #[error("{0:?} is not an ISO 4217 currency code")]
    UnknownCurrency(String),
    /// The code exists but nothing can be paid in it: it has no minor unit (gold, SDR, test codes)
    /// or ISO has withdrawn it.
    #[error("{0} cannot be used for payments")]
    CurrencyNotPayable(&'static str),
    /// Two amounts of different currencies met in one operation.
    #[error("expected an amount in {expected}, got one in {got}")]
    CurrencyMismatch {
        /// Currency of the left-hand amount.
        expected: &'static str,
        /// Currency of the other amount.
        got: &'static str,
    },
    /// Not `-`, digits, and optionally a point followed by digits.
    #[error("not a decimal number")]
    NotADecimal,
    /// More fraction digits than the currency has.
    #[error("too many digits after the point, at most {max} allowed")]
    TooManyDigits {
        /// Minor digits of the currency.
        max: u8,
    },
    /// The value does not fit 64 bits of minor units, or its text is longer than any that would.
    #[error("amount out of range")]
    OutOfRange,
    /// Not a positive decimal or fraction.
    #[error("not a positive rate")]
    NotARate,
    /// A rate's numerator or denominator would need more than 38 digits.
    #[error("rate needs more than {} digits", crate::limits::RATE_DIGITS_MAX)]
    RateOutOfRange,
    /// No parts, too many parts, or weights that are all zero.
    #[error(
        "cannot split: at least one part with a weight above zero, at most {} parts",
        crate::limits::SPLIT_PARTS_MAX
    )]
    NotSplittable,
    /// A margin of more than the whole amount.
    #[error(
        "margin of {basis_points} basis points, at most {} allowed",
        crate::limits::MARGIN_BASIS_POINTS_MAX
    )]
    MarginOutOfRange {
        /// What was asked for.
        basis_points: u32,
    },
    /// A margin is charged on an amount of zero or more.
    #[error("amount must not be negative")]
    NegativeAmount,
}

impl MoneyError {
    /// The stable snake_case name for problem documents and logs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownCurrency(_) => "unknown_currency",
            Self::CurrencyNotPayable(_) => "currency_not_payable",
            Self::CurrencyMismatch { .. } => "currency_mismatch",
            Self::NotADecimal => "not_a_decimal",
            Self::TooManyDigits { .. } => "too_many_digits",
            Self::OutOfRange => "out_of_range",
            Self::NotARate => "not_a_rate",
            Self::RateOutOfRange => "rate_out_of_range",
            Self::NotSplittable => "not_splittable",
            Self::MarginOutOfRange { .. } => "margin_out_of_range",
            Self::NegativeAmount => "negative_amount",
        }
    }
}
