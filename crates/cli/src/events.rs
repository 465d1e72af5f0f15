//! `innover events`: what the bus carries, read from the bridge's file, running or not.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};
use innover_bridge::{
    KafkaConfig, KafkaLetters,
    inspect::{self, DeadLetterRow, EventFilter, EventRow, LetterFilter},
};
use serde_json::Value;

use crate::{
    app::App,
    print::{self, cut, time},
};

/// How often `tail` looks for new events: a person reads it.
const FOLLOW: Duration = Duration::from_millis(200);
/// Rows read from the file at once.
const PAGE: usize = 500;

pub struct Tail {
    pub from_start: bool,
    pub follow: bool,
    pub filter: EventFilter,
    /// Whole envelopes instead of one short line each.
    pub json: bool,
}

/// Prints the newest events, or all, and goes on with `--follow`.
pub async fn tail(store: &Path, options: Tail) -> Result<()> {
    exists(store)?;
    let head = inspect::head(store)?;
    let start = if options.from_start {
        0
    } else {
        (head - 20).max(0)
    };
    let mut tail = inspect::tail(store, start, options.filter)?;
    loop {
        let rows = tail.read(PAGE)?;
        for row in &rows {
            let shown = if options.json {
                row.envelope.clone()
            } else {
                short(row)
            };
            if !print::line(shown) {
                return Ok(());
            }
        }
        if rows.len() == PAGE {
            continue;
        }
        if !options.follow {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(FOLLOW) => {}
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
    }
}

fn short(row: &EventRow) -> String {
    let envelope: Value = serde_json::from_str(&row.envelope).unwrap_or_default();
    format!(
        "{:>6}  {}  {:<22} {:<42} {}",
        row.seq,
        time(row.appended_at),
        row.topic,
        row.key,
        cut(&envelope["data"].to_string(), 160)
    )
}

/// Events per type and where each subscriber is.
pub fn list(store: &Path) -> Result<()> {
    exists(store)?;
    let mut topics: std::collections::BTreeMap<String, (i64, i64)> =
        std::collections::BTreeMap::new();
    let mut after = 0;
    loop {
        let rows = inspect::events(store, after, PAGE, &EventFilter::default())?;
        let Some(last) = rows.last() else { break };
        after = last.seq;
        for row in rows {
            let (count, newest) = topics.entry(row.topic).or_default();
            *count += 1;
            *newest = row.appended_at;
        }
    }
    let rows: Vec<_> = topics
        .into_iter()
        .map(|(topic, (count, newest))| [topic, count.to_string(), time(newest)])
        .collect();
    print::table(["type", "events", "newest"], &rows);
    print::line("");
    let rows: Vec<_> = inspect::subscribers(store)?
        .into_iter()
        .map(|s| {
            [
                s.subscriber,
                s.cursor.to_string(),
                (s.head - s.cursor).to_string(),
                s.retrying.to_string(),
            ]
        })
        .collect();
    print::table(["subscriber", "cursor", "behind", "retrying"], &rows);
    Ok(())
}

/// Events that could not be delivered.
pub fn dead_letters(store: &Path, subscriber: Option<String>, limit: usize) -> Result<()> {
    exists(store)?;
    let filter = LetterFilter {
        kind: Some("event"),
        target: subscriber,
        ..LetterFilter::default()
    };
    print_letters("event", inspect::dead_letters(store, &filter, limit)?);
    Ok(())
}

/// The services that events are delivered to.
pub fn subscribers(app: &App) -> Vec<String> {
    let components = app.manifest.components.iter();
    components
        .filter(|(_, component)| !component.innover.subscribes.is_empty())
        .map(|(id, component)| component.innover.service_name(id).to_owned())
        .collect()
}

/// The dead letters of these services on Kafka.
pub async fn kafka_dead_letters(
    kafka: KafkaConfig,
    services: Vec<String>,
    limit: usize,
) -> Result<()> {
    let letters = tokio::task::spawn_blocking(move || {
        let letters = KafkaLetters::new(kafka);
        let of = |service: &String| letters.list(service, limit);
        services.iter().map(of).collect::<Result<Vec<_>, _>>()
    });
    let letters = letters.await??.into_iter().flatten();
    let rows: Vec<_> = letters
        .map(|letter| {
            [
                time(letter.dead_at),
                letter.service,
                format!("{}/{}", letter.partition, letter.offset),
                letter.topic,
                letter.id,
                letter.attempts.to_string(),
                cut(&letter.error, 100),
            ]
        })
        .collect();
    if rows.is_empty() {
        print::line("no dead events");
        return Ok(());
    }
    print::table(
        ["given up", "for", "letter", "topic", "id", "tries", "error"],
        &rows,
    );
    print::line("`innover events replay <for> <letter>` puts one back on its topic");
    Ok(())
}

/// Puts a dead letter back on its topic.
pub async fn replay(kafka: KafkaConfig, service: String, letter: &str) -> Result<()> {
    let place = letter.split_once('/').and_then(|(partition, offset)| {
        Some((partition.parse::<i32>().ok()?, offset.parse::<i64>().ok()?))
    });
    let (partition, offset) =
        place.context("a dead letter is named partition/offset, e.g. 0/17")?;
    let replayed = tokio::task::spawn_blocking(move || {
        KafkaLetters::new(kafka).replay(&service, partition, offset)
    });
    let replayed = replayed.await??;
    print::line(format!("{} is on {} again", replayed.id, replayed.topic));
    Ok(())
}

/// Dead letters as a table; `kind` is `event` or `job`.
pub(crate) fn print_letters(kind: &str, letters: Vec<DeadLetterRow>) {
    let rows: Vec<_> = letters
        .into_iter()
        .map(|d| {
            [
                time(d.dead_at),
                d.target,
                d.name,
                d.id,
                d.attempts.to_string(),
                cut(&d.error, 100),
            ]
        })
        .collect();
    if rows.is_empty() {
        print::line(format!("no dead {kind}s"));
        return;
    }
    print::table(["given up", "for", "name", "id", "tries", "error"], &rows);
}

pub(crate) fn exists(store: &Path) -> Result<()> {
    std::fs::metadata(store).map(drop).with_context(|| {
        format!(
            "there is no {}: `innover up` makes it; --state-dir names another folder",
            store.display()
        )
    })
}
