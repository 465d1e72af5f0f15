//! Output that survives a reader that has gone (`innover events list | head`): the standard macros
//! panic then.

use std::{fmt::Display, io::Write};

/// Prints a line. False when nobody reads any more.
pub fn line(text: impl Display) -> bool {
    writeln!(std::io::stdout().lock(), "{text}").is_ok()
}

/// Prints rows under a heading, each column as wide as its widest cell.
pub fn table<const N: usize>(heading: [&str; N], rows: &[[String; N]]) {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells
            .chain([heading[column].chars().count()])
            .max()
            .unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let render = |cells: [&str; N]| {
        let padded = cells
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    if !line(render(heading)) {
        return;
    }
    for row in rows {
        if !line(render(row.each_ref().map(String::as_str))) {
            return;
        }
    }
}

/// A time in microseconds since the epoch as RFC 3339 with milliseconds.
pub fn time(micros: i64) -> String {
    match jiff::Timestamp::from_microsecond(micros) {
        Ok(time) => format!("{time:.3}"),
        Err(_) => micros.to_string(),
    }
}

/// The first `max` characters, with an ellipsis where something is left out.
pub fn cut(text: &str, max: usize) -> String {
    let flat: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if flat.chars().count() <= max {
        return flat;
    }
    flat.chars()
        .take(max.saturating_sub(1))
        .chain(['…'])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(time(1_793_361_600_123_456), "2026-10-30T12:00:00.123Z");
    }

    #[test]
    fn long_or_multi_line_text_fits_its_cell() {
        assert_eq!(cut("short", 5), "short");
        assert_eq!(cut("a\nlonger text", 6), "a lon…");
    }
}
