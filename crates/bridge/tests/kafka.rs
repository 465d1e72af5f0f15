//! Events through a real Kafka. `INNOVER_TEST_KAFKA=host:port` says where one is (`tests/services/kafka
//! start <folder>` prints it); without it these tests say that they are left out. Those that kill
//! brokers start their own.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use innover_bridge::{
    Bridge, BridgeConfig, Commits, KafkaConfig, KafkaLetter, KafkaLetters, NoGate, Which, inspect,
    inspect::LetterFilter,
    limits::{KAFKA_STUCK, RELAY_ROWS_MAX},
};
use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    message::{Header, Headers, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};
use serde_json::{Value, json};
use support::{Answer, FakeDoor, Platform, emit, until};

/// The shared broker, or a word about why there is none.
fn kafka() -> Option<String> {
    let address = std::env::var("INNOVER_TEST_KAFKA")
        .ok()
        .filter(|a| !a.is_empty());
    if address.is_none() {
        eprintln!("left out: INNOVER_TEST_KAFKA names no broker (tests/services/kafka starts one)");
    }
    address
}

/// Topics and groups of a test's own.
fn config(brokers: &str) -> KafkaConfig {
    let mut config = KafkaConfig::new(brokers);
    let own = uuid::Uuid::now_v7().simple().to_string();
    config.topic_prefix = format!("t{}.", &own[20..]);
    config.group_prefix = format!("g{}", &own[20..]);
    config
}

fn bridge_config(platform: &Platform, kafka: &KafkaConfig) -> BridgeConfig {
    let mut config = platform.config();
    config.kafka = Some(kafka.clone());
    config
}

async fn start(platform: &Platform, kafka: &KafkaConfig, door: &Arc<FakeDoor>) -> Bridge {
    start_as(bridge_config(platform, kafka), door).await
}

async fn start_as(config: BridgeConfig, door: &Arc<FakeDoor>) -> Bridge {
    // Shown with a test that fails. `RUST_LOG` says what of it, as everywhere.
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| "innover_bridge=debug".into());
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_test_writer()
        .try_init();
    let door: Arc<FakeDoor> = door.clone();
    Bridge::start(config, door, Arc::new(NoGate), Commits::default())
        .await
        .unwrap()
}

fn payments() -> Platform {
    Platform::new(&[("payment", &[]), ("forex", &["payment.initiated"])])
}

/// Writes `count` events of ten keys in one transaction; ids are `<name>-<n>`.
fn emit_many(platform: &Platform, name: &str, count: usize) {
    let connection = platform.open("payment");
    connection.execute_batch("BEGIN IMMEDIATE").unwrap();
    for n in 0..count {
        let id = format!("{name}-{n}");
        let payload = json!({ "n": n }).to_string();
        emit(
            &connection,
            &id,
            "payment.initiated",
            &format!("key-{}", n % 10),
            &payload,
        );
    }
    connection.execute_batch("COMMIT").unwrap();
}

fn distinct(door: &FakeDoor) -> usize {
    door.seen()
        .into_iter()
        .map(|s| s.id)
        .collect::<HashSet<_>>()
        .len()
}

/// Asserts that, leaving repetitions out, each key's events came in order.
fn assert_order_per_key(door: &FakeDoor) {
    let mut highest: HashMap<String, i64> = HashMap::new();
    let mut known = HashSet::new();
    for seen in door.seen() {
        if !matches!(seen.answer, Answer::Status(200)) || !known.insert(seen.id.clone()) {
            continue;
        }
        let key = seen.body["partitionkey"].as_str().unwrap().to_owned();
        let n = seen.body["data"]["n"].as_i64().unwrap();
        let last = highest.entry(key.clone()).or_insert(-1);
        assert!(
            n > *last,
            "{} of {key} came after number {last}",
            seen.body["id"]
        );
        *last = n;
    }
}

fn client(brokers: &str) -> ClientConfig {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", brokers);
    client
}

async fn produce(
    brokers: &str,
    topic: &str,
    key: Option<&str>,
    value: &[u8],
    headers: &[(&str, &str)],
) {
    let producer: FutureProducer = client(brokers)
        .set("message.max.bytes", "8000000")
        .create()
        .unwrap();
    let mut all = OwnedHeaders::new();
    for (key, value) in headers {
        all = all.insert(Header {
            key,
            value: Some(*value),
        });
    }
    let mut record: FutureRecord<'_, str, [u8]> =
        FutureRecord::to(topic).payload(value).headers(all);
    if let Some(key) = key {
        record = record.key(key);
    }
    producer
        .send(record, Duration::from_secs(20))
        .await
        .unwrap();
}

async fn make_topic(brokers: &str, name: &str, partitions: i32, settings: &[(&str, &str)]) {
    let admin: AdminClient<DefaultClientContext> = client(brokers).create().unwrap();
    let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
    for (name, value) in settings {
        topic = topic.set(name, value);
    }
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(10)));
    let made = admin.create_topics([&topic], &options).await.unwrap();
    made.into_iter().for_each(|m| drop(m.unwrap()));
}

/// A topic of one partition with its one copy on `node`.
async fn make_topic_on(brokers: &str, name: &str, node: i32) {
    let admin: AdminClient<DefaultClientContext> = client(brokers).create().unwrap();
    let copies = [&[node][..]];
    let topic = NewTopic::new(name, 1, TopicReplication::Variable(&copies));
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(10)));
    let made = admin.create_topics([&topic], &options).await.unwrap();
    made.into_iter().for_each(|m| drop(m.unwrap()));
}

/// A message of a topic.
#[derive(Debug)]
struct OnTopic {
    place: (i32, i64),
    key: Option<String>,
    value: Vec<u8>,
    headers: BTreeMap<String, String>,
}

fn read_topic(brokers: &str, topic: &str) -> Vec<OnTopic> {
    let consumer: BaseConsumer = client(brokers)
        .set("group.id", "test-reader")
        .set("enable.partition.eof", "true")
        .create()
        .unwrap();
    let metadata = consumer
        .fetch_metadata(Some(topic), Duration::from_secs(10))
        .unwrap();
    let mut list = TopicPartitionList::new();
    let partitions = metadata.topics()[0].partitions().len();
    for partition in 0..partitions {
        list.add_partition_offset(topic, partition as i32, Offset::Beginning)
            .unwrap();
    }
    consumer.assign(&list).unwrap();
    let (mut ended, mut found) = (0, Vec::new());
    while ended < partitions {
        match consumer
            .poll(Duration::from_secs(10))
            .expect("the topic ends")
        {
            Err(rdkafka::error::KafkaError::PartitionEOF(_)) => ended += 1,
            Err(error) => panic!("{error}"),
            Ok(message) => {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let headers = message
                    .headers()
                    .map(|all| {
                        all.iter()
                            .map(|h| (h.key.to_owned(), text(h.value.unwrap_or_default())))
                            .collect()
                    })
                    .unwrap_or_default();
                found.push(OnTopic {
                    place: (message.partition(), message.offset()),
                    key: message.key().map(text),
                    value: message.payload().unwrap_or_default().to_vec(),
                    headers,
                });
            }
        }
    }
    found
}

