//! Every named step of the payment flow × whoever may die at it: while 50 payments are on their way
//! the step is held, the victim is killed with SIGKILL and started again, and then every payment is
//! there once, completed, and the books balance. docs/crash-matrix.md says what was measured.
//!
//! `INNOVER_CRASH_ROUNDS` is how many rounds each step has with each victim; without it each step has
//! one, with a victim by lot. `INNOVER_CRASH_SEED` repeats an order, `INNOVER_CRASH_MINUTES` ends the
//! matrix early, after a round, `INNOVER_CRASH_ONLY` takes names of steps and victims with commas, and
//! `INNOVER_CRASH_REPORTS` names a folder for the tables.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use innover_failpoint::{SETTING, Step};
use innover_tests::{
    Bridge, PATIENCE, Platform, innover, payment, repository,
    services::{self, Service},
};
use serde_json::Value;
use tokio::task::{JoinSet, block_in_place};

/// Payments that are sent at once in each round. One more follows right after the kill.
const PAYMENTS: usize = 50;
/// Connections they are sent over.
const CLIENTS: usize = 8;
const WALLETS: usize = 10;
/// In each wallet at the start, in cents: no wallet runs dry in a thousand rounds.
const START: i64 = 10_000_000;
/// Tokens are good for an hour.
const TOKENS_EVERY: Duration = Duration::from_secs(20 * 60);

/// Who a payment passes on its way.
const SERVICES: &[&str] = &["payment", "forex", "ledger", "wallet"];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    /// `innover up`, with or without the bridge in it.
    Host,
    Bridge,
    Both,
    Postgres,
    Kafka,
}

impl Victim {
    fn name(self) -> &'static str {
        match self {
            Victim::Host => "host",
            Victim::Bridge => "bridge",
            Victim::Both => "host and bridge",
            Victim::Postgres => "PostgreSQL",
            Victim::Kafka => "Kafka",
        }
    }
}

/// The services a step can be held at.
fn places(step: Step) -> &'static [&'static str] {
    match step {
        Step::AnswerUnsent => &[""],
        // The one queue of the flow.
        Step::JobsUndelivered | Step::JobsUnsettled => &["payment"],
        _ => SERVICES,
    }
}

/// A linear congruential sequence: a failing order can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }

    fn shuffle<T>(&mut self, all: &mut [T]) {
        for last in (1..all.len()).rev() {
            all.swap(last, self.below(last + 1));
        }
    }
}

fn setting<T: std::str::FromStr>(name: &str) -> Option<T> {
    let value = std::env::var(name).ok().filter(|v| !v.is_empty())?;
    let Ok(value) = value.parse() else {
        panic!("{name}={value} is none");
    };
    Some(value)
}

/// Those that `INNOVER_CRASH_ONLY` names; where it names none of a kind, all of it.
fn only(steps: &[Step], victims: &[Victim]) -> (Vec<Step>, Vec<Victim>) {
    let wanted: String = setting("INNOVER_CRASH_ONLY").unwrap_or_default();
    let named = |name: &str| wanted.split(',').any(|wanted| wanted == name);
    let (mut only_steps, mut only_victims) = (steps.to_vec(), victims.to_vec());
    if steps.iter().any(|step| named(step.name())) {
        only_steps.retain(|step| named(step.name()));
    }
    if victims.iter().any(|victim| named(victim.name())) {
        only_victims.retain(|victim| named(victim.name()));
    }
    (only_steps, only_victims)
}

/// What a client needs of the platform; it goes on while the platform is being killed.
struct Client {
    http: reqwest::Client,
    url: String,
    user: String,
    finance: String,
}

impl Client {
    async fn new(platform: &Platform) -> Client {
        Client {
            http: reqwest::Client::builder()
                .timeout(Duration::from_secs(15))
                .build()
                .unwrap(),
            url: platform.url.clone(),
            user: platform.token("user").await,
            finance: platform.token("finance").await,
        }
    }

