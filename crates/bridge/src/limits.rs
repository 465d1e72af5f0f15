//! Bounds of the bridge, each with its reason.

use std::time::Duration;

use innover_contract::limits::BODY_BYTES_MAX;

/// Rows one pass of a relay takes from an outbox: enough that hundreds of events share a commit,
/// small enough that the first of them does not wait for the last.
pub const RELAY_ROWS_MAX: usize = 500;
/// Published rows an outbox may hold before they are deleted, whatever the traffic.
pub const RELAY_DELETE_ROWS: usize = 2_000;
/// Published rows are deleted this long after the first of them: a delete takes the database's
/// write lock and an fsync of the store, and one per hop would slow the service's own commits.
pub const RELAY_DELETE_AFTER: Duration = Duration::from_millis(100);
/// A relay that finds this many rows per pass is under load.
pub const RELAY_LOAD_ROWS: usize = 3;
/// A relay that found nothing for this long starts over.
pub const RELAY_LOAD_FORGET: Duration = Duration::from_millis(100);
/// Under load a relay gathers rows for this long before it reads.
pub const RELAY_GATHER: Duration = Duration::from_millis(25);
/// Events that Kafka has not taken for this long hold up no jobs: those are read on their own then, and
/// as often again. That scans the whole outbox: 70 ms for 100,000 rows in PostgreSQL.
pub const RELAY_JOBS_EVERY: Duration = Duration::from_secs(1);
/// An outbox is looked at this often after it had rows that nobody announced.
pub const POLL_MIN: Duration = Duration::from_millis(50);
/// An idle outbox is looked at this often.
pub const POLL_MAX: Duration = Duration::from_secs(1);
/// How long a relay keeps to [`POLL_MIN`] after the last row: a payment's next hop comes soon.
pub const POLL_EAGER: Duration = Duration::from_secs(5);
/// Between two announcements of commits on one database to bridges in other processes.
pub const ANNOUNCE_PAUSE: Duration = Duration::from_millis(5);
/// A failed pass (database locked, disk full) is tried again after this, doubled up to [`POLL_MAX`].
pub const RELAY_BACKOFF: Duration = Duration::from_millis(100);
/// How long SQLite waits for another process's write lock.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The body of one delivery. A component takes `BODY_BYTES_MAX`; the rest is brackets and commas.
pub const DELIVERY_BYTES_MAX: usize = BODY_BYTES_MAX - 4_096;
/// One event or job: it must fit into a delivery. A larger one is parked.
pub const ENVELOPE_BYTES_MAX: usize = DELIVERY_BYTES_MAX;
/// The answer to a delivery.
pub const ANSWER_BYTES_MAX: usize = BODY_BYTES_MAX;
/// One delivery of events ends within this time: up to 100 events share it and a commit.
pub const EVENT_DEADLINE: Duration = Duration::from_secs(10);
/// Deliveries of one event before it is a dead letter.
pub const EVENT_TRIES_MAX: u32 = 25;
/// Wait before the second try of an event; doubled per try.
pub const EVENT_BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Longest wait between two tries of an event.
pub const EVENT_BACKOFF_MAX: Duration = Duration::from_secs(300);
/// A batch that fails as a whole is sent this often before its events are sent one by one.
pub const UNIT_TRIES_MAX: u32 = 3;
/// Events of one subscriber that may wait in the retry table. Beyond it the cursor stands still,
/// so a subscriber that refuses everything costs no memory; its lag shows it.
pub const RETRY_ROWS_MAX: usize = 10_000;
/// Rows a subscriber reads past in one step when it lags and few are of its topics.
pub const SCAN_ROWS_MAX: i64 = 5_000;
/// A cursor that only passed other subscribers' events is written this often.
pub const IDLE_CURSOR_EVERY: Duration = Duration::from_secs(5);
/// Events kept in memory for subscribers that are up to date; those behind read the file.
pub const TAIL_EVENTS_MAX: usize = 8_192;
/// Bytes of events kept in memory.
pub const TAIL_BYTES_MAX: usize = 16 << 20;

