//! The command line: what may be typed, and the help that says so.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use innover_bridge::RedisConfig;

use crate::{
    client::{Access, Caller},
    up,
};

/// An event-driven payments platform of WebAssembly components.
#[derive(Parser)]
#[command(name = "innover", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Run the platform in this process, on embedded storage or on the servers of DATABASE_URL and KAFKA_BROKERS, until Ctrl-C
    Up(Up),
    /// Run relay, delivery and job queue beside stock Spin or `innover up --no-bridge`, over the same state folder
    Bridge {
        /// Where Spin serves the gateway; http:// and INNOVER_LISTEN (127.0.0.1:3000) when absent
        #[arg(long, env = "INNOVER_URL")]
        gateway: Option<String>,
        /// Where log lines go: stderr, stdout, off, or a file
        #[arg(long, default_value = "stderr", env = "INNOVER_LOG")]
        log: String,
        /// This bridge's own file, for its identity, the embedded bus and, without DATABASE_URL, jobs;
        /// bridge.db in the state folder when absent. Several bridges need one each
        #[arg(long, env = "INNOVER_BRIDGE_STORE")]
        store: Option<PathBuf>,
        #[command(flatten)]
        queues: Queues,
        #[command(flatten)]
        databases: Databases,
        #[command(flatten)]
        management: Management,
        #[command(flatten)]
        place: Place,
    },
    /// Bring the services' databases up to date
    Migrate {
        /// Make each service's database and role first (PostgreSQL and CockroachDB)
        #[arg(long)]
        create: bool,
        /// Give roles that are there the passwords of this state folder's secrets.toml, whatever platform
        /// uses them now
        #[arg(long, requires = "create")]
        new_passwords: bool,
        /// Who may do so: postgres://user:password@host:port/database
        #[arg(long = "admin-url", env = "DATABASE_ADMIN_URL", hide_env_values = true)]
        admin: Option<String>,
        #[command(flatten)]
        databases: Databases,
        #[command(flatten)]
        place: Place,
    },
    /// Write secrets, runtime-config.toml and spin.env; what is there is kept
    Keys {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        settings: Settings,
        /// The address the platform will listen on; the issuer's URL unless --issuer is given
        #[arg(long, default_value = "127.0.0.1:3000", env = "INNOVER_LISTEN")]
        listen: SocketAddr,
        #[command(flatten)]
        management: Management,
        /// Add a key that personal data is encrypted under from the next start on (docs/profiles.md)
        #[arg(long)]
        new_profile_key: bool,
    },
    /// Print an access token, of the user `user` unless another caller is named
    Token {
        /// Scopes, separated by spaces; all that the roles grant when absent
        #[arg(long)]
        scope: Option<String>,
        #[command(flatten)]
        signing_in: SigningIn,
    },
    /// Exchange rates
    #[command(subcommand)]
    Forex(ForexCommand),
    /// The journal: checkpoints, export, verification
    #[command(subcommand)]
    Ledger(LedgerCommand),
    /// Print the application's manifest, changed for where it will run
    Manifest {
        /// The application
        #[arg(long, default_value = "spin.toml")]
        manifest: PathBuf,
        /// Where the services keep their data
        #[arg(long, value_enum, default_value_t = Storage::Sqlite)]
        storage: Storage,
        /// Leave out the Redis triggers: stock Spin ends when no Redis answers
        #[arg(long)]
        without_redis: bool,
    },
    /// What the bus carries, read from the state folder (dead letters also from Kafka)
    #[command(subcommand)]
    Events(EventsCommand),
    /// The job queues, read from the state folder or, with DATABASE_URL, from the bridges' database
    #[command(subcommand)]
    Jobs(JobsCommand),
    /// Make a payment on a running platform, check every step and print its timeline
    Demo {
        #[command(flatten)]
        target: Target,
    },
    /// Measure throughput, latency, start-up and memory on platforms of its own, as a table; with
    /// DATABASE_URL, DATABASE_ADMIN_URL and KAFKA_BROKERS on those servers, in databases and topics of its own
    Bench {
        /// The application
        #[arg(long, default_value = "spin.toml")]
        manifest: PathBuf,
        /// Payments per round
        #[arg(long)]
        payments: Option<usize>,
        /// Measure this alone; may be given several times
        #[arg(long)]
        only: Vec<BenchPart>,
    },
    /// Check what this machine and folder need; exit code 1 when something is missing
    Doctor {
        #[command(flatten)]
        place: Place,
        #[arg(long, default_value = "127.0.0.1:3000", env = "INNOVER_LISTEN")]
        listen: SocketAddr,
        #[command(flatten)]
        management: Management,
        #[command(flatten)]
        queues: Queues,
        #[command(flatten)]
        databases: Databases,
    },
}

