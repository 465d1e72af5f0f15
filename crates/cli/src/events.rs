//! `innover events`: what the bus carries, read from the bridge's file, running or not.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use innover_bridge::{
    HttpDoor, KafkaConfig, KafkaLetter, KafkaLetters, KafkaProblem, Which,
    inspect::{self, DeadLetterRow, EventFilter, EventRow, JobStore, LetterFilter},
};
use serde::Serialize;
use serde_json::Value;

use crate::{
    app::App,
    arguments::Place,
    bus,
    print::{self, cut, time},
    state::StateDir,
};

/// How often `tail` looks for new events: a person reads it.
const FOLLOW: Duration = Duration::from_millis(200);
/// Rows read from the file at once.
const PAGE: usize = 500;
/// More dead letters than a file has.
const EVERY: usize = u32::MAX as usize;

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
pub struct Bus {
    /// The bridge's own. With Kafka it may be another machine's.
    file: Option<PathBuf>,
    /// On a topic of each of these services. What is in the file then is from the time before it.
    kafka: Option<(KafkaConfig, Vec<String>)>,
}

impl Bus {
    /// As the environment has it; `services` are those to ask Kafka about.
    pub fn of(place: &Place, services: impl FnOnce() -> Result<Vec<String>>) -> Result<Bus> {
        let kafka = match bus::unsigned()? {
            Some(config) => Some((config, services()?)),
            None => None,
        };
        let file = match StateDir::open(&place.state_dir) {
            Ok(state) => Some(state.bridge()),
            Err(_) if kafka.is_some() => None,
            Err(error) => return Err(error),
        };
        Ok(Bus { file, kafka })
    }

    /// The bridge's file, when there is one.
    fn file(&self) -> Option<&Path> {
        self.file.as_deref().filter(|file| file.exists())
    }

    /// Events of the file, newest first.
    fn in_file(&self, filter: &LetterFilter, limit: usize) -> Result<Vec<DeadLetterRow>> {
        match (self.file(), &self.file) {
            (Some(file), _) => Ok(inspect::dead_letters(file, filter, limit)?),
            (None, Some(file)) if self.kafka.is_none() => exists(file).map(|()| Vec::new()),
            _ => Ok(Vec::new()),
        }
    }

    /// Asks Kafka, where there is one, for each service's; whatever it says of them is listed.
    async fn on_kafka<T: Send + 'static>(
        &self,
        ask: impl Fn(&KafkaLetters, &str, &mut Vec<T>) -> Result<(), KafkaProblem> + Send + 'static,
    ) -> (Vec<T>, Result<()>) {
        let Some((config, services)) = self.kafka.clone() else {
            return (Vec::new(), Ok(()));
        };
        let asked = tokio::task::spawn_blocking(move || {
            let letters = KafkaLetters::new(config);
            let mut listed = Vec::new();
            let mut each = services.iter();
            let asked = each.try_for_each(|service| ask(&letters, service, &mut listed));
            (listed, asked)
        });
        match asked.await {
            Ok((listed, asked)) => (listed, asked.map_err(Into::into)),
            Err(error) => (Vec::new(), Err(error.into())),
        }
    }

    /// What of these is on Kafka, and what in the file: an id, all, or nothing.
    fn split(&self, letter: Option<String>) -> (Option<Which>, Option<LetterFilter>) {
        let in_file = |id| LetterFilter {
            kind: Some("event"),
            id,
            ..LetterFilter::default()
        };
        let Some(letter) = letter else {
            let on_kafka = self.kafka.is_some().then_some(Which::All);
            return (on_kafka, Some(in_file(None)));
        };
        let place = letter.split_once('/').and_then(|(partition, offset)| {
            let (partition, offset) = (partition.parse().ok()?, offset.parse().ok()?);
            Some(Which::One { partition, offset })
        });
        match place {
            Some(_) if self.kafka.is_some() => (place, None),
            _ => (None, Some(in_file(Some(letter)))),
        }
    }

    fn no_letter(&self, filter: &LetterFilter) -> String {
        let (service, id) = (filter.target.as_deref(), filter.id.as_deref());
        let named = match self.kafka {
            Some(_) => " (those on Kafka are named partition/offset)",
            None => "",
        };
        format!(
            "no dead letter of `{}` has the id {}; `innover events dead-letters` lists them{named}",
            service.unwrap_or_default(),
            id.unwrap_or_default()
        )
    }
}

