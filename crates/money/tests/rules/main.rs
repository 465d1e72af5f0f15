//! The rules of money as tables and properties, in one test binary.

mod amounts;
mod conversion;
mod currencies;
mod ecb;
mod iso4217;
mod rates;

use innover_money::{Currency, Money, Rate, RateCurrency};
use proptest::{prelude::*, sample::select};

fn currency(code: &str) -> Currency {
    Currency::parse(code).expect("a listed code")
}

fn rate_currency(code: &str) -> RateCurrency {
    RateCurrency::parse(code).expect("a code with rates")
}

fn money(amount: &str, code: &str) -> Money {
    Money::parse(amount, currency(code)).expect("a valid amount")
}

fn rate(text: &str) -> Rate {
    Rate::parse(text).expect("a valid rate")
}

fn payable() -> impl Strategy<Value = Currency> {
    let payable: Vec<_> = Currency::all()
        .iter()
        .copied()
        .filter(|currency| currency.payable().is_ok())
        .collect();
    select(payable)
}

fn any_money() -> impl Strategy<Value = Money> {
    (any::<i64>(), payable())
        .prop_map(|(minor, currency)| Money::new(minor, currency).expect("a payable currency"))
}

/// Rates as they are published: up to seven digits, up to six of them behind the point.
fn published_rate() -> impl Strategy<Value = Rate> {
    (1u128..10_000_000, 0u32..7)
        .prop_map(|(digits, scale)| Rate::new(digits, 10u128.pow(scale)).expect("in range"))
}

/// Any fraction a rate can be.
fn any_rate() -> impl Strategy<Value = Rate> {
    let part = || 1u128..10u128.pow(38);
    (part(), part()).prop_map(|(above, below)| Rate::new(above, below).expect("in range"))
}
