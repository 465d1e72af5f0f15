//! `innover events`: what the bus carries, read from the bridge's file, running or not.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use innover_bridge::{
    HttpDoor, KafkaConfig, KafkaLetter, KafkaLetters,
    inspect::{self, DeadLetterRow, EventFilter, EventRow, JobStore, LetterFilter},
};
use innover_contract::Keyring;
use serde::Serialize;
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

/// Where events are that could not be delivered.
pub enum Bus {
    /// In the bridge's file.
    File(PathBuf),
    /// On a topic of each of these services.
    Kafka {
        config: KafkaConfig,
        services: Vec<String>,
    },
}

/// Events that could not be delivered, and rows of outboxes that are neither events nor jobs; all of
/// them, or of one service.
pub async fn dead_letters(
    bus: Bus,
    rows: &JobStore,
    service: Option<String>,
    limit: usize,
    json: bool,
) -> Result<()> {
    let of = |kind| LetterFilter {
        kind: Some(kind),
        target: service.clone(),
        ..LetterFilter::default()
    };
    match bus {
        Bus::File(store) => {
            exists(&store)?;
            let letters = inspect::dead_letters(&store, &of("event"), limit)?;
            if json {
                print_json(&letters)?;
            } else if print_letters("event", letters) {
                print::line("`innover events replay <for> <id>` delivers one again");
            }
        }
        Bus::Kafka { config, services } => {
            let letters = on_kafka(config, services, limit).await?;
            if json {
                print_json(&letters)?;
            } else {
                print_on_kafka(letters);
            }
        }
    }
    let rows = rows.dead_letters(&of("outbox"), limit).await?;
    if json {
        return print_json(&rows);
    }
    if rows.is_empty() {
        return Ok(());
    }
    print::line("\nrows of an outbox that are no event and no job:");
    print_letters("row", rows);
    print::line("`--json` shows them whole; `innover events discard <for> <id>` forgets one");
    Ok(())
}

fn print_json<T: Serialize>(letters: &[T]) -> Result<()> {
    for letter in letters {
        print::line(serde_json::to_string(letter)?);
    }
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

async fn on_kafka(
    kafka: KafkaConfig,
    services: Vec<String>,
    limit: usize,
) -> Result<Vec<KafkaLetter>> {
    let letters = tokio::task::spawn_blocking(move || {
        let letters = KafkaLetters::new(kafka);
        let of = |service: &String| letters.list(service, limit);
        services.iter().map(of).collect::<Result<Vec<_>, _>>()
    });
    Ok(letters.await??.into_iter().flatten().collect())
}

fn print_on_kafka(letters: Vec<KafkaLetter>) {
    let rows: Vec<_> = letters
        .into_iter()
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
        return;
    }
    print::table(
        ["given up", "for", "letter", "topic", "id", "tries", "error"],
        &rows,
    );
    print::line("`innover events replay <for> <letter>` puts one back on its topic");
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

/// Delivers a dead event of the bridge's file again, through the running platform, and forgets it when
/// it is taken.
pub async fn redeliver(
    store: &Path,
    gateway: &str,
    keyring: Keyring,
    service: String,
    id: String,
) -> Result<()> {
    exists(store)?;
    let filter = LetterFilter {
        kind: Some("event"),
        target: Some(service),
        id: Some(id),
        ..LetterFilter::default()
    };
    let letter = inspect::dead_letters(store, &filter, 1)?.pop();
    let letter = letter.with_context(|| no_letter(&filter))?;
    let door = HttpDoor::new(gateway, keyring).context("cannot set up the HTTP client")?;
    let (target, id) = (&letter.target, &letter.id);
    if let Err(why) = innover_bridge::redeliver(&door, &letter).await {
        bail!("`{target}` did not take {id}, which stays a dead letter: {why}");
    }
    inspect::forget_letter(store, "event", target, id)?;
    print::line(format!("`{target}` has taken {id}"));
    Ok(())
}

/// Forgets a dead letter: an event's in the bridge's file, or a row's of an outbox.
pub async fn discard(rows: &JobStore, file: &Path, service: String, id: String) -> Result<()> {
    let event = file.exists() && inspect::forget_letter(file, "event", &service, &id)?;
    let row = rows.forget_row(&service, &id).await?;
    if !event && !row {
        let filter = LetterFilter {
            target: Some(service),
            id: Some(id),
            ..LetterFilter::default()
        };
        bail!("{}", no_letter(&filter));
    }
    print::line(format!("{id} is forgotten"));
    Ok(())
}

fn no_letter(filter: &LetterFilter) -> String {
    let (service, id) = (filter.target.as_deref(), filter.id.as_deref());
    format!(
        "no dead letter of `{}` has the id {}; `innover events dead-letters` lists them",
        service.unwrap_or_default(),
        id.unwrap_or_default()
    )
}

/// Dead letters as a table, or that there are none. Returns whether there are any.
pub(crate) fn print_letters(kind: &str, letters: Vec<DeadLetterRow>) -> bool {
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
        return false;
    }
    print::table(["given up", "for", "name", "id", "tries", "error"], &rows);
    true
}

pub(crate) fn exists(store: &Path) -> Result<()> {
    std::fs::metadata(store).map(drop).with_context(|| {
        format!(
            "there is no {}: `innover up` makes it; --state-dir names another folder",
            store.display()
        )
    })
}
