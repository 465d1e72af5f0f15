//! A service's member of its consumer group: one thread that reads, commits, and answers rebalances.
//!
//! librdkafka runs a rebalance inside `poll` and gives a partition away when the callback returns.
//! So the thread may wait there, for a bounded time, until deliveries under way have come back, while
//! the subscriber's task goes on. The thread alone touches the consumer; the task tells it how far
//! each partition is settled ([`Offsets`]) and how much it holds ([`Load`]).

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
        mpsc::{RecvTimeoutError, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

use innover_failpoint::{Step, hold_blocking};
use rdkafka::{
    ClientContext, Message as _, Offset, Statistics, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    message::{BorrowedMessage, Headers},
    metadata::MetadataTopic,
};
use tokio::sync::{mpsc, oneshot};

use super::{
    BROKERS, client,
    config::KafkaConfig,
    locked,
    message::Message,
    trouble::{Denials, Outside},
    window::Place,
};
use crate::{
    limits::{
        KAFKA_COMMIT_EVERY, KAFKA_ENDS_WAIT, KAFKA_LOOK_EVERY, KAFKA_OUTSIDE_MAX, KAFKA_POLL,
        KAFKA_REVOKE_WAIT, KAFKA_ROOM_WAIT, KAFKA_UNSUBSCRIBE_WAIT, KAFKA_WINDOW_BYTES_MAX,
        KAFKA_WINDOW_EVENTS_MAX, SAMPLE_EVERY, UNAVAILABLE_BACKOFF_MAX,
    },
    metrics::Metrics,
};

/// What the thread tells the task, in the order in which it happened.
pub(crate) enum Notice {
    /// The partition is ours; the number tells this time from other times.
    Assigned(Vec<(Place, u64)>),
    Read(Place, Box<Message>, usize),
    /// The partitions are wanted elsewhere. Answer when nothing of them is under way.
    Leaving(Vec<Place>, SyncSender<()>),
    /// They are not ours any more.
    Gone(Vec<Place>),
}

/// How much the task holds. The thread adds what it reads, the task takes off what is settled.
#[derive(Default)]
pub(crate) struct Load {
    events: AtomicUsize,
    bytes: AtomicUsize,
}

impl Load {
    fn add(&self, bytes: usize) {
        self.events.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn take_off(&self, bytes: usize) {
        self.events.fetch_sub(1, Relaxed);
        self.bytes.fetch_sub(bytes, Relaxed);
    }

    fn full(&self) -> bool {
        self.events.load(Relaxed) >= KAFKA_WINDOW_EVENTS_MAX
            || self.bytes.load(Relaxed) >= KAFKA_WINDOW_BYTES_MAX
    }

    /// Somewhat below the limit, so that reading does not stop and go with every event.
    fn has_room(&self) -> bool {
        self.events.load(Relaxed) < KAFKA_WINDOW_EVENTS_MAX / 10 * 9
            && self.bytes.load(Relaxed) < KAFKA_WINDOW_BYTES_MAX / 10 * 9
    }
}

/// Which offsets a commit is for. What was sent may still be refused, and the last word about a
/// partition has nobody who would send it again: that one leaves nothing out.
#[derive(Clone, Copy)]
enum Ripe<'a> {
    /// What changed since it was sent last. Nobody waits for the answer.
    Changed,
    /// Before these partitions are given away.
    Leaving(&'a [Place]),
    /// Before the member leaves.
    All,
}

/// A partition of ours and how far it is settled.
#[derive(Clone, Copy)]
struct Settled {
    epoch: u64,
    /// What may be committed.
    offset: Option<i64>,
    /// What was committed last.
    sent: Option<i64>,
}

/// The partitions that are ours, and their offsets to commit.
#[derive(Default)]
pub(crate) struct Offsets {
    ours: Mutex<HashMap<Place, Settled>>,
    /// How many partitions were ever assigned.
    epochs: AtomicU64,
}

impl Offsets {
    /// Notes that everything before `offset` is settled; of another time than `epoch` it means
    /// nothing any more.
    pub(crate) fn settled(&self, place: &Place, epoch: u64, offset: i64) {
        if let Some(ours) = locked(&self.ours).get_mut(place)
            && ours.epoch == epoch
        {
            ours.offset = Some(offset);
        }
    }

    /// What is to be committed, now taken as committed.
    fn ripe(&self, what: Ripe<'_>) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for (place, ours) in locked(&self.ours).iter_mut() {
            let wanted = match what {
                Ripe::Changed => ours.offset != ours.sent,
                Ripe::Leaving(leaving) => leaving.contains(place),
                Ripe::All => true,
            };
            if let Some(offset) = ours.offset
                && wanted
                && list
                    .add_partition_offset(&place.0, place.1, Offset::Offset(offset))
                    .is_ok()
            {
                ours.sent = ours.offset;
            }
        }
        list
    }

    /// A commit failed: it is to be made again.
    fn unsent(&self, list: &TopicPartitionList) {
        let mut ours = locked(&self.ours);
        for element in list.elements() {
            if let Some(ours) = ours.get_mut(&(element.topic().into(), element.partition())) {
                ours.sent = None;
            }
        }
    }
}

/// A running member.
pub(crate) struct Member {
    pub(crate) load: Arc<Load>,
    pub(crate) offsets: Arc<Offsets>,
    stop: Arc<AtomicBool>,
    ended: oneshot::Receiver<()>,
}

impl Member {
    /// Starts the thread. It ends by itself when nobody listens to its notices any more.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub(crate) fn start(
        config: KafkaConfig,
        service: Arc<str>,
        kinds: Vec<String>,
        metrics: Arc<Metrics>,
    ) -> std::io::Result<(Member, mpsc::UnboundedReceiver<Notice>)> {
        // Not bounded by itself: the limit of `Load` bounds it, and a rebalance must get through.
        let (notices, inbox) = mpsc::unbounded_channel();
        let (done, ended) = oneshot::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let (load, offsets) = (Arc::<Load>::default(), Arc::<Offsets>::default());
        let reader = Reader {
            config,
            service: service.clone(),
            kinds,
            metrics,
            notices,
            load: load.clone(),
            offsets: offsets.clone(),
            stop: stop.clone(),
        };
        std::thread::Builder::new()
            .name(format!("kafka-{service}"))
            .spawn(move || {
                reader.run();
                let _ = done.send(());
            })?;
        Ok((
            Member {
                load,
                offsets,
                stop,
                ended,
            },
            inbox,
        ))
    }

    /// Commits what is settled and leaves the group.
    pub(crate) async fn stop(self, at_most: Duration) {
        self.stop.store(true, Relaxed);
        if tokio::time::timeout(at_most, self.ended).await.is_err() {
            tracing::warn!(
                "a consumer of Kafka did not end in time; its last offsets may be missing and its last events come again"
            );
        }
    }
}

