//! The European Central Bank's euro reference rates: the history as CSV, the daily set as CSV and
//! as XML. Rates are how many units of a currency one euro buys; they are kept as published, each
//! one checked.

use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    Rate, RateCurrency,
    limits::{RATE_COLUMNS_MAX, RATES_BYTES_MAX, XML_NODES_MAX},
};

/// The last trading days up to 2026-10-30, in the history's format: enough for a start without a
/// network. Source: European Central Bank (`data/README.md`).
pub const ECB_EXTRACT: &str = include_str!("../data/eurofxref-extract.csv");

/// What the history writes where a currency had no rate that day.
const HOLE: &str = "N/A";

/// The rates of one day. A currency without a rate that day (a hole of the history) is absent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DailyRates {
    /// The day the rates were fixed, `YYYY-MM-DD`.
    pub date: String,
    /// Currency and units per euro, as published (`"1.1172"`), in the order of the file.
    pub rates: Vec<(RateCurrency, String)>,
}

impl DailyRates {
    /// Units of `currency` per euro; the euro itself is 1. `None` where the day has no rate.
    pub fn per_eur(&self, currency: RateCurrency) -> Option<Rate> {
        if currency == RateCurrency::EUR {
            return Some(Rate::ONE);
        }
        let (_, text) = self.rates.iter().find(|(listed, _)| *listed == currency)?;
        Rate::parse_decimal(text).ok()
    }

    /// The rate from `base` to `quote` through the euro, `None` where the day lacks one of them (or
    /// the fraction needs more than 38 digits, which published rates are far from).
    pub fn cross(&self, base: RateCurrency, quote: RateCurrency) -> Option<Rate> {
        Rate::cross(&self.per_eur(base)?, &self.per_eur(quote)?).ok()
    }
}

/// Why a rate file was refused. Lines and columns count from 1; in CSV the column is that of the
/// table (the date is column 1), in XML that of the character.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("line {line}, column {column}: {fault}")]
pub struct EcbError {
    /// Line in the file.
    pub line: usize,
    /// Column in that line.
    pub column: usize,
    /// What is wrong there.
    pub fault: EcbFault,
}

/// What is wrong in a rate file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EcbFault {
    /// Larger than any file of this kind.
    #[error("file is larger than {RATES_BYTES_MAX} bytes")]
    TooLarge,
    /// No header, or no day after it.
    #[error("no rates")]
    Empty,
    /// The header's first column is not `Date`.
    #[error("expected the column \"Date\", got {0:?}")]
    NoDateColumn(String),
    /// More columns than there are currencies.
    #[error("more than {RATE_COLUMNS_MAX} columns")]
    TooManyColumns,
    /// A code that is neither payable nor one of the historic ones, or the euro itself.
    #[error("{0:?} is not a currency with a rate against the euro")]
    Currency(String),
    /// A currency listed twice.
    #[error("{0} is listed twice")]
    Twice(RateCurrency),
    /// Neither `YYYY-MM-DD` nor `30 October 2026`, or no day of the calendar.
    #[error("{0:?} is not a date")]
    Date(String),
    /// A day that is not before the one above it: the files are newest first, each day once.
    #[error("{0} is not before the day above it")]
    Order(String),
    /// A row whose length is not the header's.
    #[error("row has {got} columns, the header {expected}")]
    Width {
        /// Columns of the header, the trailing empty one not counted.
        expected: usize,
        /// Columns of the row.
        got: usize,
    },
    /// A rate that is no positive decimal.
    #[error("{0:?} is not a rate")]
    Rate(String),
    /// Not well-formed XML, or with a document type declaration.
    #[error("{0}")]
    Xml(String),
    /// An element without an attribute it must have.
    #[error("<Cube> without {0:?}")]
    Attribute(&'static str),
}

impl EcbFault {
    fn at(self, line: usize, column: usize) -> EcbError {
        EcbError {
            line,
            column,
            fault: self,
        }
    }
}

