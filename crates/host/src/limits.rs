//! Every bound of the host in one place, each with its reason.

use std::time::Duration;

/// Time a request may take when the manifest says nothing (`tool.innover.deadline_ms`). Ten seconds
/// is what the platform promises its callers before a 504.
pub const DEADLINE_DEFAULT: Duration = Duration::from_secs(10);

/// Memory of one instance when the manifest says nothing: Spin's default.
pub const MEMORY_BYTES_DEFAULT: usize = 128 << 20;

/// Requests in flight per component when the manifest says nothing.
pub const CONCURRENCY_DEFAULT: u32 = 256;

/// How long a request waits for a free place of a saturated component before it is told to come
/// back. Long enough to smooth a burst, short enough that callers do not pile up.
pub const SATURATION_WAIT: Duration = Duration::from_millis(250);

/// Pause before a request asks the full pool again for an instance.
pub const SATURATION_RETRY: Duration = Duration::from_millis(5);

/// Instances of one component that are made at once.
pub const INSTANCE_STARTS: usize = 2;

/// When no instance of a component took a request for so long, those there are blocked, and another is
/// made beyond what is needed otherwise.
pub const INSTANCE_STUCK: Duration = Duration::from_millis(50);

/// What a turned-away caller finds in `Retry-After`.
pub const RETRY_AFTER_SECONDS: &str = "1";

/// Requests one instance serves at once when the manifest says nothing: Spin's default.
pub const INSTANCE_CONCURRENT_MAX: usize = 16;

/// Requests one instance serves in its life: a leak in a guest ends with its instance. A new instance
/// builds its routes, reads its keys and verifies every token anew, while the requests it took wait.
pub const INSTANCE_REUSE_MAX: usize = 8_192;

/// How long an unused instance is kept.
pub const INSTANCE_IDLE: Duration = Duration::from_secs(1);

/// What a guest may still do after the head of its last answer: stream the body to a slow client,
/// return a connection.
pub const POST_RETURN: Duration = Duration::from_secs(60);
/// The same for an instance in which a request ran past its deadline: whatever it still holds, a
/// write lock for example, is wanted back.
pub const POST_RETURN_EXPIRED: Duration = Duration::from_secs(1);

/// How much later than the requests' own deadline an instance is stopped from outside. The timer
/// inside answers first when the guest is merely slow; this one catches a guest that loops.
pub const RUNAWAY_GRACE: Duration = Duration::from_millis(50);

/// Epoch tick: how often a running guest yields to others, and so how late a deadline may be seen.
pub const EPOCH_TICK: Duration = Duration::from_millis(10);

/// Instances the pool holds over all components; each serves several requests at once. Beyond it
/// requests get 503. A pool reserves address space and guard pages for all of them at the start, of
/// which Linux allows a process 65,530.
pub const INSTANCES_MAX: u32 = 400;

/// Core instances, memories and tables one component may consist of. A Rust component is one
/// program, its adapters and shims; a composed plug-in doubles that.
pub const CORE_INSTANCES_PER_COMPONENT: u32 = 24;
/// See [`CORE_INSTANCES_PER_COMPONENT`].
pub const MEMORIES_PER_COMPONENT: u32 = 8;
/// See [`CORE_INSTANCES_PER_COMPONENT`].
pub const TABLES_PER_COMPONENT: u32 = 24;

/// Memory of a slot that stays resident between two instances. Most guests touch about this much;
/// more would keep memory that nobody uses, less costs page faults on every instantiation.
pub const MEMORY_KEEP_RESIDENT: usize = 256 << 10;
/// As [`MEMORY_KEEP_RESIDENT`], for tables.
pub const TABLE_KEEP_RESIDENT: usize = 16 << 10;
/// Free slots kept warm: with [`MEMORY_KEEP_RESIDENT`] at most 16 MiB that nobody uses.
pub const WARM_SLOTS_MAX: u32 = 64;

/// Native stack of one guest task. The sum must hold the guest's own limit and the host calls
/// below it.
pub const ASYNC_STACK_BYTES: usize = 1 << 20;
/// Stack a guest may use before it traps.
pub const WASM_STACK_BYTES: usize = 512 << 10;

/// Request body, hard cap. Guests enforce their own, smaller limits.
pub const BODY_BYTES_MAX: u64 = 4 << 20;

/// Request line and headers.
pub const HEADER_BYTES_MAX: usize = 16 << 10;

/// What hyper buffers of one connection: room for headers over the limit, so that they get a 431 and
/// not just a closed connection.
pub const READ_BUFFER_BYTES: usize = 64 << 10;