#[derive(Args)]
pub struct Management {
    /// Where /health, /readiness and /metrics are, and jobs for the gateway
    #[arg(
        long,
        default_value = "127.0.0.1:3001",
        env = "INNOVER_MANAGEMENT_LISTEN"
    )]
    pub management_listen: SocketAddr,
}

/// Redis, which Celery's clients and `PUBLISH` reach the queues through.
#[derive(Args)]
pub struct Queues {
    /// Redis for jobs of Celery clients and pushed jobs
    #[arg(
        long,
        default_value = "redis://127.0.0.1:6379",
        env = "REDIS_URL",
        hide_env_values = true
    )]
    pub redis_url: String,
    /// Where Celery clients look for results: the same server, maybe another database; REDIS_URL when absent
    #[arg(long, env = "CELERY_RESULT_BACKEND", hide_env_values = true)]
    pub result_backend: Option<String>,
}

impl From<Queues> for RedisConfig {
    fn from(queues: Queues) -> RedisConfig {
        RedisConfig {
            broker: queues.redis_url,
            backend: queues.result_backend,
        }
    }
}

/// Where the services keep their data.
#[derive(Args)]
pub struct Databases {
    /// A PostgreSQL or CockroachDB server, postgres://host:port?sslmode=…; SQLite files in the state folder when absent
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
    /// What the names of databases and roles there begin with
    #[arg(long, default_value = "innover_", env = "DATABASE_PREFIX")]
    pub database_prefix: String,
}

#[derive(Args)]
pub struct Place {
    /// The application; its paths are relative to its folder
    #[arg(long, default_value = "spin.toml")]
    pub manifest: PathBuf,
    /// Databases, keys, compiled modules
    #[arg(long, default_value = ".innover", env = "INNOVER_STATE_DIR")]
    pub state_dir: PathBuf,
}

#[derive(Args)]
pub struct Settings {
    /// dev has the password grant and the dev users, prod has neither
    #[arg(long, value_enum, default_value_t = Profile::Dev, env = "INNOVER_PROFILE")]
    pub profile: Profile,
    /// The issuer of access tokens, as clients reach it; http:// and the listen address when absent
    #[arg(long, env = "INNOVER_ISSUER")]
    pub issuer: Option<String>,
    #[command(flatten)]
    pub queues: Queues,
    #[command(flatten)]
    pub databases: Databases,
}

#[derive(Args)]
pub struct Up {
    #[command(flatten)]
    pub place: Place,
    #[command(flatten)]
    pub settings: Settings,
    /// Where the gateway listens; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:3000", env = "INNOVER_LISTEN")]
    pub listen: SocketAddr,
    #[command(flatten)]
    pub management: Management,
    /// Where JSON log lines go: stderr, stdout, off, or a file; innover.log in the state folder when absent
    #[arg(long, env = "INNOVER_LOG")]
    pub log: Option<String>,
    /// Serve only: `innover bridge` runs in a process of its own, over the same state folder
    #[arg(long, requires = "bridge_url")]
    pub no_bridge: bool,
    /// Where that bridge answers for jobs (its INNOVER_MANAGEMENT_LISTEN), as this process reaches it
    #[arg(long, env = "INNOVER_BRIDGE_URL")]
    pub bridge_url: Option<String>,
    /// Build and swap a component when its source changes, without dropping requests
    #[arg(long)]
    pub watch: bool,
}

#[derive(Args)]
pub struct Target {
    /// The running platform; http:// and INNOVER_LISTEN (127.0.0.1:3000) when absent
    #[arg(long, env = "INNOVER_URL")]
    pub url: Option<String>,
}