    /// Sends a payment, with the same key, until it is accepted; returns its id.
    async fn pay(&self, key: &str, body: &Value) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let sent = self
                .http
                .post(format!("{}/api/payment/v1/process", self.url))
                .bearer_auth(&self.user)
                .header("idempotency-key", key)
                .header("content-type", "application/json")
                .body(body.to_string())
                .send();
            if let Some((status, text)) = read(sent.await).await {
                match status {
                    202 => {
                        let answer: Value = serde_json::from_str(&text).unwrap();
                        return answer["id"].as_str().unwrap().to_owned();
                    }
                    // It died under the gateway, it starts, it is busy.
                    409 | 429 | 500..=599 => {}
                    _ => panic!("{key}: {status} {text}"),
                }
            }
            assert!(Instant::now() < deadline, "{key} was never answered");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The payment, when somebody answers.
    async fn payment(&self, id: &str) -> Option<Value> {
        let sent = self
            .http
            .get(format!("{}/api/payment/v1/payments/{id}", self.url))
            .bearer_auth(&self.finance)
            .send();
        match read(sent.await).await? {
            (200, text) => Some(serde_json::from_str(&text).unwrap()),
            (429 | 500..=599, _) => None,
            (status, text) => panic!("{id}: {status} {text}"),
        }
    }
}

async fn read(sent: reqwest::Result<reqwest::Response>) -> Option<(u16, String)> {
    let response = sent.ok()?;
    let status = response.status().as_u16();
    Some((status, response.text().await.ok()?))
}

/// From the kill to the moment the victim was back, to the first payment that completed after the
/// kill, and to the last.
#[derive(Clone, Copy)]
struct Recovery {
    back: Duration,
    first: Duration,
    last: Duration,
}

struct Round {
    step: Step,
    victim: Victim,
    at: &'static str,
}

struct Matrix {
    platform: Platform,
    /// In a process of its own.
    bridge: Option<Bridge>,
    postgres: Option<Service>,
    kafka: Option<Service>,
    /// Where steps are armed.
    steps: tempfile::TempDir,
    wallets: Vec<String>,
    /// What each wallet must hold, in cents.
    holds: Vec<i64>,
    /// Every payment so far.
    ids: Vec<String>,
    /// How many of them went from one currency to another.
    converted: i64,
    /// How many of them the rules decided later, since they were away.
    reviewed: usize,
    tokens_at: Instant,
}

impl Matrix {
    /// Funds the wallets and makes one payment, so that every service has worked once.
    async fn begin(platform: Platform, bridge: Option<Bridge>, steps: tempfile::TempDir) -> Matrix {
        let mut wallets = Vec::new();
        for n in 0..WALLETS {
            wallets.push(platform.funded("user", &decimal(START), currency(n)).await);
        }
        let paid = platform
            .pay("user", &wallets[0], &wallets[2], "1.00", "EUR")
            .await;
        let first = platform.settled(&paid.id()).await;
        assert_eq!(first["state"], "completed", "{first}");
        let mut holds = vec![START; WALLETS];
        holds[0] -= 100;
        holds[2] += 100;
        let apart = bridge.is_some();
        Matrix {
            platform,
            bridge,
            postgres: Service::postgres().filter(|_| apart),
            kafka: Service::kafka().filter(|_| apart),
            steps,
            wallets,
            holds,
            ids: vec![paid.id()],
            converted: 0,
            reviewed: 0,
            tokens_at: Instant::now(),
        }
    }

    /// Runs the rounds and says what was measured.
    async fn run(&mut self, name: &str, steps: &[Step], victims: &[Victim]) {
        let (steps, victims) = only(steps, victims);
        let (steps, victims) = (&steps[..], &victims[..]);
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let seed = setting("INNOVER_CRASH_SEED").unwrap_or(u64::from(clock.subsec_nanos()));
        println!("{name}: INNOVER_CRASH_SEED={seed}");
        let minutes = setting("INNOVER_CRASH_MINUTES").unwrap_or(24 * 60);
        let end = Instant::now() + Duration::from_secs(60 * minutes);
        let planned = plan(steps, victims, &mut Random(seed));
        let mut figures: BTreeMap<(Step, Victim), Vec<Recovery>> = BTreeMap::new();
        let mut done = 0;
        for round in &planned {
            if Instant::now() >= end {
                println!(
                    "{name}: the time is over after {done} of {} rounds",
                    planned.len()
                );
                break;
            }
            done += 1;
            let began = Instant::now();
            let recovery = self.round(done, round).await;
            println!(
                "{name} {done}/{}: {} at {}, {} killed: back after {} ms, first payment after {} ms, last after {} ms, round {} ms",
                planned.len(),
                round.step.name(),
                if round.at.is_empty() {
                    "the gateway"
                } else {
                    round.at
                },
                round.victim.name(),
                recovery.back.as_millis(),
                recovery.first.as_millis(),
                recovery.last.as_millis(),
                began.elapsed().as_millis(),
            );
            let of = figures.entry((round.step, round.victim)).or_default();
            of.push(recovery);
            let report = self.report(name, done, steps, victims, &figures);
            if let Some(folder) = setting::<PathBuf>("INNOVER_CRASH_REPORTS") {
                let file = format!("{}.md", name.replace(' ', "-"));
                std::fs::write(folder.join(file), &report).unwrap();
            }
        }
        println!("{}", self.report(name, done, steps, victims, &figures));
    }