/// How much of a body that nobody reads is read and thrown away, so that the client, still sending,
/// gets to read why; and for how long.
pub const BODY_DRAIN: (u64, Duration) = (32 << 20, Duration::from_secs(2));

/// How long a client may take to send its headers (slowloris), and how long an idle keep-alive
/// connection is kept.
pub const HEADER_READ: Duration = Duration::from_secs(20);

/// Open client connections; further ones wait in the listen queue.
pub const CONNECTIONS_MAX: usize = 8192;

/// HTTP/2 streams per connection.
pub const H2_STREAMS_MAX: u32 = 256;

/// Wait for a database's write lock, and for another process that holds the file.
pub const DATABASE_LOCK_WAIT: Duration = Duration::from_secs(5);

/// How long a writer stands back for others that come later and are faster.
pub const LOCK_PATIENCE: Duration = Duration::from_millis(50);

/// Pages in a database's log at which they are copied into the database: 8 MiB.
pub const CHECKPOINT_PAGES: u32 = 2_048;

/// Time one SQL statement may run. It runs on a thread that serves others too.
pub const STATEMENT: Duration = Duration::from_secs(5);

/// SQLite's virtual machine steps between two looks at the clock; about 0.1 ms.
pub const STATEMENT_CHECK_OPS: i32 = 20_000;

/// Bytes one result may hold: results are host memory, which the guest's limit does not see.
pub const RESULT_BYTES_MAX: usize = 32 << 20;

/// Longest string or blob in SQLite, for the same reason.
pub const SQLITE_VALUE_BYTES_MAX: i32 = 16 << 20;

/// Statements kept prepared per connection.
pub const STATEMENTS_CACHED: usize = 256;

/// Idle connections kept per database; each holds a page cache of up to 2 MB.
pub const CONNECTIONS_IDLE_MAX: usize = 32;

/// Connections one guest instance may hold at once, over all databases.
pub const CONNECTIONS_PER_INSTANCE_MAX: usize = 64;

/// Connect and answer of a Redis server.
pub const REDIS_CONNECT: Duration = Duration::from_secs(2);
/// Longest single Redis command a guest may wait for.
pub const REDIS_COMMAND: Duration = Duration::from_secs(10);
/// A Redis server that says nothing for this long is asked whether it is there, and is given up when it
/// does not acknowledge that within the same time.
pub const REDIS_SILENCE: Duration = Duration::from_secs(15);
/// Redis addresses the host keeps a connection to.
pub const REDIS_ADDRESSES_MAX: usize = 64;

/// Connections to PostgreSQL when nothing is said: a server takes 100 unless told otherwise, and the
/// bridge's own and an operator's have to fit in.
pub const POSTGRES_CONNECTIONS: usize = 64;
/// How long a statement waits for one of them.
pub const POSTGRES_WAIT: Duration = Duration::from_secs(5);
/// Longest statement, of the client and of the server: above every request's deadline.
pub const POSTGRES_STATEMENT: Duration = Duration::from_secs(30);
/// A session nobody has used for this long is closed.
pub const POSTGRES_IDLE: Duration = Duration::from_secs(300);
/// Addresses of PostgreSQL the host remembers.
pub const POSTGRES_ADDRESSES_MAX: usize = 256;

/// Messages a Redis trigger works on at once per address.
pub const REDIS_MESSAGES_MAX: usize = 64;
/// Pauses of a Redis trigger between two attempts to connect: first and longest.
pub const REDIS_BACKOFF: (Duration, Duration) =
    (Duration::from_millis(200), Duration::from_secs(10));

/// Different values of the `route` label per service; the rest is counted under `other`.
pub const ROUTE_LABELS_MAX: usize = 200;

/// Log lines waiting to be written; beyond it lines are dropped and counted.
pub const LOG_LINES_MAX: usize = 16_384;

/// Pause of the log's writer between two writes: at most this much later is a line seen.
pub const LOG_PAUSE: Duration = Duration::from_millis(5);

/// Longest line a guest may write to stdout or stderr; longer ones are cut into several.
pub const GUEST_LINE_BYTES_MAX: usize = 64 << 10;

/// Time an outbound connection may take when the guest names none.
pub const OUTBOUND_CONNECT: Duration = Duration::from_secs(5);
/// Time to the first byte, and between two, of an outbound answer when the guest names none.
pub const OUTBOUND_READ: Duration = Duration::from_secs(30);

/// A body on the management listener: a job has at most a mebibyte.
pub const MANAGEMENT_BODY_BYTES_MAX: usize = 1 << 20;
/// A body on the management listener is there within this time.
pub const BODY_READ: Duration = Duration::from_secs(10);
/// No call may take longer, whatever its caller says: a clock cannot count further than some centuries.
pub const DEADLINE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