/// A daily set that lacks currencies, so that it is refused whole.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the rates of {date} lack {}", codes(missing))]
pub struct Incomplete {
    /// The set's day.
    pub date: String,
    /// What it lacks, in the order they were required.
    pub missing: Vec<RateCurrency>,
}

fn codes(currencies: &[RateCurrency]) -> String {
    let codes: Vec<_> = currencies.iter().map(|missing| missing.code()).collect();
    codes.join(", ")
}

/// Whether a day has a rate for every currency of `required` (the euro always has).
pub fn complete(day: &DailyRates, required: &[RateCurrency]) -> Result<(), Incomplete> {
    let missing: Vec<_> = required
        .iter()
        .copied()
        .filter(|currency| day.per_eur(*currency).is_none())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Incomplete {
        date: day.date.clone(),
        missing,
    })
}

/// Reads any of the three forms: XML when it starts with `<`, else CSV.
pub fn parse(text: &str) -> Result<Vec<DailyRates>, EcbError> {
    if without_mark(text).trim_start().starts_with('<') {
        parse_xml(text)
    } else {
        parse_csv(text)
    }
}

/// Reads the history (`Date,USD,JPY,…,`, days as `2026-10-30`, `N/A` for holes) or the daily file
/// (`Date, USD, …, `, the day as `30 October 2026`). Newest day first, as in the file.
pub fn parse_csv(text: &str) -> Result<Vec<DailyRates>, EcbError> {
    let text = bounded(text)?;
    let mut lines = text.lines().enumerate();
    let (_, header) = lines.next().ok_or(EcbFault::Empty.at(1, 1))?;
    let columns = csv_header(header)?;
    let mut days: Vec<DailyRates> = Vec::new();
    for (at, row) in lines.filter(|(_, row)| !row.trim().is_empty()) {
        let day = csv_row(row, &columns, at + 1)?;
        after(&days, &day.date).map_err(|fault| fault.at(at + 1, 1))?;
        days.push(day);
    }
    if days.is_empty() {
        return Err(EcbFault::Empty.at(2, 1));
    }
    Ok(days)
}

fn csv_header(header: &str) -> Result<Vec<RateCurrency>, EcbError> {
    let mut cells = cells(header).into_iter();
    let date = cells.next().unwrap_or_default();
    if date != "Date" {
        return Err(EcbFault::NoDateColumn(quoted(date)).at(1, 1));
    }
    let mut columns = Vec::new();
    for (at, code) in cells.enumerate() {
        if columns.len() == RATE_COLUMNS_MAX {
            return Err(EcbFault::TooManyColumns.at(1, at + 2));
        }
        let currency = currency(code).map_err(|fault| fault.at(1, at + 2))?;
        if columns.contains(&currency) {
            return Err(EcbFault::Twice(currency).at(1, at + 2));
        }
        columns.push(currency);
    }
    if columns.is_empty() {
        return Err(EcbFault::Empty.at(1, 2));
    }
    Ok(columns)
}

fn csv_row(row: &str, columns: &[RateCurrency], line: usize) -> Result<DailyRates, EcbError> {
    let cells = cells(row);
    let width = columns.len() + 1;
    if cells.len() != width {
        let fault = EcbFault::Width {
            expected: width,
            got: cells.len(),
        };
        return Err(fault.at(line, cells.len().min(width + 1)));
    }
    let date = date(cells[0]).map_err(|fault| fault.at(line, 1))?;
    let mut rates = Vec::new();
    for (at, (currency, cell)) in columns.iter().zip(&cells[1..]).enumerate() {
        if *cell != HOLE {
            let text = rate(cell).map_err(|fault| fault.at(line, at + 2))?;
            rates.push((*currency, text));
        }
    }
    Ok(DailyRates { date, rates })
}

/// The cells of a line, trimmed; the bank ends every line with a comma, which is no cell.
fn cells(line: &str) -> Vec<&str> {
    // One cell beyond the limit is enough to know that there are too many.
    let most = RATE_COLUMNS_MAX + 3;
    let mut cells: Vec<_> = line.split(',').map(str::trim).take(most).collect();
    if cells.len() > 1 && cells.last() == Some(&"") {
        cells.pop();
    }
    cells
}