/// The thread's things.
struct Reader {
    config: KafkaConfig,
    service: Arc<str>,
    kinds: Vec<String>,
    metrics: Arc<Metrics>,
    notices: mpsc::UnboundedSender<Notice>,
    load: Arc<Load>,
    offsets: Arc<Offsets>,
    stop: Arc<AtomicBool>,
}

impl Reader {
    fn ends(&self) -> bool {
        self.stop.load(Relaxed) || self.notices.is_closed()
    }

    fn run(self) {
        while !self.ends() {
            let Err(problem) = self.read() else { return };
            // Fenced, a broker that does not know us, or stuck: a new member starts from what is
            // committed.
            tracing::warn!(
                subscriber = &*self.service,
                problem,
                "the consumer of Kafka failed; a new one starts"
            );
            let lost: Vec<Place> = locked(&self.offsets.ours).drain().map(|(p, _)| p).collect();
            let _ = self.notices.send(Notice::Gone(lost));
            std::thread::sleep(UNAVAILABLE_BACKOFF_MAX / 5);
        }
    }

    /// Reads until the end, or until the consumer is of no use.
    fn read(&self) -> Result<(), String> {
        let context = Context {
            service: self.service.clone(),
            config: self.config.clone(),
            kinds: self.kinds.clone(),
            notices: self.notices.clone(),
            offsets: self.offsets.clone(),
            metrics: self.metrics.clone(),
            closing: AtomicBool::new(false),
            given_up: AtomicBool::new(false),
            assigned: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            ends: Mutex::default(),
            outside: Mutex::default(),
            denials: Mutex::default(),
            reason: Mutex::default(),
        };
        let client = self.config.consumer(&self.service);
        let told = |error: KafkaError| error.to_string();
        let consumer: BaseConsumer<Context> = client.create_with_context(context).map_err(told)?;
        let topics: Vec<String> = self.kinds.iter().map(|k| self.config.topic(k)).collect();
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        consumer.subscribe(&names).map_err(told)?;
        let mut interned: HashMap<String, Arc<str>> = HashMap::new();
        let mut paused = false;
        let mut commit_at = Instant::now() + KAFKA_COMMIT_EVERY;
        let mut look_at = Instant::now();
        let mut denials_at = Instant::now() + KAFKA_LOOK_EVERY;
        let outcome = loop {
            if self.ends() {
                break Ok(());
            }
            if let Some(state) = locked(&consumer.context().outside).too_long(Instant::now()) {
                break Err(format!(
                    "it did not come back into its group for {KAFKA_OUTSIDE_MAX:?}: {state}"
                ));
            }
            if Instant::now() >= commit_at {
                self.commit(&consumer, Ripe::Changed);
                commit_at = Instant::now() + KAFKA_COMMIT_EVERY;
            }
            paused = self.hold_back(&consumer, paused);
            if paused && Instant::now() >= look_at {
                self.look_for_ends(&consumer);
                look_at = Instant::now() + SAMPLE_EVERY;
            }
            if Instant::now() >= denials_at {
                self.look_for_denials(&consumer);
                denials_at = Instant::now() + KAFKA_LOOK_EVERY;
            }
            match consumer.poll(KAFKA_POLL) {
                None => {}
                Some(Ok(message)) => {
                    let topic = match interned.get(message.topic()) {
                        Some(topic) => topic.clone(),
                        None => {
                            let topic: Arc<str> = message.topic().into();
                            interned.insert(topic.to_string(), topic.clone());
                            topic
                        }
                    };
                    let message = detach(&message);
                    let bytes = message.bytes();
                    self.load.add(bytes);
                    locked(&consumer.context().denials).read_of(&topic);
                    let place = (topic, message.partition);
                    let _ = self
                        .notices
                        .send(Notice::Read(place, Box::new(message), bytes));
                }
                Some(Err(error @ KafkaError::MessageConsumptionFatal(_))) => {
                    break Err(error.to_string());
                }
                // The committed offsets were asked of a broker that has just become, or ceased to be,
                // the coordinator. They are not asked for again, so what was assigned would never be
                // read (https://github.com/confluentinc/librdkafka/issues/5586).
                Some(Err(KafkaError::MessageConsumption(
                    error @ (RDKafkaErrorCode::NotCoordinator
                    | RDKafkaErrorCode::CoordinatorNotAvailable
                    | RDKafkaErrorCode::CoordinatorLoadInProgress),
                ))) => break Err(error.to_string()),
                Some(Err(KafkaError::MessageConsumption(
                    RDKafkaErrorCode::TopicAuthorizationFailed
                    | RDKafkaErrorCode::GroupAuthorizationFailed
                    | RDKafkaErrorCode::UnknownTopicOrPartition,
                ))) => consumer.context().denied(&topics),
                // A broker that is away, a leader that changes: it goes on by itself.
                Some(Err(error)) => {
                    tracing::debug!(subscriber = &*self.service, %error, "reading from Kafka");
                }
            }
        };
        consumer.context().closing.store(true, Relaxed);
        if self.stop.load(Relaxed) {
            self.commit(&consumer, Ripe::All);
        }
        if outcome.is_ok() {
            leave(&consumer);
        } else {
            // One that is stuck may not even close.
            consumer.context().given_up.store(true, Relaxed);
            let closing = std::thread::Builder::new().name("kafka-close".into());
            let _ = closing.spawn(move || drop(consumer));
        }
        outcome
    }