/// A delivered job is this bridge's for so long; renewed while it runs.
pub const LEASE: Duration = Duration::from_secs(30);
/// A running job's lease is renewed this often: two renewals may fail.
pub const LEASE_RENEW: Duration = Duration::from_secs(10);
/// Wait before the second try of a job; doubled per try.
pub const JOB_BACKOFF_MIN: Duration = Duration::from_secs(1);
/// Longest wait between two tries of a job.
pub const JOB_BACKOFF_MAX: Duration = Duration::from_secs(600);
/// Spread of a job's backoff, both ways.
pub const JOB_JITTER: f64 = 0.2;
/// Spread of an event's backoff, both ways.
pub const EVENT_JITTER: f64 = 0.2;
/// A result that is larger is not stored, its size is.
pub const RESULT_BYTES_MAX: usize = 256 << 10;
/// An error text is cut to this length before it is stored.
pub const ERROR_BYTES_MAX: usize = 4_096;
/// Finished jobs and their results are kept this long.
pub const FINISHED_KEEP: Duration = Duration::from_secs(24 * 60 * 60);
/// Finished jobs kept at most: 1,000 payments a second would leave 86 million rows in a day.
pub const FINISHED_ROWS_MAX: i64 = 200_000;
/// Wait of a queue or subscriber whose service cannot be reached; doubled up to the next.
pub const UNAVAILABLE_BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Longest wait for a service that cannot be reached: it should be served soon after it is back.
pub const UNAVAILABLE_BACKOFF_MAX: Duration = Duration::from_secs(5);

/// A fire time that passed less than this ago is fired late rather than missed.
pub const SCHEDULE_GRACE: Duration = Duration::from_secs(5);
/// A fire time that could not be written is tried again after this: several times within the grace.
pub const SCHEDULE_RETRY: Duration = Duration::from_secs(1);
/// Missed times a `catch_up` schedule makes up for: a schedule of every second that slept for a
/// month must not enqueue 2.6 million jobs. The oldest beyond it are left out and counted.
pub const CATCH_UP_MAX: usize = 1_000;
/// A schedule's timer wakes at least this often, so a corrected clock is noticed.
pub const SCHEDULE_WAKE_MAX: Duration = Duration::from_secs(30);

/// Commands that may wait for the writer: more is back-pressure on their senders.
pub const STORE_QUEUE: usize = 1_024;
/// Commands that share one commit.
pub const STORE_GROUP: usize = 256;
/// Read connections kept open.
pub const READERS_MAX: usize = 4;
/// Time between two rounds of retention.
pub const HOUSEKEEPING_EVERY: Duration = Duration::from_secs(60);
/// Rows one retention statement deletes, so that it never holds the writer for long.
pub const HOUSEKEEPING_ROWS: usize = 2_000;
/// Time between two samples of the gauges that need SQL.
pub const SAMPLE_EVERY: Duration = Duration::from_secs(2);
/// Time between two looks for expired leases; a lease is 30 s.
pub const LEASES_EVERY: Duration = Duration::from_secs(1);
/// Time between two looks for jobs another process has put into the file.
pub const OUTSIDE_EVERY: Duration = Duration::from_millis(200);
/// How long a start waits for the bridge before it to give up the file: a restart overlaps the
/// shutdown of the old process.
pub const CLAIM_WAIT: Duration = Duration::from_secs(5);
/// An idle queue is looked at this often though nothing rang: a corrected clock may have made a
/// delayed job due.
pub const QUEUE_LOOK_EVERY: Duration = Duration::from_secs(5);
/// Time between two checkpoints of the store: at 10 MB of WAL a second each copies what a disk writes
/// in a moment.
pub const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);

