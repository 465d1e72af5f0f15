use innover_money::{
    RateCurrency,
    ecb::{self, DailyRates, ECB_EXTRACT, EcbFault},
};
use proptest::prelude::*;

use super::{rate, rate_currency};

const DAILY_CSV: &str = "Date, USD, JPY, GBP, \n30 October 2026, 1.1172, 175.68, 0.83380, \n";

const DAILY_XML: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<gesmes:Envelope xmlns:gesmes="http://www.gesmes.org/xml/2002-08-01" xmlns="http://www.ecb.int/vocabulary/2002-08-01/eurofxref">
	<gesmes:subject>Reference rates</gesmes:subject>
	<gesmes:Sender>
		<gesmes:name>European Central Bank</gesmes:name>
	</gesmes:Sender>
	<Cube>
		<Cube time='2026-10-30'>
			<Cube currency='USD' rate='1.1172'/>
			<Cube currency='JPY' rate='175.68'/>
			<Cube currency='GBP' rate='0.83380'/></Cube>
	</Cube>
</gesmes:Envelope>"#;

fn day(date: &str, rates: &[(&str, &str)]) -> DailyRates {
    let rates = rates
        .iter()
        .map(|(code, text)| (rate_currency(code), text.to_string()));
    DailyRates {
        date: date.to_string(),
        rates: rates.collect(),
    }
}

#[test]
fn the_extract_is_fifteen_days_with_holes_for_the_codes_of_the_past() {
    let days = ecb::parse(ECB_EXTRACT).expect("the extract is valid");
    assert_eq!(days.len(), 15);
    assert_eq!(days[0].date, "2026-10-30");
    assert_eq!(days[14].date, "2026-10-12");
    for day in &days {
        assert_eq!(day.rates.len(), 29, "{}", day.date);
        for historic in RateCurrency::historic() {
            assert_eq!(day.per_eur(historic), None);
        }
    }
    assert_eq!(days[0].per_eur(rate_currency("USD")), Some(rate("1.1172")));
    assert_eq!(days[0].per_eur(rate_currency("RUB")), None);
}

#[test]
fn the_daily_csv_and_the_daily_xml_say_the_same() {
    // The rate of GBP keeps its last zero: rates stay as published.
    let wanted = day(
        "2026-10-30",
        &[("USD", "1.1172"), ("JPY", "175.68"), ("GBP", "0.83380")],
    );
    assert_eq!(ecb::parse_csv(DAILY_CSV), Ok(vec![wanted.clone()]));
    assert_eq!(ecb::parse_xml(DAILY_XML), Ok(vec![wanted.clone()]));
    assert_eq!(ecb::parse(DAILY_CSV), Ok(vec![wanted.clone()]));
    assert_eq!(
        ecb::parse(&format!("\u{feff}{DAILY_XML}")),
        Ok(vec![wanted.clone()])
    );
    let windows = DAILY_CSV.replace('\n', "\r\n");
    assert_eq!(ecb::parse(&windows), Ok(vec![wanted]));
}

#[test]
fn holes_of_the_history_stay_holes() {
    let text = "Date,USD,BGN,\n2026-01-02,1.1,N/A,\n2025-12-31,N/A,1.9558,\n";
    let days = ecb::parse(text).expect("valid");
    assert_eq!(days[0], day("2026-01-02", &[("USD", "1.1")]));
    assert_eq!(days[1], day("2025-12-31", &[("BGN", "1.9558")]));
}

#[test]
fn a_fault_in_csv_is_named_with_its_line_and_column() {
    let fault = |text: &str| {
        let error = ecb::parse_csv(text).expect_err(text);
        (error.line, error.column, error.fault)
    };
    use EcbFault::{Currency, Date, Empty, NoDateColumn, Order, Rate, Twice, Width};
    let width = |expected, got| Width { expected, got };
    for (text, line, column, wanted) in [
        ("", 1, 1, Empty),
        ("Date,\n", 1, 2, Empty),
        ("Date,USD,\n", 2, 1, Empty),
        ("Day,USD,\n", 1, 1, NoDateColumn("Day".into())),
        ("Date,USD,usd,\n", 1, 3, Currency("usd".into())),
        ("Date,EUR,\n", 1, 2, Currency("EUR".into())),
        ("Date,XAU,\n", 1, 2, Currency("XAU".into())),
        ("Date,,USD,\n", 1, 2, Currency("".into())),
        ("Date,USD,USD,\n", 1, 3, Twice(rate_currency("USD"))),
        (
            "Date,USD,\n2026-02-30,1,\n",
            2,
            1,
            Date("2026-02-30".into()),
        ),
        ("Date,USD,\n20260203,1,\n", 2, 1, Date("20260203".into())),
        (
            "Date,USD,\n2026-02-03T00:00,1,\n",
            2,
            1,
            Date("2026-02-03T00:00".into()),
        ),
        (
            "Date,USD,\n31 Februar 2026,1,\n",
            2,
            1,
            Date("31 Februar 2026".into()),
        ),
        (
            "Date,USD,\n2026-02-03,1,\n2026-02-03,1,\n",
            3,
            1,
            Order("2026-02-03".into()),
        ),
        (
            "Date,USD,\n2026-02-03,1,\n2026-02-04,1,\n",
            3,
            1,
            Order("2026-02-04".into()),
        ),
        ("Date,USD,JPY,\n2026-02-03,1,-1,\n", 2, 3, Rate("-1".into())),
        ("Date,USD,JPY,\n2026-02-03,0,1,\n", 2, 2, Rate("0".into())),
        (
            "Date,USD,JPY,\n2026-02-03,1e3,1,\n",
            2,
            2,
            Rate("1e3".into()),
        ),
        ("Date,USD,JPY,\n2026-02-03,,1,\n", 2, 2, Rate("".into())),
        (
            "Date,USD,JPY,\n\n2026-02-03,n/a,1,\n",
            3,
            2,
            Rate("n/a".into()),
        ),
        ("Date,USD,JPY,\n2026-02-03,1,\n", 2, 2, width(3, 2)),
        ("Date,USD,\n2026-02-03,1,2,3,\n", 2, 3, width(2, 4)),
    ] {
        assert_eq!(fault(text), (line, column, wanted), "{text:?}");
    }
    let error = ecb::parse_csv("Date,USD,\n2026-02-03,x,\n").expect_err("no rate");
    assert_eq!(error.to_string(), "line 2, column 2: \"x\" is not a rate");
}