/// The committed offsets of a service's group on a topic, by partition, -1 where there is none, and
/// the ends of the partitions.
fn committed(kafka: &KafkaConfig, service: &str, kind: &str) -> Vec<(i64, i64)> {
    let consumer: BaseConsumer = client(&kafka.brokers)
        .set("group.id", kafka.group(service))
        .create()
        .unwrap();
    let topic = kafka.topic(kind);
    let wait = Duration::from_secs(10);
    let metadata = consumer.fetch_metadata(Some(&topic), wait).unwrap();
    let mut list = TopicPartitionList::new();
    for partition in metadata.topics()[0].partitions() {
        list.add_partition(&topic, partition.id());
    }
    let committed = consumer.committed_offsets(list, wait).unwrap();
    committed
        .elements()
        .iter()
        .map(|e| {
            let (_, end) = consumer
                .fetch_watermarks(&topic, e.partition(), wait)
                .unwrap();
            match e.offset() {
                Offset::Offset(offset) => (offset, end),
                _ => (-1, end),
            }
        })
        .collect()
}

/// Names a letter.
fn at(letter: &KafkaLetter) -> Which {
    Which::One {
        partition: letter.partition,
        offset: letter.offset,
    }
}

/// Replays letters of forex, all of which must be taken; returns their events' ids.
fn replayed(letters: &KafkaLetters, which: Which) -> Vec<String> {
    let mut ids = Vec::new();
    let replay = letters.replay("forex", which, |letter, done| {
        done.unwrap();
        ids.push(letter.id.clone());
    });
    replay.unwrap();
    ids
}