    fn commit(&self, consumer: &BaseConsumer<Context>, what: Ripe<'_>) {
        commit(&self.service, &self.offsets, consumer, what);
    }

    /// Stops reading while the task holds as much as it may, and goes on when it has room again.
    fn hold_back(&self, consumer: &BaseConsumer<Context>, paused: bool) -> bool {
        let change = |pause: bool| {
            let all = consumer.assignment();
            let done = all.and_then(|all| match pause {
                true => consumer.pause(&all),
                false => consumer.resume(&all),
            });
            if let Err(error) = done {
                tracing::warn!(subscriber = &*self.service, %error, pause, "reading from Kafka cannot be held back or resumed");
            }
        };
        // Partitions that came while others were held back are held back as well.
        let came = consumer.context().assigned.swap(false, Relaxed);
        let paused = match paused {
            false if self.load.full() && !self.waits_for_room() => {
                change(true);
                true
            }
            true if self.load.has_room() => {
                locked(&consumer.context().ends).clear();
                if came {
                    // To go on with what was not held back is no idle word: in the middle of a rebalance
                    // the client throws away what it has read by then, and reads on behind it.
                    change(true);
                }
                change(false);
                false
            }
            true if came => {
                change(true);
                true
            }
            paused => paused,
        };
        consumer.context().paused.store(paused, Relaxed);
        paused
    }

