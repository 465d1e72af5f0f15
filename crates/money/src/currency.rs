use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{MoneyError, iso4217::TABLE};

/// A currency of today's ISO 4217 list. In JSON it is its code, `"EUR"`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Currency {
    code: &'static str,
    numeric: u16,
    minor_digits: Option<u8>,
}

impl Currency {
    /// The euro: what the ECB's reference rates are quoted against.
    pub const EUR: Currency = Currency::listed("EUR", 978, Some(2));

    /// Only the generated table and the constants above (which a test compares with it) call this.
    pub(crate) const fn listed(
        code: &'static str,
        numeric: u16,
        minor_digits: Option<u8>,
    ) -> Currency {
        Currency {
            code,
            numeric,
            minor_digits,
        }
    }

    /// Looks up a three-letter code, upper case as ISO 4217 writes it. Answers
    /// [`MoneyError::UnknownCurrency`] for anything else, withdrawn codes included.
    pub fn parse(code: &str) -> Result<Currency, MoneyError> {
        TABLE
            .binary_search_by(|listed| listed.code.cmp(code))
            .map(|at| TABLE[at])
            // A caller's text goes into the message, so it is cut to what a code could be.
            .map_err(|_| MoneyError::UnknownCurrency(code.chars().take(8).collect()))
    }

    /// Every listed currency, by code.
    pub fn all() -> &'static [Currency] {
        &TABLE
    }

    /// The three-letter code.
    pub fn code(self) -> &'static str {
        self.code
    }

    /// The three-digit numeric code; ISO writes it with leading zeros (`008`).
    pub fn numeric(self) -> u16 {
        self.numeric
    }

    /// Digits of the minor unit: 2 for EUR, 0 for JPY, `None` where ISO says "N.A.".
    pub fn minor_digits(self) -> Option<u8> {
        self.minor_digits
    }

    /// The currency itself if payments can be made in it, else [`MoneyError::CurrencyNotPayable`]:
    /// the 13 codes without minor units are metals, baskets and test codes.
    pub fn payable(self) -> Result<Currency, MoneyError> {
        self.payable_digits().map(|_| self)
    }

    pub(crate) fn payable_digits(self) -> Result<u8, MoneyError> {
        self.minor_digits
            .ok_or(MoneyError::CurrencyNotPayable(self.code))
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code)
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code)
    }
}

impl std::str::FromStr for Currency {
    type Err = MoneyError;
    fn from_str(code: &str) -> Result<Self, MoneyError> {
        Currency::parse(code)
    }
}

impl Serialize for Currency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code)
    }
}

impl<'de> Deserialize<'de> for Currency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let code = String::deserialize(deserializer)?;
        Currency::parse(&code).map_err(de::Error::custom)
    }
}

/// The codes of the ECB's history that ISO no longer lists, with the minor digits they last had
/// there (as the JDK's `currency.data` still records them: all 2 but the old lira).
const HISTORIC: [(&str, u8); 11] = [
    ("BGN", 2),
    ("CYP", 2),
    ("EEK", 2),
    ("HRK", 2),
    ("LTL", 2),
    ("LVL", 2),
    ("MTL", 2),
    ("ROL", 2),
    ("SIT", 2),
    ("SKK", 2),
    ("TRL", 0),
];

/// A currency that rates exist for: every payable one, and the 11 historic codes of the ECB's
/// history. Rates may name it, amounts may not: [`Money`](crate::Money) takes only a [`Currency`],
/// so a payment in a withdrawn currency cannot be written down.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RateCurrency {
    code: &'static str,
    digits: u8,
    current: Option<Currency>,
}

impl RateCurrency {
    /// The euro, the base of the ECB's rates.
    pub const EUR: RateCurrency = RateCurrency {
        code: "EUR",
        digits: 2,
        current: Some(Currency::EUR),
    };

    /// Looks up a payable or historic code. Codes without minor units are
    /// [`MoneyError::CurrencyNotPayable`], others [`MoneyError::UnknownCurrency`].
    pub fn parse(code: &str) -> Result<RateCurrency, MoneyError> {
        match HISTORIC.iter().find(|(historic, _)| *historic == code) {
            Some((code, digits)) => Ok(RateCurrency {
                code,
                digits: *digits,
                current: None,
            }),
            None => Currency::parse(code)?.try_into(),
        }
    }

    /// The 11 historic codes.
    pub fn historic() -> impl Iterator<Item = RateCurrency> {
        HISTORIC.iter().map(|(code, digits)| RateCurrency {
            code,
            digits: *digits,
            current: None,
        })
    }

    /// The three-letter code.
    pub fn code(self) -> &'static str {
        self.code
    }

    /// Digits of the minor unit, for a historic code the last it had.
    pub fn minor_digits(self) -> u8 {
        self.digits
    }

    /// Whether ISO has withdrawn the code.
    pub fn is_historic(self) -> bool {
        self.current.is_none()
    }

    /// The payable currency, or [`MoneyError::CurrencyNotPayable`] for a historic code.
    pub fn payable(self) -> Result<Currency, MoneyError> {
        self.current
            .ok_or(MoneyError::CurrencyNotPayable(self.code))
    }
}

impl TryFrom<Currency> for RateCurrency {
    type Error = MoneyError;
    fn try_from(currency: Currency) -> Result<Self, MoneyError> {
        Ok(RateCurrency {
            code: currency.code,
            digits: currency.payable_digits()?,
            current: Some(currency),
        })
    }
}

impl fmt::Display for RateCurrency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code)
    }
}

impl fmt::Debug for RateCurrency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code)
    }
}

impl Serialize for RateCurrency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code)
    }
}

impl<'de> Deserialize<'de> for RateCurrency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let code = String::deserialize(deserializer)?;
        RateCurrency::parse(&code).map_err(de::Error::custom)
    }
}