#[test]
fn a_fault_in_xml_is_named_with_its_line_and_column() {
    let fault = |from: &str, to: &str| {
        let error = ecb::parse_xml(&DAILY_XML.replace(from, to)).expect_err(to);
        (error.line, error.column, error.fault)
    };
    use EcbFault::{Attribute, Currency, Date, Empty, Rate, Twice};
    assert_eq!(
        fault("rate='175.68'", "rate='0'"),
        (10, 4, Rate("0".into()))
    );
    assert_eq!(fault("rate='175.68'", ""), (10, 4, Attribute("rate")));
    assert_eq!(fault("currency='JPY'", ""), (10, 4, Attribute("currency")));
    assert_eq!(fault("JPY", "EUR"), (10, 4, Currency("EUR".into())));
    assert_eq!(fault("JPY", "USD"), (10, 4, Twice(rate_currency("USD"))));
    assert_eq!(
        fault("2026-10-30", "2026-13-30"),
        (8, 3, Date("2026-13-30".into()))
    );
    assert_eq!(fault("time=", "day="), (2, 1, Empty));
    let (line, _, broken) = fault("</Cube>", "");
    assert!(line > 8 && matches!(broken, EcbFault::Xml(_)), "{broken}");
    let bomb = "<!DOCTYPE a [<!ENTITY b \"c\">]><a>&b;</a>";
    let refused = ecb::parse_xml(bomb).expect_err("a document type");
    assert!(matches!(refused.fault, EcbFault::Xml(_)), "{refused}");
}

#[test]
fn files_beyond_the_limits_are_refused() {
    let huge = " ".repeat(16 * 1024 * 1024 + 1);
    let error = ecb::parse(&huge).expect_err("too large");
    assert_eq!(error.fault, EcbFault::TooLarge);
    let deep = "<a>".repeat(2_000_000);
    let error = ecb::parse(&deep).expect_err("too many nodes");
    assert!(matches!(error.fault, EcbFault::Xml(_)), "{error}");
    let wide = format!("Date,{}", "USD,".repeat(1_000_000));
    assert_eq!(ecb::parse(&wide).map_err(|error| error.column), Err(3));
    let long = format!("Date,{}\n", "Q".repeat(100_000));
    let message = ecb::parse(&long).expect_err("no currency").to_string();
    assert!(message.len() < 200, "{message}");
}

#[test]
fn a_daily_set_that_lacks_a_required_currency_is_refused_whole() {
    let days = ecb::parse(DAILY_CSV).expect("valid");
    let codes = |codes: &[&str]| {
        codes
            .iter()
            .map(|code| rate_currency(code))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        ecb::complete(&days[0], &codes(&["GBP", "USD", "EUR"])),
        Ok(())
    );
    let refused = ecb::complete(&days[0], &codes(&["CHF", "USD", "SEK"])).expect_err("lacks two");
    assert_eq!(refused.missing, codes(&["CHF", "SEK"]));
    assert_eq!(refused.to_string(), "the rates of 2026-10-30 lack CHF, SEK");
}

proptest! {
    #[test]
    fn a_damaged_file_is_refused_or_read_but_never_panics(
        at in 0usize..400, cut in 0usize..8, put in "\\PC{0,6}", xml: bool,
    ) {
        let file = if xml { DAILY_XML } else { DAILY_CSV };
        let keep: String = file.chars().take(at).collect();
        let rest: String = file.chars().skip(at + cut).collect();
        for day in ecb::parse(&format!("{keep}{put}{rest}")).unwrap_or_default() {
            for (currency, _) in &day.rates {
                prop_assert!(day.per_eur(*currency).is_some());
            }
        }
    }
}