    /// Asks where the partitions that are held back end, so that the lag grows while nothing is read.
    fn look_for_ends(&self, consumer: &BaseConsumer<Context>) {
        let looked = consumer.assignment().and_then(|mut all| {
            all.set_all_offsets(Offset::End)?;
            consumer.offsets_for_times(all, KAFKA_ENDS_WAIT)
        });
        let ends = match looked {
            Ok(ends) => ends,
            Err(error) => {
                tracing::debug!(subscriber = &*self.service, %error, "the ends of partitions are not known now");
                return;
            }
        };
        let mut known = locked(&consumer.context().ends);
        for end in ends.elements() {
            if let (Ok(()), Offset::Offset(offset)) = (end.error(), end.offset()) {
                known.insert((end.topic().into(), end.partition()), offset);
            }
        }
    }

    /// Says what of its topics the member cannot read. librdkafka says it once and takes it back in no
    /// way, so a topic that is not assigned is asked for again.
    fn look_for_denials(&self, consumer: &BaseConsumer<Context>) {
        let context = consumer.context();
        let topics = locked(&context.denials).topics();
        for topic in topics {
            let found = consumer.fetch_metadata(Some(&topic), KAFKA_ENDS_WAIT);
            let there = |t: &MetadataTopic| t.name() == topic && t.error().is_none();
            if found.is_ok_and(|m| m.topics().iter().any(there)) {
                locked(&context.denials).is_there(&topic);
            }
        }
        let problem = locked(&context.denials).standing(&self.service, Instant::now());
        self.metrics
            .reachable(&format!("{} (Kafka)", self.service), problem.as_deref());
    }

    /// Waits a moment before partitions are paused: a pause throws away what was fetched ahead, and a
    /// subscriber that is merely slower than the network has room again soon. Not for long, since
    /// rebalances wait meanwhile.
    fn waits_for_room(&self) -> bool {
        let until = Instant::now() + KAFKA_ROOM_WAIT;
        while Instant::now() < until && !self.ends() {
            if self.load.has_room() {
                return true;
            }
            std::thread::sleep(KAFKA_POLL / 10);
        }
        false
    }
}

/// Leaves the group, so that others need not wait for the session to end. A member with a name of its
/// own that merely closes is expected back (KIP-345): it leaves by giving up its topics first.
fn leave(consumer: &BaseConsumer<Context>) {
    consumer.unsubscribe();
    let owns = || consumer.assignment().is_ok_and(|all| all.count() > 0);
    let until = Instant::now() + KAFKA_UNSUBSCRIBE_WAIT;
    while owns() && Instant::now() < until {
        // The partitions are given up in here. What it may return is nobody's any more.
        let _ = consumer.poll(KAFKA_POLL);
    }
    // The fetches of these partitions end, and the word is sent: nothing tells when.
    let until = Instant::now() + KAFKA_POLL * 2;
    while Instant::now() < until {
        let _ = consumer.poll(KAFKA_POLL);
    }
}

/// Commits what is settled. A failure is made up for by the next commit; without one the events come
/// again.
fn commit(service: &str, offsets: &Offsets, consumer: &BaseConsumer<Context>, what: Ripe<'_>) {
    let mode = match what {
        Ripe::Changed => CommitMode::Async,
        Ripe::Leaving(_) | Ripe::All => CommitMode::Sync,
    };
    let list = offsets.ripe(what);
    if list.count() == 0 {
        return;
    }
    hold_blocking(Step::OffsetsUncommitted, service);
    if let Err(error) = consumer.commit(&list, mode) {
        tracing::warn!(subscriber = service, %error, "offsets cannot be committed now");
        offsets.unsent(&list);
    }
}