/// Reads the XML: `<Cube time='2026-10-30'><Cube currency='USD' rate='1.1172'/>…</Cube>` at any
/// depth, one or several days (the bank's 90-day and history files have the same form).
pub fn parse_xml(text: &str) -> Result<Vec<DailyRates>, EcbError> {
    let text = bounded(text)?;
    let options = roxmltree::ParsingOptions {
        nodes_limit: XML_NODES_MAX,
        ..Default::default()
    };
    let document = roxmltree::Document::parse_with_options(text, options).map_err(|error| {
        let at = error.pos();
        EcbFault::Xml(error.to_string()).at(at.row as usize, at.col as usize)
    })?;
    // Positions are counted from the start of the text, so they are asked for only on errors.
    let at = |node: roxmltree::Node, fault: EcbFault| {
        let at = document.text_pos_at(node.range().start);
        fault.at(at.row as usize, at.col as usize)
    };
    let cube = |node: &roxmltree::Node| node.is_element() && node.tag_name().name() == "Cube";
    let mut days: Vec<DailyRates> = Vec::new();
    for node in document.descendants().filter(cube) {
        let Some(time) = node.attribute("time") else {
            continue;
        };
        let date = date(time).map_err(|fault| at(node, fault))?;
        after(&days, &date).map_err(|fault| at(node, fault))?;
        let mut rates: Vec<(RateCurrency, String)> = Vec::new();
        for entry in node.children().filter(cube) {
            let entry = xml_rate(entry, &rates).map_err(|fault| at(entry, fault))?;
            rates.push(entry);
        }
        days.push(DailyRates { date, rates });
    }
    if days.iter().all(|day| day.rates.is_empty()) {
        return Err(at(document.root_element(), EcbFault::Empty));
    }
    Ok(days)
}

fn xml_rate(
    entry: roxmltree::Node,
    listed: &[(RateCurrency, String)],
) -> Result<(RateCurrency, String), EcbFault> {
    let attribute = |name| entry.attribute(name).ok_or(EcbFault::Attribute(name));
    let currency = currency(attribute("currency")?)?;
    if listed.len() == RATE_COLUMNS_MAX {
        return Err(EcbFault::TooManyColumns);
    }
    if listed.iter().any(|(other, _)| *other == currency) {
        return Err(EcbFault::Twice(currency));
    }
    Ok((currency, rate(attribute("rate")?)?))
}

fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

fn bounded(text: &str) -> Result<&str, EcbError> {
    if text.len() > RATES_BYTES_MAX {
        return Err(EcbFault::TooLarge.at(1, 1));
    }
    Ok(without_mark(text))
}

fn after(days: &[DailyRates], date: &str) -> Result<(), EcbFault> {
    // `YYYY-MM-DD` sorts as text the way the days do.
    match days.last() {
        Some(above) if above.date.as_str() <= date => Err(EcbFault::Order(date.to_string())),
        _ => Ok(()),
    }
}

fn currency(code: &str) -> Result<RateCurrency, EcbFault> {
    match RateCurrency::parse(code) {
        Ok(currency) if currency != RateCurrency::EUR => Ok(currency),
        _ => Err(EcbFault::Currency(quoted(code))),
    }
}

fn rate(text: &str) -> Result<String, EcbFault> {
    match Rate::parse_decimal(text) {
        Ok(_) => Ok(text.to_string()),
        Err(_) => Err(EcbFault::Rate(quoted(text))),
    }
}

fn date(text: &str) -> Result<String, EcbFault> {
    let iso = text.parse::<Date>().ok();
    // jiff reads more forms than the bank writes; only a date that prints as it was is one.
    if iso.is_some_and(|date| date.to_string() == text) {
        return Ok(text.to_string());
    }
    match Date::strptime("%d %B %Y", text) {
        Ok(date) => Ok(date.to_string()),
        Err(_) => Err(EcbFault::Date(quoted(text))),
    }
}

/// Text of the file for a message, cut: a broken file may have one cell of megabytes.
fn quoted(text: &str) -> String {
    text.chars().take(32).collect()
}
