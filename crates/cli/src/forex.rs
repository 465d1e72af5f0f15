//! `innover forex load`: the European Central Bank's rates into a running platform.

use std::{
    io::{IsTerminal, Read, Write},
    path::Path,
};

use anyhow::{Context, Result, bail};
use innover_money::{
    ecb::{self, DailyRates},
    limits::RATES_BYTES_MAX,
};
use serde_json::{Map, Value, json};

use crate::{client::Access, print};

/// Daily sets in one request: a quarter megabyte, stored well within the request deadline.
const SETS_PER_REQUEST: usize = 500;

/// Loads a file; with `replace` days that are there with other rates get another revision.
pub async fn load(access: &Access, file: &Path, replace: bool) -> Result<()> {
    let text = read(file)?;
    let mut days =
        ecb::parse(&text).with_context(|| format!("{} is no file of the ECB's", file.display()))?;
    // Oldest first: if it breaks off, what is there has no gap.
    days.reverse();
    let platform = access.platform().await?;
    let (mut added, mut replaced, mut unchanged) = (0, 0, 0);
    let mut done = 0;
    for chunk in days.chunks(SETS_PER_REQUEST) {
        progress(done, days.len());
        let body = request(chunk, replace);
        let key = uuid::Uuid::now_v7().to_string();
        let answer = platform.post("/api/forex/v1/rate-sets", &body, Some(&key)).await.with_context(|| {
            let (first, last) = (&chunk[0].date, &chunk[chunk.len() - 1].date);
            format!("the days {first} to {last} were not loaded, those before were; run it again when it is corrected (--replace gives days with other rates a new revision)")
        })?;
        let count = |name: &str| answer.body[name].as_u64().unwrap_or(0);
        added += count("added");
        replaced += count("replaced");
        unchanged += count("unchanged");
        done += chunk.len();
    }
    progress(done, days.len());
    if std::io::stderr().is_terminal() {
        eprintln!();
    }
    // parse refuses a file without days.
    let (first, last) = (&days[0].date, &days[days.len() - 1].date);
    print::line(format!(
        "{} days, {first} to {last}: {added} added, {replaced} replaced, {unchanged} were there already",
        days.len()
    ));
    Ok(())
}

fn request(days: &[DailyRates], replace: bool) -> Value {
    let set = |day: &DailyRates| {
        let rates: Map<_, _> = day
            .rates
            .iter()
            .map(|(currency, rate)| (currency.code().to_owned(), rate.clone().into()))
            .collect();
        json!({ "date": day.date, "rates": rates })
    };
    json!({ "source": "ECB", "sets": days.iter().map(set).collect::<Vec<_>>(), "replace": replace })
}

/// The text of the file; a .zip holds it as its only entry.
fn read(path: &Path) -> Result<String> {
    let open = || format!("cannot read {}", path.display());
    let file = std::fs::File::open(path).with_context(open)?;
    let zipped = path
        .extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("zip"));
    if !zipped {
        return bounded(file).with_context(open);
    }
    let mut archive =
        zip::ZipArchive::new(file).with_context(|| format!("{} is no zip file", path.display()))?;
    if archive.len() != 1 {
        bail!(
            "{} holds {} files; the ECB's has one",
            path.display(),
            archive.len()
        );
    }
    bounded(archive.by_index(0).with_context(open)?).with_context(open)
}

/// Reads no more than the parser takes, whatever a zip file claims.
fn bounded(source: impl Read) -> Result<String> {
    let mut text = String::new();
    source
        .take(RATES_BYTES_MAX as u64 + 1)
        .read_to_string(&mut text)?;
    Ok(text)
}

fn progress(done: usize, total: usize) {
    const WIDTH: usize = 30;
    if std::io::stderr().is_terminal() {
        let full = WIDTH * done / total.max(1);
        eprint!("\r[{:<WIDTH$}] {done}/{total} days", "#".repeat(full));
        // A progress bar that does not show is no reason to stop.
        let _ = std::io::stderr().flush();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
    use super::*;

    const CSV: &str = "Date,USD,ISK,\n2026-10-30,1.1172,N/A,\n2026-10-29,1.1650,142.0,\n";

    #[test]
    fn a_zip_file_is_read_as_its_only_entry() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("eurofxref-hist.zip");
        let mut writer = zip::ZipWriter::new(std::fs::File::create(&path).unwrap());
        writer
            .start_file(
                "eurofxref-hist.csv",
                zip::write::SimpleFileOptions::default(),
            )
            .unwrap();
        writer.write_all(CSV.as_bytes()).unwrap();
        writer.finish().unwrap();
        assert_eq!(read(&path).unwrap(), CSV);
    }

    #[test]
    fn a_request_leaves_holes_out_and_keeps_rates_as_published() {
        let days = ecb::parse(CSV).unwrap();
        assert_eq!(
            request(&days, false),
            json!({"source": "ECB", "replace": false, "sets": [
                {"date": "2026-10-30", "rates": {"USD": "1.1172"}},
                {"date": "2026-10-29", "rates": {"USD": "1.1650", "ISK": "142.0"}},
            ]})
        );
    }
}
