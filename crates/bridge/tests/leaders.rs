//! What the bridge keeps librdkafka from (`src/kafka/leaders.rs`), on librdkafka's own test cluster: a
//! broker that refuses a fetch and names leaders, one of which is none.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    collections::HashMap,
    ffi::CString,
    process::Command,
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, ClientContext, Message as _, Offset, Statistics, TopicPartitionList,
    bindings::{
        rd_kafka_handle_mock_cluster, rd_kafka_mock_partition_push_leader_response,
        rd_kafka_resp_err_t,
    },
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    producer::{BaseProducer, BaseRecord, Producer},
};

use innover_bridge as _;

const TOPIC: &str = "moved";
const WITHIN: Duration = Duration::from_secs(30);
/// glibc fills memory that it gives out with the complement of its value: whatever is not written
/// is a negative number.
const FILLED: (&str, &str) = ("MALLOC_PERTURB_", "1");

fn held<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap()
}

#[derive(Default)]
struct Told {
    lines: Mutex<Vec<String>>,
    leaders: Mutex<HashMap<i32, i32>>,
}

impl ClientContext for Told {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        held(&self.lines).push(format!("{facility}: {message}"));
    }

    fn stats(&self, statistics: Statistics) {
        let topic = statistics.topics.get(TOPIC);
        let partitions = topic.into_iter().flat_map(|t| t.partitions.values());
        // -1 is what has no partition yet.
        let known = partitions.filter(|p| p.partition >= 0);
        *held(&self.leaders) = known.map(|p| (p.partition, p.leader)).collect();
    }
}

impl ConsumerContext for Told {}

/// Both partitions move from broker 1 to 2, and of the second one broker 1 says that nobody leads it.
#[test]
fn a_partition_that_has_no_leader_is_none_with_another_number() {
    if std::env::var_os(FILLED.0).is_none() {
        let name = std::thread::current().name().unwrap().to_owned();
        let again = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &name, "--nocapture"])
            .env(FILLED.0, FILLED.1)
            .output()
            .unwrap();
        assert!(again.status.success(), "{again:?}");
        return;
    }
    let producer: BaseProducer = ClientConfig::new()
        .set("test.mock.num.brokers", "2")
        .create()
        .unwrap();
    let mock = producer.client().mock_cluster().unwrap();
    mock.create_topic(TOPIC, 2, 1).unwrap();
    let lead = |broker| {
        for partition in 0..2 {
            mock.partition_leader(TOPIC, partition, Some(broker))
                .unwrap();
        }
    };
    lead(1);
    let consumer: BaseConsumer<Told> = ClientConfig::new()
        .set("bootstrap.servers", mock.bootstrap_servers())
        .set("group.id", "readers")
        .set("statistics.interval.ms", "50")
        .set_log_level(RDKafkaLogLevel::Warning)
        .create_with_context(Told::default())
        .unwrap();
    let mut both = TopicPartitionList::new();
    for partition in 0..2 {
        both.add_partition_offset(TOPIC, partition, Offset::Beginning)
            .unwrap();
    }
    consumer.assign(&both).unwrap();

    let read_both = |word: &str| {
        for partition in 0..2 {
            let record = BaseRecord::<(), str>::to(TOPIC)
                .partition(partition)
                .payload(word);
            producer.send(record).unwrap();
        }
        producer.flush(WITHIN).unwrap();
        let (until, mut missing) = (Instant::now() + WITHIN, vec![0, 1]);
        while !missing.is_empty() {
            assert!(Instant::now() < until, "{word} of {missing:?}");
            if let Some(Ok(read)) = consumer.poll(Duration::from_millis(50)) {
                assert_eq!(read.payload(), Some(word.as_bytes()));
                missing.retain(|partition| *partition != read.partition());
            }
        }
    };
    read_both("before");
    let topic = CString::new(TOPIC).unwrap();
    // SAFETY: the client lives, and with it the cluster; the name ends with a zero.
    let pushed = unsafe {
        let cluster = rd_kafka_handle_mock_cluster(producer.client().native_ptr());
        rd_kafka_mock_partition_push_leader_response(cluster, topic.as_ptr(), 1, -1, -1)
    };
    assert_eq!(pushed, rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR);
    lead(2);
    let until = Instant::now() + WITHIN;
    while *held(&consumer.context().leaders) != HashMap::from([(0, 2), (1, 2)]) {
        let leaders = held(&consumer.context().leaders).clone();
        assert!(Instant::now() < until, "they have not moved: {leaders:?}");
        assert!(consumer.poll(Duration::from_millis(50)).is_none());
    }
    read_both("after");
    let lines = held(&consumer.context().lines);
    let unwritten = lines.iter().any(|line| line.starts_with("METADATAUPDATE"));
    assert!(!unwritten, "{lines:?}");
}