fn all_committed(kafka: &KafkaConfig, service: &str, kind: &str) -> bool {
    committed(kafka, service, kind)
        .iter()
        .all(|(offset, end)| offset == end || *end == 0)
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_signing_key_a_forged_event_is_external_and_a_replayed_one_is_not() {
    let Some(brokers) = kafka() else { return };
    let (platform, mut kafka) = (payments(), config(&brokers));
    kafka.signing_key = Some("known to bridges".into());
    let door = FakeDoor::new(|_, event, before| match event["id"].as_str() {
        Some("ours") if before == 0 => Answer::Status(422),
        _ => Answer::Status(200),
    });
    let bridge = start(&platform, &kafka, &door).await;
    platform.emit("payment", "ours", "payment.initiated", "a");
    let letters = KafkaLetters::new(kafka.clone());
    until("a dead letter", || {
        letters.depth("forex").is_ok_and(|depth| depth == 1)
    })
    .await;
    let letter = letters.list("forex", 1).unwrap().remove(0);
    replayed(&letters, Which::All);
    let forged = letter.value.replace("\"ours\"", "\"forged\"");
    let topic = kafka.topic("payment.initiated");
    produce(&brokers, &topic, Some("a"), forged.as_bytes(), &[]).await;
    until("both", || door.seen().len() == 3).await;
    let sources: Vec<_> = door
        .seen()
        .iter()
        .map(|s| (s.id.clone(), s.body["source"].as_str().unwrap().to_owned()))
        .collect();
    let of = |id: &str, source: &str| (id.to_owned(), source.to_owned());
    assert_eq!(
        sources,
        [
            of("ours", "/innover/payment"),
            of("ours", "/innover/payment"),
            of("external-forged", "external")
        ]
    );
    bridge.shutdown().await;
}

/// A broker of a test's own.
struct OwnKafka {
    folder: tempfile::TempDir,
}

impl OwnKafka {
    /// `None` where there is no shared broker either: then these tests are left out.
    fn start(nodes: usize) -> Option<(OwnKafka, String)> {
        kafka()?;
        let own = OwnKafka {
            folder: tempfile::tempdir().unwrap(),
        };
        let brokers = own.run(&["--nodes", &nodes.to_string()]);
        Some((own, brokers))
    }

    fn script() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/services/kafka")
    }

    fn run(&self, more: &[&str]) -> String {
        let output = Command::new(Self::script())
            .arg("start")
            .arg(self.folder.path())
            .args(more)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn restart(&self) {
        self.run(&[]);
    }

    fn kill(&self, node: usize) {
        let killed = Command::new(Self::script())
            .arg("kill")
            .arg(self.folder.path())
            .arg(node.to_string())
            .status();
        assert!(killed.unwrap().success());
    }

    fn signal(&self, node: usize, signal: &str) {
        let pid = self.folder.path().join(format!("node-{node}/pid"));
        let pid = std::fs::read_to_string(pid).unwrap();
        let sent = Command::new("kill")
            .args([signal, pid.trim()])
            .status()
            .unwrap();
        assert!(sent.success());
    }
}

impl Drop for OwnKafka {
    fn drop(&mut self) {
        let stopped = Command::new(Self::script())
            .arg("stop")
            .arg(self.folder.path())
            .status();
        if !std::thread::panicking() {
            assert!(stopped.unwrap().success());
        }
    }
}

/// As [`until`], for what is promised within a time.
async fn soon(what: &str, within: Duration, condition: impl Fn() -> bool) {
    let started = Instant::now();
    while started.elapsed() < within {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not within {within:?}: {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_goes_from_the_outbox_through_kafka_to_its_subscriber_once() {
    let Some(brokers) = kafka() else { return };
    let (platform, kafka, door) = (payments(), config(&brokers), FakeDoor::ok());
    let bridge = start(&platform, &kafka, &door).await;
    emit(
        &platform.open("payment"),
        "e1",
        "payment.initiated",
        "pay_1",
        r#"{"amount":12345678901234567890}"#,
    );
    until("delivered", || !door.seen().is_empty()).await;
    until("deleted", || platform.outbox("payment") == 0).await;
    let metrics = bridge.metrics();
    bridge.shutdown().await;
    let seen = door.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].service, "forex");
    assert_eq!(seen[0].body["source"], "/innover/payment");
    assert_eq!(
        seen[0].body["data"]["amount"].to_string(),
        "12345678901234567890"
    );
    assert!(
        seen[0].traceparent.is_some(),
        "one event's delivery is part of its trace"
    );
    assert!(
        metrics.contains("innover_events_published_total{topic=\"payment.initiated\"} 1"),
        "{metrics}"
    );
    assert!(all_committed(&kafka, "forex", "payment.initiated"));

    let on_topic = read_topic(&brokers, &kafka.topic("payment.initiated"));
    let [message] = &on_topic[..] else {
        panic!("one message, not {on_topic:?}")
    };
    assert_eq!(message.key.as_deref(), Some("pay_1"));
    let value: Value = serde_json::from_slice(&message.value).unwrap();
    assert_eq!(value, seen[0].body, "structured, as it was delivered");
    let expected = [
        ("ce_id", "e1"),
        ("ce_type", "payment.initiated"),
        ("content-type", "application/cloudevents+json"),
        ("correlation_id", "req-1"),
        (
            "traceparent",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ),
    ];
    assert_eq!(
        message.headers,
        expected
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into_iter()
            .collect()
    );
    assert_eq!(
        inspect::head(&platform.store()).unwrap(),
        0,
        "the store keeps no copy"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn later_events_of_a_key_wait_behind_a_failing_one_and_other_keys_flow() {
    let Some(brokers) = kafka() else { return };
    let (platform, kafka) = (payments(), config(&brokers));
    let door = FakeDoor::new(|_, event, before| match event["id"].as_str() {
        Some("a1") if before < 3 => Answer::Status(409),
        _ => Answer::Status(200),
    });
    let bridge = start(&platform, &kafka, &door).await;
    for (id, key) in [
        ("a1", "a"),
        ("b1", "b"),
        ("a2", "a"),
        ("b2", "b"),
        ("a3", "a"),
    ] {
        platform.emit("payment", id, "payment.initiated", key);
    }
    let good = |id: &str| {
        door.seen()
            .iter()
            .position(|s| s.id == id && matches!(s.answer, Answer::Status(200)))
    };
    // The first answer for a2 may have come with a1's refusal and does not count.
    until("a3 follows a1", || {
        match (
            good("a1"),
            door.ids("forex").iter().rposition(|id| id == "a3"),
        ) {
            (Some(a1), Some(a3)) => a1 < a3,
            _ => false,
        }
    })
    .await;
    until("committed", || {
        all_committed(&kafka, "forex", "payment.initiated")
    })
    .await;
    let last = |id: &str| door.ids("forex").iter().rposition(|i| i == id).unwrap();
    assert!(last("a1") < last("a2") && last("a2") < last("a3"));
    assert!(good("b2") < good("a1"), "another key did not wait");
    assert_eq!(door.ids("forex").iter().filter(|id| *id == "a1").count(), 4);
    bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_given_up_is_a_dead_letter_and_can_be_replayed() {
    let Some(brokers) = kafka() else { return };
    let (platform, kafka) = (payments(), config(&brokers));
    let door = FakeDoor::new(|_, event, before| match event["id"].as_str() {
        Some("bad") if before < 2 => Answer::Status(503),
        Some("bad") => Answer::Status(422),
        _ => Answer::Status(200),
    });
    let bridge = start(&platform, &kafka, &door).await;
    platform.emit("payment", "bad", "payment.initiated", "a");
    platform.emit("payment", "good", "payment.initiated", "a");
    let letters = KafkaLetters::new(kafka.clone());
    let list = || letters.list("forex", 10).unwrap();
    until("a dead letter", || list().len() == 1).await;
    let letter = list().remove(0);
    assert_eq!(
        (letter.id.as_str(), letter.attempts, letter.error.as_str()),
        ("bad", 3, "422 as told")
    );
    assert_eq!(letter.topic, kafka.topic("payment.initiated"));
    assert_eq!(letter.key.as_deref(), Some("a"));
    assert_eq!(
        letter.trace_id.as_deref(),
        Some("4bf92f3577b34da6a3ce929d0e0e4736")
    );
    let value: Value = serde_json::from_str(&letter.value).unwrap();
    assert_eq!(value["data"]["id"], "bad", "the original bytes");
    until("the next of its key", || {
        door.ids("forex").contains(&"good".to_owned())
    })
    .await;
    until("committed", || {
        all_committed(&kafka, "forex", "payment.initiated")
    })
    .await;
    assert!(
        bridge
            .metrics()
            .contains("innover_events_dead_total{subscriber=\"forex\"} 1")
    );

    let kept = |n: usize| {
        let sample = format!("innover_dead_letters{{kind=\"event\"}} {n}\n");
        bridge.metrics().contains(&sample)
    };
    until("counted", || kept(1)).await;

    door.set(|_, _, _| Answer::Status(200));
    assert_eq!(replayed(&letters, at(&letter)), ["bad"]);
    let acknowledged = |id: &str| {
        let seen = door.seen();
        seen.iter()
            .any(|s| s.id == id && matches!(s.answer, Answer::Status(200)))
    };
    until("delivered again", || acknowledged("bad")).await;
    assert_eq!(letters.depth("forex").unwrap(), 0, "it is dealt with");
    let again = letters.replay("forex", at(&letter), |_, _| ());
    assert!(again.is_err(), "not twice by mistake");
    until("counted again", || kept(0)).await;
    let messages = read_topic(&brokers, &kafka.topic("payment.initiated"));
    let copies: Vec<_> = messages
        .iter()
        .filter(|m| m.headers["ce_id"] == "bad")
        .collect();
    assert_eq!(copies.len(), 2);
    assert_eq!(copies[0].value, copies[1].value);
    assert_eq!(copies[0].headers, copies[1].headers);
    bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_dead_letters_of_a_service_are_replayed_or_discarded_at_once() {
    let Some(brokers) = kafka() else { return };
    let (platform, kafka) = (payments(), config(&brokers));
    let door = FakeDoor::new(|_, _, _| Answer::Status(422));
    let bridge = start(&platform, &kafka, &door).await;
    emit_many(&platform, "e", 30);
    let letters = KafkaLetters::new(kafka.clone());
    let depth = |n: usize| letters.depth("forex").is_ok_and(|depth| depth == n);
    until("all dead", || depth(30)).await;
    let discarded = letters.list("forex", 1).unwrap().remove(0);
    let one = at(&discarded);
    let mut gone = Vec::new();
    let discard = letters.discard("forex", one, |letter| gone.push(letter.clone()));
    discard.unwrap();
    assert_eq!(gone, std::slice::from_ref(&discarded));
    assert!(letters.discard("forex", one, |_| ()).is_err());
    assert!(letters.replay("forex", one, |_, _| ()).is_err());
    assert!(depth(29));

    // Of the replayed ones some are refused again: other letters, with one story each.
    door.set(|_, event, _| match event["data"]["n"].as_i64() {
        Some(n) if n % 10 == 0 => Answer::Status(422),
        _ => Answer::Status(200),
    });
    let before = door.seen().len();
    // One that somebody put there by hand names no topic, and stays.
    let topic = kafka.dead_letters("forex");
    produce(&brokers, &topic, Some("a"), b"by hand", &[]).await;
    let mut left = Vec::new();
    let replay = letters.replay("forex", Which::All, |letter, done| {
        left.extend(
            done.err()
                .map(|why| (letter.value.clone(), why.to_string())),
        );
    });
    replay.unwrap();
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(
        left[0].0 == "by hand" && left[0].1.contains("discarded"),
        "{left:?}"
    );
    until("all delivered again", || door.seen().len() == before + 29).await;
    assert!(
        door.seen()[before..]
            .iter()
            .all(|seen| seen.id != discarded.id)
    );
    let tens = (0..30).step_by(10);
    let refused = tens.filter(|n| discarded.id != format!("e-{n}")).count();
    until("refused again", || depth(refused + 1)).await;
    let mut gone = 0;
    letters.discard("forex", Which::All, |_| gone += 1).unwrap();
    assert_eq!(gone, refused + 1);
    assert!(depth(0));
    assert!(replayed(&letters, Which::All).is_empty());
    bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_travel_in_batches_no_larger_than_asked_for() {
    let Some(brokers) = kafka() else { return };
    let (mut platform, kafka, door) = (payments(), config(&brokers), FakeDoor::ok());
    platform.service("forex").event_batch = 20;
    *door.takes.lock().unwrap() = Duration::from_millis(20);
    let bridge = start(&platform, &kafka, &door).await;
    emit_many(&platform, "e", 500);
    until("all delivered", || door.seen().len() == 500).await;
    assert_order_per_key(&door);
    let sizes: HashSet<usize> = door.seen().iter().map(|s| s.of).collect();
    assert!(
        sizes.iter().all(|of| *of <= 20) && sizes.contains(&20),
        "{sizes:?}"
    );
    bridge.shutdown().await;
    assert_eq!(door.seen().len(), 500, "once each");
    assert!(all_committed(&kafka, "forex", "payment.initiated"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poison_event_is_isolated_from_its_batch() {
    let Some(brokers) = kafka() else { return };
    let (platform, kafka) = (payments(), config(&brokers));
    let door = FakeDoor::new(|_, event, _| match event["data"]["n"].as_i64() {
        Some(7) => Answer::Whole(400),
        _ => Answer::Status(200),
    });
    *door.takes.lock().unwrap() = Duration::from_millis(20);
    let bridge = start(&platform, &kafka, &door).await;
    emit_many(&platform, "e", 40);
    let letters = KafkaLetters::new(kafka.clone());
    until("one dead letter", || {
        letters.depth("forex").is_ok_and(|depth| depth == 1)
    })
    .await;
    until("committed", || {
        all_committed(&kafka, "forex", "payment.initiated")
    })
    .await;
    assert_eq!(letters.list("forex", 10).unwrap()[0].id, "e-7");
    assert_eq!(distinct(&door), 40);
    bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_put_on_a_topic_by_hand_is_external_and_what_is_no_event_is_a_dead_letter() {
    let Some(brokers) = kafka() else { return };
    let (platform, kafka, door) = (payments(), config(&brokers), FakeDoor::ok());
    let topic = kafka.topic("payment.initiated");
    make_topic(&brokers, &topic, 6, &[]).await;
    let bridge = start(&platform, &kafka, &door).await;
    let by_hand = br#"{"amount": 12345678901234567890}"#;
    produce(
        &brokers,
        &topic,
        Some("pay_1"),
        by_hand,
        &[("correlation_id", "req-9")],
    )
    .await;
    produce(&brokers, &topic, Some("pay_1"), b"not json", &[]).await;
    produce(&brokers, &topic, None, br#"{"n": 2}"#, &[]).await;
    until("both delivered", || door.seen().len() == 2).await;
    let messages = read_topic(&brokers, &topic);
    let of = |value: &[u8]| messages.iter().find(|m| m.value == value).unwrap().place;
    let seen = door.seen();
    let first = seen.iter().find(|s| s.body["subject"] == "pay_1").unwrap();
    let (partition, offset) = of(by_hand);
    assert_eq!(first.id, format!("{topic}-{partition}-{offset}"));
    assert_eq!(first.body["source"], "external");
    assert_eq!(first.body["type"], "payment.initiated");
    assert_eq!(first.body["correlationid"], "req-9");
    assert_eq!(
        first.body["data"]["amount"].to_string(),
        "12345678901234567890"
    );
    assert!(first.body["time"].as_str().unwrap().starts_with("20"));

    let letters = KafkaLetters::new(kafka.clone());
    until("a dead letter", || {
        letters.depth("forex").is_ok_and(|depth| depth == 1)
    })
    .await;
    let letter = letters.list("forex", 1).unwrap().remove(0);
    assert_eq!(letter.value, "not json");
    assert_eq!(
        (letter.original_partition, letter.original_offset),
        of(b"not json")
    );
    assert_eq!(letter.attempts, 0);
    assert!(letter.error.contains("no JSON object"), "{}", letter.error);
    until("committed", || {
        all_committed(&kafka, "forex", "payment.initiated")
    })
    .await;
    bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_with_a_header_whose_name_is_no_text_does_not_end_the_subscriber() {
    let Some(brokers) = kafka() else { return };
    let (platform, kafka, door) = (payments(), config(&brokers), FakeDoor::ok());
    let topic = kafka.topic("payment.initiated");
    make_topic(&brokers, &topic, 1, &[]).await;
    let bridge = start(&platform, &kafka, &door).await;
    // SAFETY: it is only copied into a C string; no other client of this library can be told of one.
    let name = unsafe { String::from_utf8_unchecked(vec![b'x', 0xff]) };
    let headers = [("correlation_id", "req-9"), (&*name, "1")];
    produce(&brokers, &topic, Some("a"), br#"{"n": 1}"#, &headers).await;
    produce(&brokers, &topic, Some("a"), br#"{"n": 2}"#, &headers[..1]).await;
    until("both delivered", || door.seen().len() == 2).await;
    let seen = door.seen();
    assert_eq!(seen[0].body["source"], "external");
    let ids: Vec<_> = seen.iter().map(|s| &s.body["correlationid"]).collect();
    assert_eq!(ids, [&Value::Null, &json!("req-9")]);
    until("committed", || {
        all_committed(&kafka, "forex", "payment.initiated")
    })
    .await;
    bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_too_large_for_a_dead_letter_leaves_its_beginning_and_lets_others_pass() {
    let Some(brokers) = kafka() else { return };
    let (platform, kafka, door) = (payments(), config(&brokers), FakeDoor::ok());
    let topic = kafka.topic("payment.initiated");
    make_topic(&brokers, &topic, 1, &[("max.message.bytes", "8000000")]).await;
    let bridge = start(&platform, &kafka, &door).await;
    let noise: String = (0..100_000)
        .map(|_| uuid::Uuid::now_v7().simple().to_string())
        .collect();
    let large = json!({ "noise": noise }).to_string();
    produce(&brokers, &topic, Some("a"), large.as_bytes(), &[]).await;
    produce(&brokers, &topic, Some("a"), b"{}", &[]).await;
    until("the small one", || door.seen().len() == 1).await;
    let letters = KafkaLetters::new(kafka.clone());
    until("a dead letter", || {
        letters.depth("forex").is_ok_and(|depth| depth == 1)
    })
    .await;
    let letter = letters.list("forex", 1).unwrap().remove(0);
    assert!(letter.cut && large.starts_with(&letter.value) && !letter.value.is_empty());
    let mut said = String::new();
    let replay = letters.replay("forex", at(&letter), |_, done| {
        said = done.unwrap_err().to_string();
    });
    replay.unwrap();
    assert!(said.contains(&topic) && said.contains("offset 0"), "{said}");
    assert_eq!(letters.depth("forex").unwrap(), 1);
    until("committed", || {
        let (committed, end) = committed(&kafka, "forex", "payment.initiated")[0];
        committed == end
    })
    .await;
    bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_kafka_refuses_for_itself_is_parked_and_the_rest_flows() {
    let Some(brokers) = kafka() else { return };
    let (platform, kafka, door) = (payments(), config(&brokers), FakeDoor::ok());
    let small = [("max.message.bytes", "2000")];
    make_topic(&brokers, &kafka.topic("payment.initiated"), 1, &small).await;
    let bridge = start(&platform, &kafka, &door).await;
    let connection = platform.open("payment");
    connection.execute_batch("BEGIN").unwrap();
    // Random letters: the broker counts what is left after compression.
    let noise: String = (0..200)
        .map(|_| uuid::Uuid::now_v7().simple().to_string())
        .collect();
    let large = json!({ "noise": noise }).to_string();
    for (id, topic, payload) in [
        ("before", "payment.initiated", "{}"),
        ("large", "payment.initiated", large.as_str()),
        ("nowhere", "no such topic name", "{}"),
        ("after", "payment.initiated", "{}"),
    ] {
        emit(&connection, id, topic, "a", payload);
    }
    connection.execute_batch("COMMIT").unwrap();
    until("the small ones", || distinct(&door) == 2).await;
    until("deleted", || platform.outbox("payment") == 0).await;
    assert_eq!(door.ids("forex"), ["before", "after"]);
    let filter = LetterFilter {
        kind: Some("outbox"),
        ..LetterFilter::default()
    };
    let mut letters = inspect::dead_letters(&platform.store(), &filter, 10).unwrap();
    letters.sort_by(|a, b| a.id.cmp(&b.id));
    let of: Vec<_> = letters
        .iter()
        .map(|l| (l.id.as_str(), l.target.as_str()))
        .collect();
    assert_eq!(of, [("large", "payment"), ("nowhere", "payment")]);
    assert!(letters[0].error.contains("Kafka"), "{}", letters[0].error);
    bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_deleted_is_made_again_and_holds_others_up_without_repeating_them() {
    let Some(brokers) = kafka() else { return };
    let (platform, kafka, door) = (payments(), config(&brokers), FakeDoor::ok());
    let bridge = start(&platform, &kafka, &door).await;
    platform.emit("payment", "e1", "payment.noted", "a");
    until("published", || platform.outbox("payment") == 0).await;
    let admin: AdminClient<DefaultClientContext> = client(&brokers).create().unwrap();
    let deleted = kafka.topic("payment.noted");
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(10)));
    let done = admin.delete_topics(&[&deleted], &options).await.unwrap();
    done.into_iter().for_each(|d| drop(d.unwrap()));
    let connection = platform.open("payment");
    connection.execute_batch("BEGIN").unwrap();
    emit(&connection, "e2", "payment.noted", "a", "{}");
    emit(&connection, "e3", "payment.initiated", "a", "{}");
    connection.execute_batch("COMMIT").unwrap();
    // The client gives a topic time to become known before it believes that there is none.
    until("published again", || platform.outbox("payment") == 0).await;
    bridge.shutdown().await;
    let ids = |kind: &str| -> Vec<String> {
        let messages = read_topic(&brokers, &kafka.topic(kind));
        messages
            .into_iter()
            .map(|m| m.headers["ce_id"].clone())
            .collect()
    };
    assert_eq!(ids("payment.noted"), ["e2"]);
    assert_eq!(ids("payment.initiated"), ["e3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_whose_topic_is_gone_says_so_until_it_is_there_again() {
    let Some(brokers) = kafka() else { return };
    let (platform, kafka, door) = (payments(), config(&brokers), FakeDoor::ok());
    let bridge = start(&platform, &kafka, &door).await;
    platform.emit("payment", "e1", "payment.initiated", "a");
    until("delivered", || distinct(&door) == 1).await;
    let topic = kafka.topic("payment.initiated");
    let admin: AdminClient<DefaultClientContext> = client(&brokers).create().unwrap();
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(10)));
    let done = admin.delete_topics(&[&topic], &options).await.unwrap();
    done.into_iter().for_each(|d| drop(d.unwrap()));
    let told = || {
        let problems = bridge.readiness().problems;
        problems
            .iter()
            .any(|p| p.starts_with("forex (Kafka)") && p.contains(&topic))
    };
    // A member looks for its topics every 30 s.
    until("said", told).await;
    make_topic(&brokers, &topic, 6, &[]).await;
    until("ready again", || bridge.readiness().ready).await;
    platform.emit("payment", "e2", "payment.initiated", "a");
    until("delivered", || distinct(&door) == 2).await;
    bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_and_events_of_one_outbox_go_their_own_ways() {
    let Some(brokers) = kafka() else { return };
    let (platform, kafka, door) = (payments(), config(&brokers), FakeDoor::ok());
    let bridge = start(&platform, &kafka, &door).await;
    platform.emit("payment", "e1", "payment.initiated", "a");
    let job = json!({"id": "j1", "task": "payment.run", "args": [], "kwargs": {}});
    platform.push("payment", "payment-tasks", &job);
    until("both", || {
        door.ids("forex") == ["e1"] && door.ids("payment") == ["j1"]
    })
    .await;
    bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_behind_more_events_than_one_read_takes_goes_on_while_kafka_is_away() {
    // Nothing listens there, so this needs no broker.
    let (platform, kafka, door) = (payments(), config("127.0.0.1:1"), FakeDoor::ok());
    emit_many(&platform, "e", RELAY_ROWS_MAX + 100);
    let job = json!({"id": "j1", "task": "payment.run", "args": [], "kwargs": {}});
    platform.push("payment", "payment-tasks", &job);
    let bridge = start(&platform, &kafka, &door).await;
    until("the job", || door.ids("payment") == ["j1"]).await;
    until("only events are left", || {
        platform.outbox("payment") == RELAY_ROWS_MAX as i64 + 100
    })
    .await;
    bridge.shutdown().await;
    assert_eq!(door.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_published_before_kafka_was_configured_are_still_delivered() {
    let Some(brokers) = kafka() else { return };
    let (platform, kafka) = (payments(), config(&brokers));
    let door = FakeDoor::new(|_, _, _| Answer::Unavailable);
    let embedded = platform.start(&door).await;
    platform.emit("payment", "old", "payment.initiated", "a");
    until("relayed", || platform.outbox("payment") == 0).await;
    embedded.shutdown().await;
    let door = FakeDoor::ok();
    let bridge = start(&platform, &kafka, &door).await;
    platform.emit("payment", "new", "payment.initiated", "a");
    until("both", || distinct(&door) == 2).await;
    bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_the_broker_is_killed_and_comes_back() {
    let Some((own, brokers)) = OwnKafka::start(1) else {
        return;
    };
    let (platform, kafka, door) = (payments(), config(&brokers), FakeDoor::ok());
    *door.takes.lock().unwrap() = Duration::from_millis(10);
    let bridge = start(&platform, &kafka, &door).await;
    emit_many(&platform, "first", 2_000);
    until("some delivered", || distinct(&door) > 300).await;
    own.kill(1);
    emit_many(&platform, "second", 2_000);
    until("said", || {
        let problems = bridge.readiness().problems;
        problems
            .iter()
            .any(|p| p.starts_with("Kafka") && p.contains("cannot be reached"))
    })
    .await;
    assert!(platform.outbox("payment") > 0, "the outbox keeps its rows");
    own.restart();
    until("all delivered", || distinct(&door) == 4_000).await;
    until("outbox empty", || platform.outbox("payment") == 0).await;
    until("ready again", || bridge.readiness().ready).await;
    bridge.shutdown().await;
    let (first, second): (Vec<_>, Vec<_>) = door
        .seen()
        .into_iter()
        .partition(|s| s.id.starts_with("first"));
    assert!(first.len() >= 2_000 && second.len() >= 2_000);
    assert!(all_committed(&kafka, "forex", "payment.initiated"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_that_stands_still_is_replaced_and_order_per_key_is_kept() {
    let Some((own, brokers)) = OwnKafka::start(1) else {
        return;
    };
    let (platform, kafka, door) = (payments(), config(&brokers), FakeDoor::ok());
    let bridge = start(&platform, &kafka, &door).await;
    emit_many(&platform, "first", 500);
    until("delivered", || distinct(&door) == 500).await;
    // The connection stays, and nothing comes over it.
    own.signal(1, "-STOP");
    emit_many(&platform, "second", 500);
    let given_up = || {
        let problems = bridge.readiness().problems;
        problems.iter().any(|p| p.contains("Purged"))
    };
    let patience = KAFKA_STUCK + Duration::from_secs(15);
    soon("the outbox waits for a new producer", patience, given_up).await;
    emit_many(&platform, "third", 500);
    own.signal(1, "-CONT");
    until("all delivered", || distinct(&door) == 1_500).await;
    until("outbox empty", || platform.outbox("payment") == 0).await;
    bridge.shutdown().await;
    assert_order_per_key_of_runs(&door);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_without_a_leader_holds_up_neither_jobs_nor_the_word_about_it() {
    let Some((own, brokers)) = OwnKafka::start(3) else {
        return;
    };
    let (platform, kafka, door) = (payments(), config(&brokers), FakeDoor::ok());
    // One copy each, on a node that is told.
    make_topic_on(&brokers, &kafka.topic("payment.noted"), 3).await;
    make_topic_on(&brokers, &kafka.topic("forex.noted"), 2).await;
    let bridge = start(&platform, &kafka, &door).await;
    platform.emit("payment", "p1", "payment.noted", "a");
    platform.emit("forex", "f1", "forex.noted", "a");
    until("both published", || {
        platform.outbox("payment") == 0 && platform.outbox("forex") == 0
    })
    .await;
    own.kill(3);
    platform.emit("payment", "p2", "payment.noted", "a");
    let waits = |service: &str| {
        let problems = bridge.readiness().problems;
        let who = format!("Kafka (publishing for {service})");
        problems.iter().any(|p| p.starts_with(&who))
    };
    // Published meanwhile, so that the producer makes progress and is not replaced.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let job = json!({"id": "j1", "task": "payment.run", "args": [], "kwargs": {}});
    platform.push("payment", "payment-tasks", &job);
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut n = 2;
    while door.ids("payment").is_empty() {
        assert!(Instant::now() < deadline, "the job waits");
        platform.emit("forex", &format!("f{n}"), "forex.noted", "a");
        n += 1;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    until("payment waits", || waits("payment")).await;
    own.signal(2, "-STOP");
    platform.emit("forex", "slow", "forex.noted", "a");
    until("forex waits", || waits("forex")).await;
    own.signal(2, "-CONT");
    until("forex goes on", || {
        platform.outbox("forex") == 0 && !waits("forex")
    })
    .await;
    assert!(waits("payment"), "{:?}", bridge.readiness().problems);
    own.restart();
    until("all published", || {
        platform.outbox("payment") == 0 && !waits("payment")
    })
    .await;
    bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_starts_and_ends_while_kafka_is_away_and_goes_on_when_it_comes() {
    let Some((own, brokers)) = OwnKafka::start(1) else {
        return;
    };
    own.kill(1);
    let (platform, kafka, door) = (payments(), config(&brokers), FakeDoor::ok());
    platform.emit("payment", "e1", "payment.initiated", "a");
    let bridge = start(&platform, &kafka, &door).await;
    until("said", || {
        bridge
            .readiness()
            .problems
            .iter()
            .any(|p| p.starts_with("Kafka cannot be reached"))
    })
    .await;
    let ending = Instant::now();
    bridge.shutdown().await;
    println!("ended without Kafka after {:?}", ending.elapsed());
    assert!(
        ending.elapsed() < Duration::from_secs(30),
        "{:?}",
        ending.elapsed()
    );
    assert_eq!(platform.outbox("payment"), 1, "kept");
    let bridge = start(&platform, &kafka, &door).await;
    own.restart();
    until("delivered", || door.ids("forex") == ["e1"]).await;
    // Away again, with a member of a group this time.
    own.kill(1);
    emit_many(&platform, "many", 700);
    let ending = Instant::now();
    bridge.shutdown().await;
    println!("ended without Kafka after {:?}", ending.elapsed());
    assert!(
        ending.elapsed() < Duration::from_secs(30),
        "{:?}",
        ending.elapsed()
    );
    own.restart();
    let bridge = start(&platform, &kafka, &door).await;
    until("the others", || distinct(&door) == 701).await;
    bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_ends_without_a_word_loses_nothing_and_commits_nothing_unsettled() {
    let Some(brokers) = kafka() else { return };
    let (mut platform, kafka, door) = (payments(), config(&brokers), FakeDoor::ok());
    platform.service("forex").event_batch = 50;
    *door.takes.lock().unwrap() = Duration::from_millis(100);
    let bridge = start(&platform, &kafka, &door).await;
    emit_many(&platform, "e", 1_000);
    until("mid-way", || distinct(&door) > 200).await;
    drop(bridge);
    let settled: HashSet<String> = door.ids("forex").into_iter().collect();
    assert!(settled.len() < 1_000);
    // It leaves the group within a moment; what it committed by then is all it ever will.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let offsets = committed(&kafka, "forex", "payment.initiated");
    assert!(
        offsets.iter().any(|(offset, _)| *offset > 0),
        "it did commit: {offsets:?}"
    );
    for message in read_topic(&brokers, &kafka.topic("payment.initiated")) {
        let (partition, offset) = message.place;
        let id = &message.headers["ce_id"];
        assert!(
            offset >= offsets[partition as usize].0 || settled.contains(id),
            "{id} at {partition}/{offset} was passed without an effect: {offsets:?}"
        );
    }
    let again = FakeDoor::ok();
    let bridge = start(&platform, &kafka, &again).await;
    until("the rest", || {
        let mut all: HashSet<String> = again.ids("forex").into_iter().collect();
        all.extend(settled.iter().cloned());
        all.len() == 1_000
    })
    .await;
    assert_order_per_key(&again);
    assert!(
        distinct(&again) < 1_000,
        "what was committed does not come again"
    );
    bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_bridges_share_the_partitions_and_one_takes_over_from_the_other() {
    let Some(brokers) = kafka() else { return };
    let (mut one, mut two, kafka) = (payments(), payments(), config(&brokers));
    one.service("forex").event_batch = 20;
    two.service("forex").event_batch = 20;
    let (first, second) = (FakeDoor::ok(), FakeDoor::ok());
    for door in [&first, &second] {
        *door.takes.lock().unwrap() = Duration::from_millis(20);
    }
    let bridge_one = start(&one, &kafka, &first).await;
    let bridge_two = start(&two, &kafka, &second).await;
    let mut sent = 0;
    let both = async {
        while first.seen().is_empty() || second.seen().is_empty() {
            emit_many(&one, &format!("warm-{sent}"), 20);
            sent += 20;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let shared = tokio::time::timeout(Duration::from_secs(120), both).await;
    assert!(shared.is_ok(), "both get a share");
    emit_many(&one, "rest", 2_000);
    sent += 2_000;
    let before = second.seen().len();
    until("both work", || second.seen().len() > before + 100).await;
    drop(bridge_two);
    soon("the other has it all", Duration::from_secs(15), || {
        let mut all: HashSet<String> = first.ids("forex").into_iter().collect();
        all.extend(second.ids("forex"));
        all.len() == sent
    })
    .await;
    assert_order_per_key_of_runs(&second);
    bridge_one.shutdown().await;
    assert!(all_committed(&kafka, "forex", "payment.initiated"));
}

/// The session of a member that is gone lasts ten seconds.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_the_session_of_a_bridge_that_left_in_order() {
    let Some(brokers) = kafka() else { return };
    let (one, two, kafka) = (payments(), payments(), config(&brokers));
    let (first, second) = (FakeDoor::ok(), FakeDoor::ok());
    let bridge_one = start(&one, &kafka, &first).await;
    let bridge_two = start(&two, &kafka, &second).await;
    let mut sent = 0;
    let both = async {
        while first.seen().is_empty() || second.seen().is_empty() {
            emit_many(&one, &format!("warm-{sent}"), 20);
            sent += 20;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let shared = tokio::time::timeout(Duration::from_secs(120), both).await;
    assert!(shared.is_ok(), "both get a share");
    bridge_two.shutdown().await;
    emit_many(&one, "left", 100);
    sent += 100;
    soon("the other has it all", Duration::from_secs(5), || {
        let mut all: HashSet<String> = first.ids("forex").into_iter().collect();
        all.extend(second.ids("forex"));
        all.len() == sent
    })
    .await;
    bridge_one.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_come_and_go_in_order_repeat_nothing() {
    let Some(brokers) = kafka() else { return };
    let doors = come_and_go(&brokers, |_, _, _| Answer::Status(200)).await;
    let mut once = HashSet::new();
    for door in &doors {
        assert_order_per_key_of_runs(door);
        let ids = door.ids("forex");
        let repeated: Vec<_> = ids
            .iter()
            .filter(|id| !once.insert((*id).clone()))
            .collect();
        assert!(repeated.is_empty(), "{repeated:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_its_next_try_goes_with_its_partition() {
    let Some(brokers) = kafka() else { return };
    come_and_go(&brokers, |_, event, before| {
        match event["data"]["n"].as_i64() {
            Some(n) if n % 50 == 0 && before < 2 => Answer::Status(503),
            _ => Answer::Status(200),
        }
    })
    .await;
}

/// A second member joins while the first is busy, and leaves while both are, four times. Every event
/// is acknowledged in the end.
async fn come_and_go(
    brokers: &str,
    rule: impl Fn(&str, &Value, usize) -> Answer + Clone + Send + Sync + 'static,
) -> [Arc<FakeDoor>; 2] {
    let (mut one, mut two, kafka) = (payments(), payments(), config(brokers));
    one.service("forex").event_batch = 20;
    two.service("forex").event_batch = 20;
    let (first, second) = (FakeDoor::new(rule.clone()), FakeDoor::new(rule));
    for door in [&first, &second] {
        *door.takes.lock().unwrap() = Duration::from_millis(20);
    }
    let acknowledged = || {
        let seen = first.seen().into_iter().chain(second.seen());
        let good = seen.filter(|s| matches!(s.answer, Answer::Status(200)));
        good.map(|s| s.id).collect::<HashSet<_>>().len()
    };
    let bridge_one = start(&one, &kafka, &first).await;
    // A trickle rather than a flood: each delivery then has events of several partitions.
    let stop = Arc::new(AtomicBool::new(false));
    let trickle = {
        let (stop, connection) = (stop.clone(), one.open("payment"));
        std::thread::spawn(move || {
            let mut n = 0;
            while !stop.load(Relaxed) {
                connection.execute_batch("BEGIN IMMEDIATE").unwrap();
                for _ in 0..20 {
                    let payload = json!({ "n": n }).to_string();
                    let key = format!("key-{}", n % 10);
                    emit(
                        &connection,
                        &format!("e-{n}"),
                        "payment.initiated",
                        &key,
                        &payload,
                    );
                    n += 1;
                }
                connection.execute_batch("COMMIT").unwrap();
                std::thread::sleep(Duration::from_millis(15));
            }
            n
        })
    };
    for _ in 0..4 {
        let before = first.seen().len();
        until("the first works", || first.seen().len() > before + 200).await;
        let before = second.seen().len();
        let bridge_two = start(&two, &kafka, &second).await;
        until("the second has a share", || {
            second.seen().len() > before + 200
        })
        .await;
        bridge_two.shutdown().await;
    }
    stop.store(true, Relaxed);
    let sent = trickle.join().unwrap();
    until("all delivered", || acknowledged() == sent).await;
    until("all committed", || {
        all_committed(&kafka, "forex", "payment.initiated")
    })
    .await;
    bridge_one.shutdown().await;
    [first, second]
}

/// As [`assert_order_per_key`], where several runs of [`emit_many`] each count from 0.
fn assert_order_per_key_of_runs(door: &FakeDoor) {
    let mut highest: HashMap<(String, String), i64> = HashMap::new();
    let mut known = HashSet::new();
    for seen in door.seen() {
        if !matches!(seen.answer, Answer::Status(200)) || !known.insert(seen.id.clone()) {
            continue;
        }
        let (run, n) = seen.id.rsplit_once('-').unwrap();
        let key = seen.body["partitionkey"].as_str().unwrap();
        let last = highest.entry((run.into(), key.into())).or_insert(-1);
        let n: i64 = n.parse().unwrap();
        assert!(n > *last, "{} came after number {last}", seen.id);
        *last = n;
    }
}

/// Not a test: the bridge that the next one kills. Its services have no outbox of their own.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by `a_killed_process_is_replaced_within_its_session`"]
async fn child() {
    let Ok(told) = std::env::var("INNOVER_TEST_KAFKA_CHILD") else {
        return;
    };
    let [brokers, topics, groups, file] = told.split('|').collect::<Vec<_>>()[..] else {
        panic!("{told}")
    };
    let mut kafka = KafkaConfig::new(brokers);
    kafka.topic_prefix = topics.into();
    kafka.group_prefix = groups.into();
    let (platform, door) = (payments(), FakeDoor::ok());
    *door.takes.lock().unwrap() = Duration::from_millis(20);
    let _bridge = start(&platform, &kafka, &door).await;
    loop {
        std::fs::write(file, door.seen().len().to_string()).unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Ends a process when a test is over, however it ends.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_is_replaced_within_its_session() {
    let Some(brokers) = kafka() else { return };
    let (mut platform, kafka, door) = (payments(), config(&brokers), FakeDoor::ok());
    platform.service("forex").event_batch = 20;
    *door.takes.lock().unwrap() = Duration::from_millis(20);
    let bridge = start(&platform, &kafka, &door).await;
    let file = platform.folder.path().join("child-has-seen");
    let told = format!(
        "{brokers}|{}|{}|{}",
        kafka.topic_prefix,
        kafka.group_prefix,
        file.display()
    );
    let mut child = Running(
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--ignored"])
            .env("INNOVER_TEST_KAFKA_CHILD", told)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap(),
    );
    let childs = || {
        std::fs::read_to_string(&file)
            .ok()
            .and_then(|n| n.parse::<usize>().ok())
            .unwrap_or(0)
    };
    let mut sent = 0;
    let both = async {
        while childs() < 100 {
            emit_many(&platform, &format!("warm-{sent}"), 50);
            sent += 50;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let shared = tokio::time::timeout(Duration::from_secs(120), both).await;
    assert!(shared.is_ok(), "the other process gets a share");
    child.0.kill().unwrap();
    child.0.wait().unwrap();
    let killed = Instant::now();
    emit_many(&platform, "after", 200);
    let after = || {
        let ids: HashSet<String> = door.ids("forex").into_iter().collect();
        ids.iter().filter(|id| id.starts_with("after")).count()
    };
    // A session of 10 s, and 5 s for the rebalance.
    soon("taken over", Duration::from_secs(15), || after() == 200).await;
    println!("taken over after {:?}", killed.elapsed());
    // What the child had settled and not committed comes here again; what neither had settled must.
    until("everything is committed", || {
        all_committed(&kafka, "forex", "payment.initiated")
    })
    .await;
    assert_order_per_key_of_runs(&door);
    bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_subscriber_holds_a_bounded_number_of_events() {
    let Some(brokers) = kafka() else { return };
    let (mut platform, kafka, door) = (payments(), config(&brokers), FakeDoor::ok());
    platform.service("forex").event_batch = 10;
    // It is seen at the very limit for as long as a delivery takes, and then reads on only below nine
    // tenths.
    *door.takes.lock().unwrap() = Duration::from_secs(2);
    let bridge = start(&platform, &kafka, &door).await;
    let total = 30_000;
    emit_many(&platform, "e", total / 2);
    let held = || gauge(&bridge, "innover_kafka_held_events{subscriber=\"forex\"}");
    let most = f64::from(u32::try_from(innover_bridge::limits::KAFKA_WINDOW_EVENTS_MAX).unwrap());
    until("full", || held() >= most).await;
    // Nothing of these is read for a long time, but lag must tell of them.
    emit_many(&platform, "more", total / 2);
    until("all published", || platform.outbox("payment") == 0).await;
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        assert!(held() <= most, "{} are held", held());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let read = gauge(&bridge, "innover_kafka_read_total{subscriber=\"forex\"}");
    let settled = gauge(
        &bridge,
        "innover_events_delivered_total{subscriber=\"forex\"}",
    );
    // Two samples, a delivery apart at most.
    assert!(
        read - settled <= most + 20.0,
        "read {read}, settled {settled}"
    );
    until("lag is told", || {
        let lag = "innover_kafka_lag_events{subscriber=\"forex\",topic=\"payment.initiated\"}";
        gauge(&bridge, lag) > 20_000.0
    })
    .await;
    *door.takes.lock().unwrap() = Duration::ZERO;
    until("all delivered", || {
        gauge(
            &bridge,
            "innover_events_delivered_total{subscriber=\"forex\"}",
        ) >= 30_000.0
    })
    .await;
    assert_order_per_key_of_runs(&door);
    assert_eq!(distinct(&door), total);
    until("no lag", || {
        gauge(
            &bridge,
            "innover_subscriber_lag_events{subscriber=\"forex\"}",
        ) == 0.0
    })
    .await;
    bridge.shutdown().await;
}

/// Kafka's client remembers what was held back, of partitions that are somebody else's too.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_leaves_while_it_is_held_back_is_read_when_it_comes_back() {
    let Some(brokers) = kafka() else { return };
    let (mut one, mut two, kafka) = (payments(), payments(), config(&brokers));
    one.service("forex").event_batch = 10;
    two.service("forex").event_batch = 10;
    let (first, second) = (FakeDoor::ok(), FakeDoor::ok());
    for door in [&first, &second] {
        *door.takes.lock().unwrap() = Duration::from_secs(2);
    }
    let bridge_one = start(&one, &kafka, &first).await;
    let total = 24_000;
    emit_many(&one, "e", total);
    let of_one = |series: &str| gauge(&bridge_one, &format!("{series}{{subscriber=\"forex\"}}"));
    let most = f64::from(u32::try_from(innover_bridge::limits::KAFKA_WINDOW_EVENTS_MAX).unwrap());
    until("full", || of_one("innover_kafka_held_events") >= most).await;
    // Room that comes within half a second is waited for; then reading stops.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let bridge_two = start(&two, &kafka, &second).await;
    until("the other has a share", || !second.seen().is_empty()).await;
    *first.takes.lock().unwrap() = Duration::ZERO;
    until("it has delivered all that is its own", || {
        of_one("innover_kafka_held_events") == 0.0 && of_one("innover_subscriber_lag_events") == 0.0
    })
    .await;
    assert!(distinct(&first) < total);
    bridge_two.shutdown().await;
    until("and what has come back to it", || {
        let mut all: HashSet<String> = first.ids("forex").into_iter().collect();
        all.extend(second.ids("forex"));
        all.len() == total
    })
    .await;
    bridge_one.shutdown().await;
}

fn gauge(bridge: &Bridge, series: &str) -> f64 {
    let metrics = bridge.metrics();
    let line = metrics.lines().find_map(|l| l.strip_prefix(series));
    line.map_or(0.0, |value| value.trim().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_three_nodes_may_be_killed() {
    let Some((own, brokers)) = OwnKafka::start(3) else {
        return;
    };
    let (platform, mut kafka, door) = (payments(), config(&brokers), FakeDoor::ok());
    kafka.replication = 3;
    *door.takes.lock().unwrap() = Duration::from_millis(10);
    let bridge = start(&platform, &kafka, &door).await;
    emit_many(&platform, "first", 2_000);
    until("some delivered", || distinct(&door) > 300).await;
    own.kill(2);
    emit_many(&platform, "second", 2_000);
    until("all delivered by two", || distinct(&door) == 4_000).await;
    until("outbox empty", || platform.outbox("payment") == 0).await;
    assert_order_per_key_of_runs(&door);
    bridge.shutdown().await;
}

/// `INNOVER_TEST_KAFKA=… cargo test --release -p innover-bridge --test kafka -- --ignored --nocapture events_per_second`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn events_per_second() {
    let Some(brokers) = kafka() else { return };
    let total = 100_000;
    for (name, platform, subscribed) in [
        ("relayed", Platform::new(&[("payment", &[])]), false),
        ("relayed and delivered", payments(), true),
    ] {
        let (kafka, door) = (config(&brokers), FakeDoor::ok());
        emit_many(&platform, "warm", 100);
        let bridge = start(&platform, &kafka, &door).await;
        let published = || {
            gauge(
                &bridge,
                "innover_events_published_total{topic=\"payment.initiated\"}",
            )
        };
        until("warm", || published() >= 100.0).await;
        emit_many(&platform, "e", total);
        let started = Instant::now();
        until("published", || published() >= (total + 100) as f64).await;
        let took = started.elapsed();
        println!(
            "{name}: {:.0} events/s to Kafka",
            total as f64 / took.as_secs_f64()
        );
        if subscribed {
            until("delivered", || {
                gauge(
                    &bridge,
                    "innover_events_delivered_total{subscriber=\"forex\"}",
                ) >= total as f64
            })
            .await;
            let took = started.elapsed();
            println!(
                "{name}: {:.0} events/s to the door",
                total as f64 / took.as_secs_f64()
            );
        }
        bridge.shutdown().await;
    }
    let (platform, kafka, door) = (payments(), config(&brokers), FakeDoor::ok());
    let commits = Commits::new(&platform.services);
    let bridge = Bridge::start(
        bridge_config(&platform, &kafka),
        door.clone(),
        Arc::new(NoGate),
        commits.clone(),
    )
    .await
    .unwrap();
    let connection = platform.open("payment");
    let mut took = Vec::new();
    for n in 0..220_usize {
        emit(
            &connection,
            &format!("e-{n}"),
            "payment.initiated",
            "a",
            "{}",
        );
        let started = Instant::now();
        commits.committed("payment");
        while door.seen().len() <= n {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        took.push(started.elapsed());
    }
    // The first ones wait for topics and the group.
    let mut took = took.split_off(20);
    took.sort();
    println!(
        "outbox to door, one at a time: p50 {:?}, p99 {:?}",
        took[100], took[198]
    );
    bridge.shutdown().await;
}