impl Target {
    /// Whoever started the platform on another address has it in the environment of the other
    /// commands too.
    pub fn url(&self) -> Result<String> {
        if let Some(url) = &self.url {
            return Ok(url.clone());
        }
        let listen = std::env::var("INNOVER_LISTEN").unwrap_or_else(|_| "127.0.0.1:3000".into());
        let address = listen
            .parse()
            .with_context(|| format!("INNOVER_LISTEN is no address: {listen}"))?;
        Ok(up::url(address))
    }
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Profile {
    Dev,
    Prod,
}

impl Profile {
    pub fn name(self) -> &'static str {
        match self {
            Profile::Dev => "dev",
            Profile::Prod => "prod",
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Storage {
    Sqlite,
    Postgres,
}

#[derive(Subcommand)]
pub enum ForexCommand {
    /// Load the ECB's reference rates: the history or daily file, as .zip, .csv or .xml
    ///
    /// Needs forex:write, which the dev user `admin` has.
    Load {
        file: PathBuf,
        /// Give days that are there with other rates a new revision
        #[arg(long)]
        replace: bool,
        #[command(flatten)]
        signing_in: SigningIn,
    },
}

/// What `innover bench` measures.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BenchPart {
    /// Cold and warm start
    Starts,
    /// Requests that change nothing
    Requests,
    /// Payments to completed
    Payments,
    /// Entries and transfers
    Ledger,
    /// Relays and deliveries
    Events,
    /// The PostgreSQL server itself, by pgbench
    Limits,
}

#[derive(Subcommand)]
pub enum LedgerCommand {
    /// Sign what all accounts are now
    Checkpoint {
        #[command(flatten)]
        signing_in: SigningIn,
    },
    /// Print the public key that verifies checkpoints, as a JWK
    Key {
        #[command(flatten)]
        signing_in: SigningIn,
    },
    /// Write the journal as a checkpoint covers it, one JSON record a line
    Export {
        file: PathBuf,
        /// The newest checkpoint when absent
        #[arg(long)]
        checkpoint: Option<i64>,
        #[command(flatten)]
        signing_in: SigningIn,
    },
    /// Check an export; needs nothing but the public key
    Verify {
        file: PathBuf,
        /// What `innover ledger key` printed
        #[arg(long)]
        key: PathBuf,
    },
}

/// Who calls a running platform.
#[derive(Args)]
pub struct SigningIn {
    /// A user of the dev profile; one who may do this when neither user nor client is named
    #[arg(long)]
    user: Option<String>,
    /// The password; the user's name when absent
    #[arg(long)]
    password: Option<String>,
    /// A client, which profile prod needs; a user or a password that is named goes before it
    #[arg(long, env = "INNOVER_CLIENT_ID")]
    client_id: Option<String>,
    /// Its secret; a list of processes does not show it in the environment
    #[arg(long, env = "INNOVER_CLIENT_SECRET", hide_env_values = true)]
    client_secret: Option<String>,
    #[command(flatten)]
    target: Target,
}

impl SigningIn {
    /// Who calls whom; `user` is the one of the dev profile when nobody is named.
    pub fn access(self, user: &str) -> Result<Access> {
        let url = self.target.url()?;
        // Compose files leave a variable out by making it empty.
        let given = |value: Option<String>| value.filter(|value| !value.is_empty());
        let a_user = self.user.is_some() || self.password.is_some();
        let caller = match (given(self.client_id), given(self.client_secret)) {
            (Some(id), Some(secret)) if !a_user => Caller::Client { id, secret },
            (Some(_), None) if !a_user => {
                bail!("a client needs its secret: --client-secret or INNOVER_CLIENT_SECRET")
            }
            (None, Some(_)) if !a_user => {
                bail!("whose secret is it? --client-id or INNOVER_CLIENT_ID names the client")
            }
            _ => {
                let name = self.user.unwrap_or_else(|| user.to_owned());
                let password = self.password.unwrap_or_else(|| name.clone());
                Caller::User { name, password }
            }
        };
        Ok(Access { url, caller })
    }
}

#[derive(Args)]
pub struct StateOnly {
    /// The platform's state folder
    #[arg(long, default_value = ".innover", env = "INNOVER_STATE_DIR")]
    pub state_dir: PathBuf,
}

#[derive(Subcommand)]
pub enum EventsCommand {
    /// Print the newest events
    Tail {
        /// Begin with the oldest event that is kept
        #[arg(long)]
        from_start: bool,
        /// Only this type, e.g. payment.completed
        #[arg(long = "type")]
        topic: Option<String>,
        /// Only this key, e.g. a payment's id
        #[arg(long)]
        key: Option<String>,
        /// Go on with new events until Ctrl-C
        #[arg(long, short)]
        follow: bool,
        /// Print whole CloudEvents
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        state: StateOnly,
    },
    /// Count events by type and show how far each subscriber is
    List {
        #[command(flatten)]
        state: StateOnly,
    },
    /// Events that could not be delivered, and rows of an outbox that are no event and no job
    DeadLetters {
        /// Only those for this service, and rows of its outbox
        #[arg(long)]
        subscriber: Option<String>,
        #[arg(long, default_value_t = 50)]
        limit: usize,
        /// Print all there is of them, one JSON object a line
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        databases: Databases,
        #[command(flatten)]
        place: Place,
    },
    /// Deliver events again that could not be delivered; those on Kafka are put back on their topics
    ///
    /// An event of the bridge's file goes to that service alone, through the running platform. When it is
    /// taken it is no dead letter any more; when it is refused again, the answer says why and it stays one.
    Replay {
        /// The service that did not take it
        service: String,
        #[command(flatten)]
        letters: Letters,
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        place: Place,
    },
    /// Forget dead letters that nobody will deliver
    Discard {
        /// The service it is for, or whose outbox it was in
        service: String,
        #[command(flatten)]
        letters: Letters,
        #[command(flatten)]
        databases: Databases,
        #[command(flatten)]
        place: Place,
    },
}

/// Which of a service's dead letters of events, as `dead-letters` shows them.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub struct Letters {
    /// The event's id; of one on Kafka its place among the service's dead letters: partition/offset
    pub letter: Option<String>,
    /// Every one of this service
    #[arg(long)]
    pub all: bool,
}

#[derive(Subcommand)]
pub enum JobsCommand {
    /// Put a job on a queue
    ///
    /// It is kept in the state folder or the bridges' database and runs when the platform does. Results of jobs pushed here
    /// are shown by `innover jobs show`.
    Push {
        /// Its full name, e.g. payment.confirm
        task: String,
        /// Positional arguments: JSON, or text as it is
        args: Vec<String>,
        /// Named arguments, as a JSON object
        #[arg(long, default_value = "{}")]
        kwargs: String,
        /// One that names the queue when the task's name does not
        #[arg(long)]
        queue: Option<String>,
        /// A job runs once per id; a new one when absent
        #[arg(long)]
        id: Option<String>,
        /// 0 is first, 9 last
        #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=9))]
        priority: u8,
        /// Seconds until it may run
        #[arg(long)]
        countdown: Option<f64>,
        /// Wait up to so many seconds for its result
        #[arg(long)]
        wait: Option<u64>,
        #[command(flatten)]
        databases: Databases,
        #[command(flatten)]
        place: Place,
    },
    /// The newest jobs, and those that wait in Redis
    List {
        #[arg(long)]
        queue: Option<String>,
        #[arg(long)]
        task: Option<String>,
        /// queued, delayed, running, done, revoked, failed or dead
        #[arg(long = "state")]
        job_state: Option<String>,
        #[arg(long, default_value_t = 50)]
        limit: usize,
        #[command(flatten)]
        seen: Seen,
    },
    /// One job with its arguments, result and error
    Show {
        id: String,
        #[command(flatten)]
        seen: Seen,
    },
    /// How many jobs of each queue are in each state
    Queues {
        #[command(flatten)]
        seen: Seen,
    },
    /// Queues with their tasks, and the jobs that run now
    Inspect {
        #[command(flatten)]
        seen: Seen,
    },
    /// Jobs that were given up
    DeadLetters {
        #[command(flatten)]
        which: Which,
        #[arg(long, default_value_t = 50)]
        limit: usize,
        #[command(flatten)]
        seen: Seen,
    },
    /// Put jobs that were given up back on their queues
    Retry {
        #[command(flatten)]
        which: Which,
        /// All that match; without it an id is needed
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        seen: Seen,
    },
    /// Delete jobs that were given up
    Discard {
        #[command(flatten)]
        which: Which,
        /// All that match; without it an id is needed
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        seen: Seen,
    },
}

/// Where jobs are looked for.
#[derive(Args)]
pub struct Seen {
    #[command(flatten)]
    pub place: Place,
    #[command(flatten)]
    pub databases: Databases,
    #[command(flatten)]
    pub queues: Queues,
}

/// Which dead letters.
#[derive(Args)]
pub struct Which {
    /// The job
    pub id: Option<String>,
    #[arg(long)]
    pub queue: Option<String>,
    #[arg(long)]
    pub task: Option<String>,
}