    /// One round: kills the victim while the step is held, and returns once everything has been checked.
    async fn round(&mut self, number: usize, round: &Round) -> Recovery {
        if self.tokens_at.elapsed() > TOKENS_EVERY {
            self.platform.forget_tokens();
            self.tokens_at = Instant::now();
        }
        let client = Arc::new(Client::new(&self.platform).await);
        self.arm(round.step, round.at);
        let first = self.ids.len();
        let mut clients = self.send(number, first, &client);
        let reached = self.reached(round).await;
        let killed_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let killed = Instant::now();
        block_in_place(|| self.kill(round.victim));
        std::fs::remove_file(reached).unwrap();
        // What a client does right after the kill, so that every round has something to recover.
        let late = {
            let (client, key) = (client.clone(), format!("crash-{number}-late"));
            let body = self.payment(first + PAYMENTS);
            tokio::spawn(async move { client.pay(&key, &body).await })
        };
        block_in_place(|| self.again(round.victim));
        let back = killed.elapsed();
        let mut ids = vec![(first + PAYMENTS, late.await.unwrap())];
        while let Some(some) = clients.join_next().await {
            ids.extend(some.unwrap());
        }
        for (n, id) in ids {
            let paid = self.completed(&client, &id, killed + PATIENCE).await;
            self.enter(n, &paid);
            self.ids.push(id);
        }
        self.check(first).await;
        // When the last batch of each payment was decided, by the same clock.
        let killed_at = killed_at.as_micros() as i64;
        let after = |pick: &str| {
            let sql = format!(
                "SELECT {pick}(updated_at) FROM payments WHERE state = 'completed' AND updated_at > {killed_at}"
            );
            let at = self.platform.number("payment", &sql);
            Duration::from_micros((at - killed_at) as u64)
        };
        Recovery {
            back,
            first: after("min"),
            last: after("max"),
        }
    }

    /// Sends the payments of a round from `first` on; each client ends with its payments' numbers and ids.
    fn send(
        &self,
        number: usize,
        first: usize,
        client: &Arc<Client>,
    ) -> JoinSet<Vec<(usize, String)>> {
        let mut clients = JoinSet::new();
        for start in 0..CLIENTS {
            let mine = (start..PAYMENTS).step_by(CLIENTS);
            let mine: Vec<_> = mine.map(|n| (n, self.payment(first + n))).collect();
            let client = client.clone();
            clients.spawn(async move {
                let mut ids = Vec::new();
                for (n, body) in mine {
                    let id = client.pay(&format!("crash-{number}-{n}"), &body).await;
                    ids.push((first + n, id));
                }
                ids
            });
        }
        clients
    }

    /// The `n`th payment of all.
    fn payment(&self, n: usize) -> Value {
        let (from, to, cents) = transfer(n);
        let (payer, payee) = (&self.wallets[from], &self.wallets[to]);
        payment(payer, payee, &decimal(cents), currency(from))
    }

