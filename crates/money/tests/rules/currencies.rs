use innover_money::{Currency, Money, MoneyError, RateCurrency};

use super::{currency, rate_currency};

#[test]
fn the_known_traps_have_the_official_digits() {
    for (digits, codes) in [
        (0, &["ISK", "JPY", "KRW", "CLP"][..]),
        (2, &["MGA", "MRU", "IRR", "HUF", "TWD", "EUR", "USD"]),
        (3, &["BHD", "KWD", "OMR", "TND"]),
        (4, &["CLF", "UYW"]),
    ] {
        for code in codes {
            assert_eq!(currency(code).minor_digits(), Some(digits), "{code}");
        }
    }
}

#[test]
fn codes_without_minor_units_are_known_but_refused_for_payments() {
    let refused: Vec<_> = Currency::all()
        .iter()
        .filter(|currency| currency.payable().is_err())
        .map(|currency| currency.code())
        .collect();
    assert_eq!(
        refused,
        [
            "XAG", "XAU", "XBA", "XBB", "XBC", "XBD", "XDR", "XPD", "XPT", "XSU", "XTS", "XUA",
            "XXX"
        ]
    );
    let gold = currency("XAU");
    let error = MoneyError::CurrencyNotPayable("XAU");
    assert_eq!(gold.payable(), Err(error.clone()));
    assert_eq!(Money::new(1, gold), Err(error.clone()));
    assert_eq!(Money::parse("1", gold), Err(error.clone()));
    assert_eq!(RateCurrency::parse("XAU"), Err(error));
}

#[test]
fn only_exact_codes_are_currencies() {
    for text in [
        "", "eur", "Eur", "EU", "EURO", " EUR", "EUR ", "978", "€", "ZZZ", "BGN",
    ] {
        let error = Currency::parse(text).expect_err(text);
        assert_eq!(error.code(), "unknown_currency");
    }
    let long = "X".repeat(10_000);
    let message = Currency::parse(&long).expect_err("unknown").to_string();
    assert!(message.len() < 100, "{message}");
}

#[test]
fn historic_codes_have_rates_but_no_payments() {
    let codes: Vec<_> = RateCurrency::historic().map(RateCurrency::code).collect();
    assert_eq!(
        codes,
        [
            "BGN", "CYP", "EEK", "HRK", "LTL", "LVL", "MTL", "ROL", "SIT", "SKK", "TRL"
        ]
    );
    for historic in RateCurrency::historic() {
        assert_eq!(RateCurrency::parse(historic.code()), Ok(historic));
        assert!(historic.is_historic());
        assert!(historic.payable().is_err());
        assert!(
            Currency::parse(historic.code()).is_err(),
            "{historic} is current"
        );
    }
    assert_eq!(rate_currency("TRL").minor_digits(), 0);
    assert_eq!(rate_currency("BGN").minor_digits(), 2);
    assert_eq!(rate_currency("USD").payable(), Ok(currency("USD")));
}

#[test]
fn the_euro_constants_are_the_table_entry() {
    assert_eq!(currency("EUR"), Currency::EUR);
    assert_eq!(rate_currency("EUR"), RateCurrency::EUR);
    assert_eq!(RateCurrency::try_from(Currency::EUR), Ok(RateCurrency::EUR));
}

#[test]
fn a_currency_is_its_code_in_json() {
    assert_eq!(
        serde_json::to_string(&Currency::EUR).ok().as_deref(),
        Some("\"EUR\"")
    );
    assert_eq!(
        serde_json::from_str::<Currency>("\"JPY\"").ok(),
        Some(currency("JPY"))
    );
    assert!(serde_json::from_str::<Currency>("\"TRL\"").is_err());
    assert_eq!(
        serde_json::from_str::<RateCurrency>("\"TRL\"").ok(),
        Some(rate_currency("TRL"))
    );
}