fn of_kind(kind: &'static str, service: Option<String>) -> LetterFilter {
    LetterFilter {
        kind: Some(kind),
        target: service,
        ..LetterFilter::default()
    }
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
    let list = move |letters: &KafkaLetters, name: &str, listed: &mut Vec<_>| {
        listed.extend(letters.list(name, limit)?);
        Ok(())
    };
    let (on_kafka, asked) = bus.on_kafka(list).await;
    asked?;
    let in_file = bus.in_file(&of_kind("event", service.clone()), limit)?;
    let rows = rows
        .dead_letters(&of_kind("outbox", service), limit)
        .await?;
    if json {
        print_json(&on_kafka)?;
        print_json(&in_file)?;
        return print_json(&rows);
    }
    if on_kafka.is_empty() && in_file.is_empty() {
        print::line("no dead events");
    }
    if !on_kafka.is_empty() {
        print_on_kafka(on_kafka);
        print::line("`innover events replay <for> <letter>` puts one back on its topic");
    }
    if !in_file.is_empty() {
        if bus.kafka.is_some() {
            print::line("\nin the bridge's file, from before Kafka:");
        }
        print_letters("event", in_file);
        print::line("`innover events replay <for> <id>` delivers one again");
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
    print::table(
        ["given up", "for", "letter", "topic", "id", "tries", "error"],
        &rows,
    );
}

/// Delivers a service's dead event again, or all of them: what is on Kafka goes back on its topic, what
/// is in the bridge's file through the running platform, oldest first.
pub async fn replay(
    bus: Bus,
    service: String,
    letter: Option<String>,
    door: impl FnOnce() -> Result<HttpDoor>,
) -> Result<()> {
    let (on_kafka, in_file) = bus.split(letter);
    let mut left = Vec::new();
    let mut found = 0;
    if let Some(which) = on_kafka {
        // Each is said as it happens: there may be thousands.
        let replayed = bus.on_kafka(move |letters, name, listed| {
            letters.replay(name, which, |letter, done| {
                let name = letter_name(letter);
                listed.push(match done {
                    Ok(()) => {
                        print::line(format!("{name} is on {} again", letter.topic));
                        None
                    }
                    Err(why) => Some(format!("{name} stays a dead letter: {why}")),
                });
            })
        });
        let (listed, asked) = replayed.await;
        found += listed.len();
        left.extend(listed.into_iter().flatten());
        if let Err(error) = asked {
            left.push(format!("{error:#}"));
        }
    }
    if let Some(mut filter) = in_file {
        filter.target = Some(service.clone());
        let letters = bus.in_file(&filter, EVERY)?;
        if letters.is_empty() && filter.id.is_some() {
            bail!("{}", bus.no_letter(&filter));
        }
        found += letters.len();
        if let (Some(file), false) = (bus.file(), letters.is_empty()) {
            redeliver(file, &door()?, letters, &mut left).await?;
        }
    }
    match left.as_slice() {
        [] if found == 0 => print::line(format!("`{service}` has no dead letters")),
        [] => return Ok(()),
        [one] if found <= 1 => bail!("{one}"),
        some => bail!("{} of {found} stay:\n{}", some.len(), some.join("\n")),
    };
    Ok(())
}

/// The event's id, or of what was no event its place.
fn letter_name(letter: &KafkaLetter) -> String {
    match letter.id.as_str() {
        "" => format!("{}/{}", letter.partition, letter.offset),
        id => id.to_owned(),
    }
}

/// Delivers these again, the last one first; adds what was refused to `left`.
async fn redeliver(
    file: &Path,
    door: &HttpDoor,
    letters: Vec<DeadLetterRow>,
    left: &mut Vec<String>,
) -> Result<()> {
    for letter in letters.into_iter().rev() {
        let (target, id) = (&letter.target, &letter.id);
        match innover_bridge::redeliver(door, &letter).await {
            Ok(()) => {
                inspect::forget_letters(file, "event", target, Some(id))?;
                print::line(format!("`{target}` has taken {id}"));
            }
            Err(why) => left.push(format!(
                "`{target}` did not take {id}, which stays a dead letter: {why}"
            )),
        }
    }
    Ok(())
}

/// Forgets a service's dead letter, or all of them: events on Kafka and in the bridge's file, and rows
/// of its outbox.
pub async fn discard(
    bus: Bus,
    rows: impl FnOnce() -> Result<JobStore>,
    service: String,
    letter: Option<String>,
) -> Result<()> {
    let (on_kafka, in_file) = bus.split(letter);
    let mut forgotten = 0;
    if let Some(which) = on_kafka {
        let discarded = bus.on_kafka(move |letters, name, listed| {
            letters.discard(name, which, |_| listed.push(()))
        });
        let (listed, asked) = discarded.await;
        forgotten += listed.len();
        asked.with_context(|| format!("{forgotten} forgotten"))?;
    }
    if let Some(filter) = in_file {
        let id = filter.id.as_deref();
        if let Some(file) = bus.file() {
            forgotten += inspect::forget_letters(file, "event", &service, id)?;
        }
        forgotten += rows()?.forget_rows(&service, id).await?;
        if forgotten == 0 && id.is_some() {
            let target = Some(service);
            bail!("{}", bus.no_letter(&LetterFilter { target, ..filter }));
        }
    }
    print::line(format!("{forgotten} forgotten"));
    Ok(())
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