    /// Notes what the `n`th payment, completed as `paid`, must have done to the wallets.
    fn enter(&mut self, n: usize, paid: &Value) {
        let (from, to, cents) = transfer(n);
        let amount = |side: &str| paid[side]["amount"].as_str().unwrap().to_owned();
        assert_eq!(amount("source"), decimal(cents), "{paid}");
        match currency(from) == currency(to) {
            true => assert_eq!(amount("target"), decimal(cents), "{paid}"),
            false => self.converted += 1,
        }
        self.holds[from] -= cents;
        self.holds[to] += amount("target").replace('.', "").parse::<i64>().unwrap();
    }

    fn arm(&self, step: Step, at: &str) {
        let folder = self.steps.path();
        let draft = folder.join("draft");
        std::fs::write(&draft, at).unwrap();
        std::fs::rename(draft, folder.join(step.name())).unwrap();
    }

    /// The file that says who is held.
    async fn reached(&mut self, round: &Round) -> PathBuf {
        let name = format!("{}.reached.", round.step.name());
        let deadline = Instant::now() + PATIENCE;
        loop {
            let files = std::fs::read_dir(self.steps.path()).unwrap();
            let mut paths = files.map(|file| file.unwrap().path());
            let file_name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
            if let Some(reached) = paths.find(|path| file_name(path).starts_with(&name)) {
                return reached;
            }
            assert!(
                Instant::now() < deadline,
                "no payment came to {} at `{}`\n{}",
                round.step.name(),
                round.at,
                self.troubles()
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn kill(&mut self, victim: Victim) {
        match victim {
            Victim::Host => self.platform.kill(),
            Victim::Bridge => self.bridge.as_mut().unwrap().kill(),
            Victim::Both => {
                self.platform.kill();
                self.bridge.as_mut().unwrap().kill();
            }
            Victim::Postgres => self.postgres.as_ref().unwrap().kill(),
            Victim::Kafka => self.kafka.as_ref().unwrap().kill(),
        }
    }

    fn again(&mut self, victim: Victim) {
        match victim {
            Victim::Host => self.platform.run(),
            Victim::Bridge => self.bridge.as_mut().unwrap().run(&self.platform),
            Victim::Both => {
                self.platform.run();
                self.bridge.as_mut().unwrap().run(&self.platform);
            }
            Victim::Postgres => self.postgres.as_ref().unwrap().again(),
            Victim::Kafka => self.kafka.as_ref().unwrap().again(),
        }
    }

    /// Waits until a payment is completed; returns it.
    async fn completed(&mut self, client: &Client, id: &str, deadline: Instant) -> Value {
        let mut reviewed = 0;
        loop {
            let seen = client.payment(id).await;
            match seen.as_ref().and_then(|p| p["state"].as_str()) {
                // Its conversion may be noted after that: see `misses_conversion` of payment.
                Some("completed") if seen.as_ref().is_some_and(is_converted) => {
                    self.reviewed += reviewed;
                    return seen.unwrap();
                }
                // The rules were away; a job asks them again (docs/risk-plugins.md).
                Some("review") if is_undecided(seen.as_ref().unwrap()) => reviewed = 1,
                Some("failed" | "declined" | "cancelled" | "review") => {
                    panic!("{seen:?}\n{}", self.troubles())
                }
                _ => {}
            }
            assert!(
                Instant::now() < deadline,
                "{id} is lost: {seen:?}\n{}",
                self.troubles()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Everything that must hold after a round whose payments are `ids[first..]`.
    async fn check(&mut self, first: usize) {
        let p = &self.platform;
        let all = self.ids.len() as i64;
        let number = |database: &str, sql: &str| p.number(database, sql);
        p.assert_payments_once(&self.ids);
        assert_eq!(
            number(
                "payment",
                "SELECT count(*) FROM payments WHERE state = 'completed'"
            ),
            all
        );
        assert_eq!(
            number("forex", "SELECT count(*) FROM conversions"),
            self.converted,
            "one conversion each"
        );
        // One pair of postings each, and two where the house changes money between them.
        let postings = |direction: &str| {
            let sql = format!(
                "SELECT count(*) FROM postings JOIN entries ON entries.id = postings.entry_id
                 WHERE kind = 'payment' AND direction = '{direction}'"
            );
            number("ledger", &sql)
        };
        let pairs = all + self.converted;
        assert_eq!((postings("debit"), postings("credit")), (pairs, pairs));
        // Each decision, state, event, entry and job is on the timeline once; the job's effect is one.
        assert_eq!(
            number(
                "payment",
                "SELECT count(*) FROM (SELECT payment_id FROM timeline
                 GROUP BY payment_id, kind, name, detail HAVING count(*) > 1) doubled"
            ),
            0,
            "nothing is done twice"
        );
        p.assert_outboxes_empty().await;
        p.assert_balanced().await;
        for (wallet, cents) in self.wallets.iter().zip(&self.holds) {
            assert_eq!(
                p.assert_projected(wallet).await,
                decimal(*cents),
                "{wallet}"
            );
        }
        for kind in ["payment.initiated", "forex.converted", "payment.completed"] {
            let sql = format!("SELECT count(*) FROM records WHERE action = '{kind}'");
            p.eventually("audit", &sql, all, &format!("{kind} in the audit trail"))
                .await;
        }
        assert_eq!(
            number("audit", "SELECT max(seq) - count(*) FROM records"),
            0,
            "the audit trail has no hole"
        );
        for of in ["events", "jobs"] {
            let said = self.ask(&[of, "dead-letters"]);
            assert!(
                said.starts_with("no dead "),
                "since payment {first}: {said}\n{}",
                self.troubles()
            );
        }
    }

    /// What `innover` says to this.
    fn ask(&self, arguments: &[&str]) -> String {
        let said = std::process::Command::new(innover())
            .args(arguments)
            .current_dir(repository())
            .env("INNOVER_STATE_DIR", self.platform.state())
            .env("REDIS_URL", "redis://127.0.0.1:1")
            .envs(self.platform.environment().iter().cloned())
            // It is no part of the platform.
            .env_remove(SETTING)
            .output()
            .unwrap();
        assert!(
            said.status.success(),
            "{}",
            String::from_utf8_lossy(&said.stderr)
        );
        String::from_utf8(said.stdout).unwrap()
    }

    /// The table, as documentation has it.
    fn report(
        &self,
        name: &str,
        rounds: usize,
        steps: &[Step],
        victims: &[Victim],
        figures: &BTreeMap<(Step, Victim), Vec<Recovery>>,
    ) -> String {
        let mut text = format!(
            "{name}: {rounds} rounds, {} payments, 0 lost, 0 doubled, {} decided by the rules later because they were away.\n\n| step | rounds each |",
            self.ids.len() - 1,
            self.reviewed
        );
        for victim in victims {
            let _ = write!(text, " {} |", victim.name());
        }
        let _ = write!(text, "\n|---|---|{}\n", "---|".repeat(victims.len()));
        for step in steps {
            let all = |victim: &Victim| {
                figures
                    .get(&(*step, *victim))
                    .map_or(&[][..], Vec::as_slice)
            };
            let counts = || victims.iter().map(|victim| all(victim).len());
            let (least, most) = (counts().min().unwrap(), counts().max().unwrap());
            let each = match least == most {
                true => most.to_string(),
                false => format!("{least}–{most}"),
            };
            let _ = write!(text, "| `{}` | {each} |", step.name());
            for victim in victims {
                let (first, last) = (of(all(victim), |r| r.first), of(all(victim), |r| r.last));
                let _ = match (first, last) {
                    (Some((first, _)), Some((last, longest))) => {
                        write!(text, " {first} / {last} / {longest} |")
                    }
                    _ => write!(text, " |"),
                };
            }
            text.push('\n');
        }
        text.push_str("| the victim itself is back | |");
        for victim in victims {
            let all: Vec<Recovery> = figures
                .iter()
                .filter(|((_, of), _)| of == victim)
                .flat_map(|(_, all)| all.iter().copied())
                .collect();
            let _ = match of(&all, |r| r.back) {
                Some((back, longest)) => write!(text, " {back} / {longest} |"),
                None => write!(text, " |"),
            };
        }
        text.push_str(
            "\n\nSeconds from the kill to the first payment that completed after it (median), to the \
             last (median), to the last (longest). The last row: until the victim, started again at \
             once, was ready (median, longest).\n",
        );
        text
    }

    /// Who has ended by itself, and the last warnings of both processes, for whoever has to find out
    /// what went wrong.
    fn troubles(&mut self) -> String {
        let mut text = String::new();
        let bridge = self.bridge.as_mut().and_then(Bridge::ended);
        for (who, ended) in [("the host", self.platform.ended()), ("the bridge", bridge)] {
            if let Some(status) = ended {
                let _ = writeln!(text, "{who} has ended by itself: {status}");
            }
        }
        if let Some(bridge) = &self.bridge {
            let metrics = asked(&bridge.management, "/metrics");
            let telling = [
                "innover_outbox_age_seconds",
                "innover_kafka_lag_events",
                "innover_kafka_held_events",
                "innover_jobs_queued",
                "innover_jobs_running",
            ];
            let telling = |line: &&str| {
                telling.iter().any(|name| line.starts_with(name)) && !line.ends_with(" 0")
            };
            let _ = writeln!(
                text,
                "the bridge says {}",
                asked(&bridge.management, "/readiness")
            );
            for line in metrics.lines().filter(telling) {
                let _ = writeln!(text, "  {line}");
            }
        }
        let logs = std::iter::once(self.platform.state().join("innover.log"))
            .chain(self.bridge.as_ref().map(Bridge::log));
        for log in logs {
            let lines = std::fs::read_to_string(&log).unwrap_or_default();
            let bad = |line: &&str| {
                !line.contains("held for a test")
                    && (line.contains("\"WARN\"")
                        || line.contains("\"ERROR\"")
                        || line.contains("again"))
            };
            let bad: Vec<&str> = lines.lines().filter(bad).collect();
            let _ = writeln!(text, "{}:", log.display());
            for line in &bad[bad.len().saturating_sub(30)..] {
                let _ = writeln!(text, "  {line}");
            }
        }
        text
    }
}

/// What a management listener answers, or why it does not.
fn asked(management: &str, path: &str) -> String {
    let place = management.trim_start_matches("http://");
    let ask = || -> std::io::Result<String> {
        let mut stream = std::net::TcpStream::connect(place)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: {place}\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().unwrap_or_else(|error| format!("nothing: {error}"))
}

/// Payer, payee and cents of the `n`th payment.
fn transfer(n: usize) -> (usize, usize, i64) {
    let from = n % WALLETS;
    let to = (from + 1 + n / WALLETS % (WALLETS - 1)) % WALLETS;
    (from, to, 100 + (n % 900) as i64)
}

fn is_converted(paid: &Value) -> bool {
    paid["target"]["amount"].is_string()
}

fn is_undecided(paid: &Value) -> bool {
    paid["reason_codes"] == serde_json::json!(["rules_unavailable"])
}

fn currency(wallet: usize) -> &'static str {
    match wallet % 2 {
        0 => "EUR",
        _ => "USD",
    }
}

fn decimal(cents: i64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

/// The rounds in a random order: each step with each victim, as often as it is said, or each step once
/// with a victim by lot. Of several rounds of a step and a victim each is at another service.
fn plan(steps: &[Step], victims: &[Victim], random: &mut Random) -> Vec<Round> {
    let mut rounds = Vec::new();
    let Some(times) = setting::<usize>("INNOVER_CRASH_ROUNDS") else {
        // Dealt out, so that each victim has its turn.
        let mut dealt: Vec<Victim> = victims.to_vec();
        random.shuffle(&mut dealt);
        for (n, step) in steps.iter().enumerate() {
            let at = places(*step);
            rounds.push(Round {
                step: *step,
                victim: dealt[n % dealt.len()],
                at: at[random.below(at.len())],
            });
        }
        random.shuffle(&mut rounds);
        return rounds;
    };
    let first = random.below(SERVICES.len());
    for time in 0..times {
        // Every pair once before any pair again: a matrix that ends early is as far everywhere.
        let mut turn = Vec::new();
        for (n, step) in steps.iter().enumerate() {
            for (m, victim) in victims.iter().enumerate() {
                let at = places(*step);
                turn.push(Round {
                    step: *step,
                    victim: *victim,
                    at: at[(first + time + n + m) % at.len()],
                });
            }
        }
        random.shuffle(&mut turn);
        rounds.extend(turn);
    }
    rounds
}

/// Median and longest, in seconds.
fn of(all: &[Recovery], part: impl Fn(&Recovery) -> Duration) -> Option<(String, String)> {
    let mut sorted: Vec<Duration> = all.iter().map(part).collect();
    sorted.sort();
    let seconds = |d: &Duration| format!("{:.1}", d.as_secs_f64());
    Some((
        seconds(sorted.get(sorted.len() / 2)?),
        seconds(sorted.last()?),
    ))
}

/// The steps that both set-ups have.
const EVERYWHERE: &[Step] = &[
    Step::AnswerUnsent,
    Step::RowsUnpublished,
    Step::RowsPublished,
    Step::RowsUndeleted,
    Step::EventsUndelivered,
    Step::EventsUnsettled,
    Step::JobsUndelivered,
    Step::JobsUnsettled,
];
const ON_FILES: &[Step] = &[Step::CommitUnwritten, Step::CommitUnanswered];
const ON_POSTGRES: &[Step] = &[Step::StatementUnsent, Step::StatementUnanswered];
const APART: &[Step] = &[Step::DeliveryUnanswered, Step::OffsetsUncommitted];

/// In the order of a payment's way.
fn steps(of: &[&[Step]]) -> Vec<Step> {
    let wanted = of.concat();
    let all = Step::ALL.iter().copied();
    all.filter(|step| wanted.contains(step)).collect()
}

/// One matrix at a time: times are measured.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[test]
fn every_step_is_in_one_of_the_matrices() {
    assert_eq!(
        steps(&[EVERYWHERE, ON_FILES, ON_POSTGRES, APART]),
        Step::ALL
    );
}

#[test]
fn the_documentation_has_every_step_as_it_is() {
    let text = std::fs::read_to_string(repository().join("docs/crash-matrix.md")).unwrap();
    for step in Step::ALL {
        let row = format!("| `{}` | {} |", step.name(), step.meaning());
        assert!(text.contains(&row), "docs/crash-matrix.md lacks: {row}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn one_process_killed_at_every_step_loses_and_doubles_nothing() {
    let _turn = TURN.lock().await;
    let folder = tempfile::tempdir().unwrap();
    let armed = folder.path().display().to_string();
    let platform = Platform::start_with(&[(SETTING, &armed)]).await;
    let storage = match platform.databases() {
        Some(_) => ON_POSTGRES,
        None => ON_FILES,
    };
    let mut matrix = Matrix::begin(platform, None, folder).await;
    let steps = steps(&[EVERYWHERE, storage]);
    matrix.run("one process", &steps, &[Victim::Host]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn host_bridge_postgresql_and_kafka_killed_at_every_step_lose_and_double_nothing() {
    let missing: Vec<&str> = [
        "INNOVER_TEST_POSTGRES",
        "INNOVER_TEST_POSTGRES_FOLDER",
        "INNOVER_TEST_KAFKA",
        "INNOVER_TEST_KAFKA_FOLDER",
    ]
    .into_iter()
    .filter(|name| std::env::var_os(name).is_none_or(|value| value.is_empty()))
    .collect();
    if !missing.is_empty() {
        eprintln!(
            "left out: the crash matrix on servers needs {} (tests/peers/servers crash)",
            missing.join(", ")
        );
        return;
    }
    let _turn = TURN.lock().await;
    let folder = tempfile::tempdir().unwrap();
    let mut environment = services::kafka().unwrap();
    environment.extend([
        (SETTING, folder.path().display().to_string()),
        // One broker beside everything else on this machine.
        ("KAFKA_PARTITIONS", "2".to_owned()),
    ]);
    let borrowed: Vec<(&str, &str)> = environment.iter().map(|(n, v)| (*n, v.as_str())).collect();
    let (platform, bridge) = block_in_place(|| {
        let platform = Platform::start_without_bridge(&borrowed);
        let bridge = platform.answering_bridge("bridge");
        (platform, bridge)
    });
    let mut matrix = Matrix::begin(platform, Some(bridge), folder).await;
    let steps = steps(&[EVERYWHERE, ON_POSTGRES, APART]);
    let victims = [
        Victim::Host,
        Victim::Bridge,
        Victim::Both,
        Victim::Postgres,
        Victim::Kafka,
    ];
    matrix.run("on servers", &steps, &victims).await;
}