/// Time to connect to Redis.
pub const REDIS_CONNECT: Duration = Duration::from_secs(3);
/// Redis answers a command within this time, or the connection is made anew: a script that moves a
/// hundred large messages takes a few milliseconds.
pub const REDIS_ANSWER: Duration = Duration::from_secs(10);
/// Wait before Redis is tried again; doubled up to the next.
pub const REDIS_BACKOFF_MIN: Duration = Duration::from_millis(50);
/// Longest wait before Redis is tried again: jobs should go on soon after it is back.
pub const REDIS_BACKOFF_MAX: Duration = Duration::from_secs(1);
/// Results in Redis are kept this long (Celery's `result_expires`).
pub const RESULT_EXPIRES: Duration = Duration::from_secs(24 * 60 * 60);
/// Dead letters kept per Redis queue; the oldest beyond it are deleted and counted.
pub const REDIS_DEAD_MAX: usize = 100_000;
/// A chord's last part has this long to send the body before another one's redelivery may.
pub const CHORD_CLAIM: Duration = Duration::from_secs(60);
/// Revoked ids are remembered this long (Celery: three hours, in memory).
pub const REVOKED_KEEP: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Time between two heartbeats of a worker (celery/worker/heartbeat.py).
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(2);
/// Task events wait this long for others to share a message with.
pub const TASK_EVENTS_EVERY: Duration = Duration::from_millis(200);
/// A reply to remote control that nobody fetched is deleted after this time.
pub const REPLY_EXPIRES: Duration = Duration::from_secs(30);
/// A client's `time_limit` beyond this is cut to it.
pub const TIME_LIMIT_MAX: Duration = Duration::from_secs(60 * 60);

/// A relay's claim on an outbox that several bridges see: how long its rows wait when it dies.
pub const RELAY_LEASE: Duration = Duration::from_secs(10);
/// A bridge that cannot publish lets its claim go for this long before it takes it again, so that one
/// that can, which looks every [`POLL_MAX`], gets the outbox.
pub const RELAY_YIELD: Duration = Duration::from_secs(2);
/// Longest statement on a service's outbox in PostgreSQL; shorter than the lease.
pub const OUTBOX_STATEMENT: Duration = Duration::from_secs(5);

/// Connections to the database of jobs that bridges share, and one more for commits that wait for the
/// disk: a turn of a queue takes a millisecond or two, and there are a dozen queues.
pub const JOBS_CONNECTIONS: usize = 4;
/// Longest statement there; a lease is renewed well after one has failed.
pub const JOBS_STATEMENT: Duration = Duration::from_secs(5);
/// Wait before that server is tried again; doubled up to the next.
pub const JOBS_BACKOFF_MIN: Duration = Duration::from_millis(50);
/// Longest wait before it is tried again: jobs should go on soon after it is back.
pub const JOBS_BACKOFF_MAX: Duration = Duration::from_secs(1);
/// Time between two looks for jobs that another bridge, or the command line, has put there.
pub const JOBS_LOOK_EVERY: Duration = Duration::from_millis(500);
/// Rows of a bridge's file that one commit moves there.
pub const JOBS_MOVED_ROWS: usize = 500;