/// A message on its own. One with a header whose name is no UTF-8 is one without headers, so unsigned:
/// the library panics where it meets such a name, and nobody's message may end a subscriber.
pub(crate) fn detach(message: &BorrowedMessage<'_>) -> Message {
    let headers = catch_unwind(AssertUnwindSafe(|| {
        let headers = message.headers()?.iter();
        let owned = headers.map(|h| (h.key.to_owned(), h.value.unwrap_or_default().to_vec()));
        Some(owned.collect())
    }));
    let headers = headers.unwrap_or_else(|_| {
        let (topic, offset) = (message.topic(), message.offset());
        tracing::warn!(
            topic,
            offset,
            "a message's headers have a name that is no UTF-8"
        );
        None
    });
    Message {
        topic: message.topic().to_owned(),
        partition: message.partition(),
        offset: message.offset(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers: headers.unwrap_or_default(),
        timestamp_ms: message.timestamp().to_millis(),
    }
}

/// What librdkafka calls back, on the reader's thread.
struct Context {
    service: Arc<str>,
    config: KafkaConfig,
    kinds: Vec<String>,
    notices: mpsc::UnboundedSender<Notice>,
    offsets: Arc<Offsets>,
    metrics: Arc<Metrics>,
    closing: AtomicBool,
    /// Set when another consumer takes over: what this one still says is of no interest.
    given_up: AtomicBool,
    /// Set when partitions came.
    assigned: AtomicBool,
    /// Whether reading is held back.
    paused: AtomicBool,
    /// Where partitions end that are held back: of these no answer to a fetch tells.
    ends: Mutex<HashMap<Place, i64>>,
    outside: Mutex<Outside>,
    denials: Mutex<Denials>,
    /// Of the last error, which comes without its topic.
    reason: Mutex<String>,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        client::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        client::failed(&error, reason);
        reason.clone_into(&mut locked(&self.reason));
    }

    /// Lag: what is on our partitions and not settled. And whether this is a member still.
    fn stats(&self, statistics: Statistics) {
        if self.given_up.load(Relaxed) {
            return;
        }
        let reachable = self.metrics.is_reachable(BROKERS);
        let outside = {
            let mut outside = locked(&self.outside);
            outside.look(&statistics, reachable, Instant::now());
            outside.problem(Instant::now())
        };
        // A member that has replaced this one has just begun to join: only being in the group ends it.
        if outside.is_some() || Outside::is_inside(&statistics) {
            let who = format!("{} (Kafka, group)", self.service);
            self.metrics.reachable(&who, outside.as_deref());
        }
        let ours = locked(&self.offsets.ours).clone();
        let ends = locked(&self.ends).clone();
        let mut lags: HashMap<&str, i64> = HashMap::new();
        for kind in &self.kinds {
            lags.insert(kind, 0);
        }
        for topic in statistics.topics.values() {
            for partition in topic.partitions.values() {
                let place = (topic.topic.as_str().into(), partition.partition);
                let Some(settled) = ours.get(&place) else {
                    continue;
                };
                let end = partition.ls_offset.max(partition.hi_offset);
                let end = end.max(ends.get(&place).copied().unwrap_or_default());
                let from = settled
                    .offset
                    .unwrap_or(partition.committed_offset.max(partition.lo_offset));
                if end > from && from >= 0 {
                    *lags.entry(self.config.kind(&topic.topic)).or_default() += end - from;
                }
            }
        }
        self.metrics.kafka_lag(&self.service, &lags);
    }
}

