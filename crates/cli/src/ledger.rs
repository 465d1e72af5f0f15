//! `innover ledger`: the journal out of a running platform, and its verification with nothing but
//! the export and the public key.

use std::{
    fs::File,
    io::{BufRead, BufReader, BufWriter, Write},
    path::Path,
};

use anyhow::{Context, Result, bail};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use innover_contract::time::rfc3339;
use innover_journal::{HEADER, Line, PublicKey, Verifier};
use serde_json::{Value, json};

use crate::{
    client::{Access, Platform},
    print,
};

/// A line longer than this is none of ours: metadata has 4 kB.
const LINE_BYTES_MAX: usize = 64 << 10;

/// Makes a checkpoint now.
pub async fn checkpoint(access: &Access) -> Result<()> {
    let platform = access.platform().await?;
    let made = platform
        .post("/api/ledger/v1/checkpoints", &json!({}), None)
        .await?;
    print::line(serde_json::to_string_pretty(&made.body).context("cannot print it")?);
    Ok(())
}

/// Prints the public key.
pub async fn key(access: &Access) -> Result<()> {
    let platform = access.platform().await?;
    let key = platform.get("/api/ledger/v1/checkpoint-key").await?;
    print::line(key.to_string());
    Ok(())
}

/// Writes the journal as a checkpoint covers it, the newest when `number` names none.
pub async fn export(access: &Access, file: &Path, number: Option<i64>) -> Result<()> {
    let platform = access.platform().await?;
    let number = match number {
        Some(number) => number,
        None => newest(&platform).await?,
    };
    // A broken export must not stand where a whole one is expected.
    let partial = file.with_extension("partial");
    let written = write(&platform, number, &partial).await;
    if written.is_err() {
        // The first error is the one of interest.
        let _ = std::fs::remove_file(&partial);
    }
    let records = written?;
    std::fs::rename(&partial, file).with_context(|| format!("cannot write {}", file.display()))?;
    print::line(format!(
        "{records} records as of checkpoint {number} in {}",
        file.display()
    ));
    Ok(())
}

async fn newest(platform: &Platform) -> Result<i64> {
    let page = platform.get("/api/ledger/v1/checkpoints?limit=1").await?;
    let newest = page["data"][0]["number"].as_i64();
    newest.context("there is no checkpoint yet; `innover ledger checkpoint` makes one, and so does the ledger every minute")
}

async fn write(platform: &Platform, number: i64, file: &Path) -> Result<u64> {
    let at = || format!("cannot write {}", file.display());
    let mut out = BufWriter::new(File::create(file).with_context(at)?);
    writeln!(out, "{HEADER}").with_context(at)?;
    let (mut records, mut cursor) = (0, String::new());
    loop {
        let path = format!("/api/ledger/v1/checkpoints/{number}/journal?cursor={cursor}");
        let path = path.trim_end_matches("?cursor=");
        let page = platform.get(path).await?;
        let Value::Array(lines) = &page["data"] else {
            bail!("{path}: the answer holds no records");
        };
        for line in lines {
            // Through our own types, so that each record is written in its one form.
            let line: Line = serde_json::from_value(line.clone())
                .with_context(|| format!("{path}: a record is of another version"))?;
            serde_json::to_writer(&mut out, &line).with_context(at)?;
            out.write_all(b"\n").with_context(at)?;
            records += 1;
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => break,
        }
    }
    let out = out
        .into_inner()
        .map_err(|e| e.into_error())
        .with_context(at)?;
    out.sync_all().with_context(at)?;
    Ok(records)
}

/// Verifies an export; the first line at fault is the error.
pub fn verify(file: &Path, key: &Path) -> Result<()> {
    let key = public_key(key)?;
    let opened = File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut lines = BufReader::new(opened);
    let (mut verifier, mut line) = (Verifier::new(key), Vec::new());
    let mut number = 0;
    loop {
        number += 1;
        line.clear();
        let mut limited = std::io::Read::take(&mut lines, LINE_BYTES_MAX as u64);
        let read = limited
            .read_until(b'\n', &mut line)
            .with_context(|| format!("cannot read {}", file.display()))?;
        if read == 0 {
            break;
        }
        let text = std::str::from_utf8(&line)
            .with_context(|| format!("{}: line {number}: no text", file.display()))?;
        verifier
            .read(text)
            .with_context(|| format!("{} is not what was signed", file.display()))?;
    }
    let summary = verifier
        .finish()
        .with_context(|| format!("{} is not what was signed", file.display()))?;
    print::line(format!(
        "good: {} entries, {} postings, {} accounts as of checkpoint {} ({})",
        summary.entries,
        summary.postings,
        summary.accounts,
        summary.checkpoint,
        rfc3339(summary.created_at)
    ));
    Ok(())
}

/// From a JWK (RFC 8037), as `innover ledger key` prints it.
fn public_key(file: &Path) -> Result<PublicKey> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let jwk: Value = serde_json::from_str(&text).with_context(|| {
        format!(
            "{} is no JWK; `innover ledger key` prints one",
            file.display()
        )
    })?;
    let bytes = jwk["x"]
        .as_str()
        .and_then(|x| URL_SAFE_NO_PAD.decode(x).ok());
    let key = bytes.and_then(|bytes| PublicKey::from_bytes(&bytes));
    match (key, jwk["crv"].as_str()) {
        (Some(key), Some("Ed25519")) => Ok(key),
        _ => bail!("{} holds no Ed25519 public key", file.display()),
    }
}