/// One message of Kafka: an envelope, its headers and what the protocol adds.
pub const KAFKA_MESSAGE_BYTES_MAX: usize = ENVELOPE_BYTES_MAX + (64 << 10);
/// A batch that is written to Kafka, below what a broker takes unless told otherwise (1 MiB): a batch
/// that is refused for its size takes events with it that are small.
pub const KAFKA_BATCH_BYTES: usize = 900_000;
/// A producer waits this long for more to share a batch with: a relay's pass is there at once, and a
/// payment has five hops.
pub const KAFKA_LINGER: Duration = Duration::from_millis(1);
/// Events a member reads ahead of its task, at least.
pub const KAFKA_PREFETCH_EVENTS: usize = 1_000;
/// KiB of events a member reads ahead of its task, at most.
pub const KAFKA_PREFETCH_KBYTES: usize = 16 << 10;
/// Events of one subscriber that are read and not settled. As many as may wait for their next try,
/// and the same reason: beyond it nothing more is read until some are settled.
pub const KAFKA_WINDOW_EVENTS_MAX: usize = RETRY_ROWS_MAX;
/// Bytes of them.
pub const KAFKA_WINDOW_BYTES_MAX: usize = 32 << 20;
/// A full subscriber is waited for so long before its partitions are paused.
pub const KAFKA_ROOM_WAIT: Duration = Duration::from_millis(500);
/// The ends of partitions that are held back are waited for so long, every [`SAMPLE_EVERY`].
pub const KAFKA_ENDS_WAIT: Duration = Duration::from_secs(1);
/// A member that is silent for this long is dead, and others take its partitions.
pub const KAFKA_SESSION_TIMEOUT: Duration = Duration::from_secs(10);
/// A member that is not in its group for this long, though Kafka can be reached, is replaced. A
/// rebalance takes less: others give their partitions away within [`KAFKA_REVOKE_WAIT`], and one that
/// is silent is dead before.
pub const KAFKA_OUTSIDE_MAX: Duration = Duration::from_secs(30);
/// A member that is not in its group for this long makes the bridge not ready: longer than a rebalance
/// that waits for a delivery under way.
pub const KAFKA_OUTSIDE_SAID: Duration = Duration::from_secs(15);
/// Time between two signs of life; a member learns of a rebalance from the answer.
pub const KAFKA_HEARTBEAT: Duration = Duration::from_secs(1);
/// Time between two commits of offsets: what is settled and not committed comes again after a crash.
pub const KAFKA_COMMIT_EVERY: Duration = Duration::from_millis(200);
/// One look for messages; commits and the end wait for it.
pub const KAFKA_POLL: Duration = Duration::from_millis(50);
/// A partition that is to be given away waits this long for deliveries under way: one delivery's
/// deadline and the dead letter after it.
pub const KAFKA_REVOKE_WAIT: Duration = Duration::from_secs(12);
/// At shutdown, what Kafka does not take within this time stays in the outboxes.
pub const KAFKA_CLOSE_WAIT: Duration = Duration::from_secs(5);
/// At shutdown, a member's last commit and its leave. Without a broker both are for nothing: the
/// session ends by itself, and what was not committed comes again.
pub const KAFKA_LEAVE_WAIT: Duration = Duration::from_secs(5);
/// At shutdown, the partitions of a member are given up within this time; without a broker that is for
/// nothing as well.
pub const KAFKA_UNSUBSCRIBE_WAIT: Duration = Duration::from_secs(1);
/// An acknowledgement that takes this long makes the bridge not ready.
pub const KAFKA_SLOW_ACK: Duration = Duration::from_secs(5);
/// A producer that has had nothing acknowledged for this long while something waits is replaced: one
/// was seen to stand still for good after its broker had been killed twice within seconds.
pub const KAFKA_STUCK: Duration = Duration::from_secs(15);
/// Questions about topics are answered within this time.
pub const KAFKA_ADMIN_WAIT: Duration = Duration::from_secs(5);
/// Time between two looks whether a broker answers, or a topic that could not be read is there now.
pub const KAFKA_LOOK_EVERY: Duration = Duration::from_secs(5);
/// New partitions and topics are noticed within this time.
pub const KAFKA_METADATA_EVERY: Duration = Duration::from_secs(30);
/// What is kept of a message that is too large to be a dead letter.
pub const KAFKA_LETTER_CUT_BYTES: usize = 64 << 10;
/// Time between two counts of the dead letters on Kafka.
pub const KAFKA_LETTERS_EVERY: Duration = Duration::from_secs(15);
/// Such a count begins with the first letter again after this time.
pub const KAFKA_LETTERS_AGAIN: Duration = Duration::from_secs(3600);
/// Reading the dead letters of a service ends when none has come for this long; one that is put back is
/// there within it.
pub const KAFKA_LETTERS_WAIT: Duration = Duration::from_secs(30);