impl ConsumerContext for Context {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if self.given_up.load(Relaxed) {
            return;
        }
        match rebalance {
            Rebalance::Assign(_) => {}
            Rebalance::Revoke(list) => {
                self.revoke(consumer, &places(list));
                // The client remembers what was held back, and would not read it when it comes back.
                // It has to be told before they leave: when they have come it has begun to read, and
                // a word from this thread may overtake that, after which it throws away what it reads.
                if self.paused.load(Relaxed)
                    && let Err(error) = consumer.resume(list)
                {
                    tracing::warn!(subscriber = &*self.service, %error, "partitions leave held back");
                }
            }
            Rebalance::Error(error) => {
                tracing::warn!(subscriber = &*self.service, %error, "a rebalance failed");
            }
        }
    }

    fn post_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let Rebalance::Assign(list) = rebalance else {
            return;
        };
        if self.given_up.load(Relaxed) {
            return;
        }
        let places = places(list);
        tracing::debug!(subscriber = &*self.service, ?places, "partitions assigned");
        let topics = places.iter().map(|place| place.0.to_string()).collect();
        locked(&self.denials).assigned(&topics);
        let mut assigned = Vec::with_capacity(places.len());
        let mut ours = locked(&self.offsets.ours);
        for place in places {
            let epoch = self.offsets.epochs.fetch_add(1, Relaxed);
            let settled = Settled {
                epoch,
                offset: None,
                sent: None,
            };
            ours.insert(place.clone(), settled);
            assigned.push((place, epoch));
        }
        self.assigned.store(true, Relaxed);
        let _ = self.notices.send(Notice::Assigned(assigned));
    }

    fn commit_callback(&self, result: KafkaResult<()>, offsets: &TopicPartitionList) {
        if let Err(error) = result
            && !self.given_up.load(Relaxed)
        {
            tracing::debug!(subscriber = &*self.service, %error, "a commit failed; it is made again");
            self.offsets.unsent(offsets);
        }
    }
}

impl Context {
    /// The last error says that something cannot be read.
    fn denied(&self, subscribed: &[String]) {
        let reason = locked(&self.reason).clone();
        tracing::debug!(subscriber = &*self.service, reason, "reading from Kafka");
        let ours = locked(&self.offsets.ours);
        let assigned = ours.keys().map(|place| place.0.to_string()).collect();
        drop(ours);
        locked(&self.denials).add(&reason, subscribed, assigned);
    }

    /// Gives partitions away: deliveries under way are waited for, what is settled is committed, and
    /// the rest is the next owner's.
    fn revoke(&self, consumer: &BaseConsumer<Self>, leaving: &[Place]) {
        // Lost ones have a new owner already: what comes back now is not ours to settle.
        let lost = consumer.assignment_lost();
        tracing::debug!(
            subscriber = &*self.service,
            ?leaving,
            lost,
            "partitions revoked"
        );
        if !self.closing.load(Relaxed) && !lost {
            let (answer, answered) = sync_channel(1);
            let notice = Notice::Leaving(leaving.to_vec(), answer);
            if self.notices.send(notice).is_ok() {
                match answered.recv_timeout(KAFKA_REVOKE_WAIT) {
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => {}
                    Err(RecvTimeoutError::Timeout) => tracing::warn!(
                        subscriber = &*self.service,
                        "deliveries under way did not end in time; another member makes them again"
                    ),
                }
                let what = Ripe::Leaving(leaving);
                commit(&self.service, &self.offsets, consumer, what);
            }
        }
        let mut ours = locked(&self.offsets.ours);
        let mut ends = locked(&self.ends);
        for place in leaving {
            ours.remove(place);
            ends.remove(place);
        }
        drop(ends);
        for (topic, _) in leaving {
            if !ours.keys().any(|place| place.0 == *topic) {
                locked(&self.denials).read_of(topic);
            }
        }
        let _ = self.notices.send(Notice::Gone(leaving.to_vec()));
    }
}

fn places(list: &TopicPartitionList) -> Vec<Place> {
    list.elements()
        .iter()
        .map(|e| (e.topic().into(), e.partition()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The broker may refuse what was sent in the middle of a rebalance, and says so too late.
    #[test]
    fn the_last_commit_of_a_partition_repeats_what_has_no_answer_yet() {
        let offsets = Offsets::default();
        let place = |partition| -> Place { ("t".into(), partition) };
        for partition in 0..2 {
            let settled = Settled {
                epoch: 0,
                offset: None,
                sent: None,
            };
            locked(&offsets.ours).insert(place(partition), settled);
            offsets.settled(&place(partition), 0, 7);
        }
        let count = |what| offsets.ripe(what).count();
        assert_eq!(count(Ripe::Changed), 2);
        assert_eq!(count(Ripe::Changed), 0, "on its way");
        let leaving = [place(1)];
        assert_eq!(count(Ripe::Leaving(&leaving)), 1);
        assert_eq!(count(Ripe::All), 2);
    }
}
