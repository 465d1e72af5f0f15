//! Amounts, currencies, exchange rates and rounding: pure rules, no I/O, no clock, no floats.
//!
//! - [`Currency`] is the official ISO 4217 table; only its payable part can carry [`Money`].
//! - [`Money`] is an integer of minor units; its arithmetic answers with errors, never panics.
//! - [`Rate`] is an exact rational, and [`convert`] rounds once, toward the house.
//! - [`ecb`] reads the European Central Bank's reference rates.
//!
//! ```
//! use innover_money::{Currency, Money, Rate, Rounding, convert};
//!
//! let amount = Money::parse("33.33", Currency::EUR)?;
//! let rate = Rate::parse("1.1172")?;
//! let got = convert(amount, &rate, Currency::parse("USD")?, Rounding::Down)?;
//! assert_eq!(got.result.to_decimal_string(), "37.23");
//! assert_eq!(got.exact.to_string(), "37.236276");
//! # Ok::<(), innover_money::MoneyError>(())
//! ```
#![warn(missing_docs)]

mod currency;
pub mod ecb;
mod error;
mod iso4217;
pub mod limits;
mod minor;
mod money;
mod rate;
mod rounding;
mod wide;

pub use currency::{Currency, RateCurrency};
pub use error::MoneyError;
pub use minor::Minor;
pub use money::{Money, margin};
pub use rate::Rate;
pub use rounding::{Conversion, ExactAmount, Rounding, convert, convert_minor};
