use std::{collections::BTreeMap, fs, path::Path};

use innover_money::Currency;

const UPDATE: &str = "INNOVER_UPDATE_GENERATED";

/// Code → (numeric, minor digits) of the official list.
fn official() -> BTreeMap<String, (u16, Option<u8>)> {
    let text = include_str!("../../data/list-one.xml");
    let document = roxmltree::Document::parse(text).expect("well-formed XML");
    let mut list = BTreeMap::new();
    for entry in document.descendants().filter(|n| n.has_tag_name("CcyNtry")) {
        let text = |name| {
            entry
                .children()
                .find(|n| n.has_tag_name(name))
                .and_then(|n| n.text())
        };
        // Antarctica and a few others have no currency of their own.
        let Some(code) = text("Ccy") else { continue };
        let numeric = text("CcyNbr").and_then(|n| n.parse().ok()).expect("CcyNbr");
        let digits = match text("CcyMnrUnts").expect("CcyMnrUnts") {
            "N.A." => None,
            digits => Some(digits.parse().expect("digits")),
        };
        let before = list.insert(code.to_string(), (numeric, digits));
        assert!(
            before.is_none_or(|before| before == (numeric, digits)),
            "{code}"
        );
    }
    list
}

fn rendered(list: &BTreeMap<String, (u16, Option<u8>)>) -> String {
    let rows: String = list
        .iter()
        .map(|(code, (numeric, digits))| {
            format!("    Currency::listed(\"{code}\", {numeric}, {digits:?}),\n")
        })
        .collect();
    format!(
        "//! Generated from `data/list-one.xml` (ISO 4217 list one, published 2026-01-01) by
//! `tests/rules/iso4217.rs`, which fails when this file differs from it. Do not edit.

use crate::Currency;

#[rustfmt::skip]
pub(crate) const TABLE: [Currency; {}] = [
{rows}];
",
        list.len()
    )
}

#[test]
fn the_generated_table_is_the_official_list() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/iso4217.rs");
    let wanted = rendered(&official());
    if std::env::var_os(UPDATE).is_some() {
        fs::write(&file, &wanted).expect("the table can be written");
    }
    let is = fs::read_to_string(&file).expect("the table can be read");
    assert!(
        is == wanted,
        "src/iso4217.rs is not what data/list-one.xml says; run again with {UPDATE}=1"
    );
}

#[test]
fn every_official_code_is_known_with_its_number_and_digits() {
    let list = official();
    assert_eq!(list.len(), 178);
    assert_eq!(Currency::all().len(), 178);
    for (code, (numeric, digits)) in &list {
        let currency = super::currency(code);
        assert_eq!(currency.code(), code);
        assert_eq!(currency.numeric(), *numeric, "{code}");
        assert_eq!(currency.minor_digits(), *digits, "{code}");
    }
    let without_minor_units = list.values().filter(|(_, digits)| digits.is_none()).count();
    assert_eq!(without_minor_units, 13);
}
