use serde::{Deserialize, Serialize};

use crate::MoneyError;

/// A number of minor units (cents, yen, fils) whose currency is known from where it stands, such as
/// the balance of an account. Every operation that would leave 64 bits is
/// [`MoneyError::OutOfRange`]. In JSON it is the integer.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Minor(pub i64);

impl Minor {
    /// Nothing.
    pub const ZERO: Minor = Minor(0);

    /// `self + other`.
    pub fn checked_add(self, other: Minor) -> Result<Minor, MoneyError> {
        self.0
            .checked_add(other.0)
            .map(Minor)
            .ok_or(MoneyError::OutOfRange)
    }

    /// `self - other`.
    pub fn checked_sub(self, other: Minor) -> Result<Minor, MoneyError> {
        self.0
            .checked_sub(other.0)
            .map(Minor)
            .ok_or(MoneyError::OutOfRange)
    }

    /// `-self`; the smallest `i64` has no opposite.
    pub fn checked_neg(self) -> Result<Minor, MoneyError> {
        self.0
            .checked_neg()
            .map(Minor)
            .ok_or(MoneyError::OutOfRange)
    }

    /// The sum of all, order of no consequence: it is out of range only if the total is.
    pub fn sum(all: impl IntoIterator<Item = Minor>) -> Result<Minor, MoneyError> {
        // 2^64 amounts would be needed to leave i128.
        let total: i128 = all.into_iter().map(|minor| i128::from(minor.0)).sum();
        i64::try_from(total)
            .map(Minor)
            .map_err(|_| MoneyError::OutOfRange)
    }
}
