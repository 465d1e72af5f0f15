//! `innover`: the one native binary. This file is the command line; each command is a module.

mod app;
mod bench;
mod bridge;
mod client;
mod demo;
mod door;
mod doctor;
mod events;
mod forex;
mod jobs;
mod keys;
mod log_file;
mod migrate;
mod print;
mod redis_probe;
mod secrets;
mod state;
mod token;
mod up;
mod watch;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use innover_bridge::inspect::{EventFilter, JobFilter};
use innover_manifest::Manifest;

use crate::{app::App, state::StateDir};

/// An event-driven payments platform of WebAssembly components.
#[derive(Parser)]
#[command(name = "innover", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the platform in this process, on embedded storage, until Ctrl-C
    Up(Up),
    /// Run relay, delivery and job queue beside stock Spin, over the same state folder
    Bridge {
        /// Where Spin serves the gateway; http:// and INNOVER_LISTEN (127.0.0.1:3000) when absent
        #[arg(long, env = "INNOVER_URL")]
        gateway: Option<String>,
        /// Where log lines go: stderr, stdout, off, or a file
        #[arg(long, default_value = "stderr", env = "INNOVER_LOG")]
        log: String,
        #[command(flatten)]
        place: Place,
    },
    /// Bring the services' databases up to date
    Migrate {
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
    },
    /// Print an access token of a dev user (password grant, dev profile only)
    Token {
        /// The user
        #[arg(long, default_value = "user")]
        user: String,
        /// The password; the user's name when absent
        #[arg(long)]
        password: Option<String>,
        /// Scopes, separated by spaces; all that the roles grant when absent
        #[arg(long)]
        scope: Option<String>,
        #[command(flatten)]
        target: Target,
    },
    /// Exchange rates
    #[command(subcommand)]
    Forex(ForexCommand),
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
    /// What the bus carries, read from the state folder
    #[command(subcommand)]
    Events(EventsCommand),
    /// The job queues, read from the state folder
    #[command(subcommand)]
    Jobs(JobsCommand),
    /// Make a payment on a running platform, check every step and print its timeline
    Demo {
        #[command(flatten)]
        target: Target,
    },
    /// Measure throughput, latency, start-up and memory on platforms of its own, as a table
    Bench {
        /// The application
        #[arg(long, default_value = "spin.toml")]
        manifest: PathBuf,
        /// Payments per round
        #[arg(long)]
        payments: Option<usize>,
    },
    /// Check what this machine and folder need; exit code 1 when something is missing
    Doctor {
        #[command(flatten)]
        place: Place,
        #[arg(long, default_value = "127.0.0.1:3000", env = "INNOVER_LISTEN")]
        listen: SocketAddr,
        #[arg(long, default_value = "127.0.0.1:3001", env = "INNOVER_MANAGEMENT_LISTEN")]
        management_listen: SocketAddr,
        #[arg(long, default_value = "redis://127.0.0.1:6379", env = "REDIS_URL", hide_env_values = true)]
        redis_url: String,
    },
}

#[derive(Args)]
struct Place {
    /// The application; its paths are relative to its folder
    #[arg(long, default_value = "spin.toml")]
    manifest: PathBuf,
    /// Databases, keys, compiled modules
    #[arg(long, default_value = ".innover", env = "INNOVER_STATE_DIR")]
    state_dir: PathBuf,
}

#[derive(Args)]
struct Settings {
    /// dev has the password grant and the dev users, prod has neither
    #[arg(long, value_enum, default_value_t = Profile::Dev, env = "INNOVER_PROFILE")]
    profile: Profile,
    /// The issuer of access tokens, as clients reach it; http:// and the listen address when absent
    #[arg(long, env = "INNOVER_ISSUER")]
    issuer: Option<String>,
    /// Redis for pushed jobs
    #[arg(long, default_value = "redis://127.0.0.1:6379", env = "REDIS_URL", hide_env_values = true)]
    redis_url: String,
}

#[derive(Args)]
struct Up {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    settings: Settings,
    /// Where the gateway listens; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:3000", env = "INNOVER_LISTEN")]
    listen: SocketAddr,
    /// Where /health, /readiness and /metrics are
    #[arg(long, default_value = "127.0.0.1:3001", env = "INNOVER_MANAGEMENT_LISTEN")]
    management_listen: SocketAddr,
    /// Where JSON log lines go: stderr, stdout, off, or a file; innover.log in the state folder when absent
    #[arg(long, env = "INNOVER_LOG")]
    log: Option<String>,
    /// Build and swap a component when its source changes, without dropping requests
    #[arg(long)]
    watch: bool,
}

#[derive(Args)]
struct Target {
    /// The running platform; http:// and INNOVER_LISTEN (127.0.0.1:3000) when absent
    #[arg(long, env = "INNOVER_URL")]
    url: Option<String>,
}

impl Target {
    /// Whoever started the platform on another address has it in the environment of the other
    /// commands too.
    fn url(&self) -> Result<String> {
        if let Some(url) = &self.url {
            return Ok(url.clone());
        }
        let listen = std::env::var("INNOVER_LISTEN").unwrap_or_else(|_| "127.0.0.1:3000".into());
        let address = listen.parse().with_context(|| format!("INNOVER_LISTEN is no address: {listen}"))?;
        Ok(up::url(address))
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Profile {
    Dev,
    Prod,
}

impl Profile {
    fn name(self) -> &'static str {
        match self {
            Profile::Dev => "dev",
            Profile::Prod => "prod",
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Storage {
    Sqlite,
}

#[derive(Subcommand)]
enum ForexCommand {
    /// Load the ECB's reference rates: the history or daily file, as .zip, .csv or .xml
    Load {
        file: PathBuf,
        /// Who loads them; needs forex:write
        #[arg(long, default_value = "admin")]
        user: String,
        /// The password; the user's name when absent
        #[arg(long)]
        password: Option<String>,
        /// Give days that are there with other rates a new revision
        #[arg(long)]
        replace: bool,
        #[command(flatten)]
        target: Target,
    },
}

#[derive(Args)]
struct StateOnly {
    /// The platform's state folder
    #[arg(long, default_value = ".innover", env = "INNOVER_STATE_DIR")]
    state_dir: PathBuf,
}

#[derive(Subcommand)]
enum EventsCommand {
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
    /// Events that could not be delivered
    DeadLetters {
        /// Only those for this service
        #[arg(long)]
        subscriber: Option<String>,
        #[arg(long, default_value_t = 50)]
        limit: usize,
        #[command(flatten)]
        state: StateOnly,
    },
}

#[derive(Subcommand)]
enum JobsCommand {
    /// The newest jobs
    List {
        #[arg(long)]
        queue: Option<String>,
        #[arg(long)]
        task: Option<String>,
        /// queued, delayed, leased, done, failed or dead
        #[arg(long = "state")]
        job_state: Option<String>,
        #[arg(long, default_value_t = 50)]
        limit: usize,
        #[command(flatten)]
        state: StateOnly,
    },
    /// One job with its arguments, result and error
    Show {
        id: String,
        #[command(flatten)]
        state: StateOnly,
    },
    /// How many jobs of each queue are in each state
    Queues {
        #[command(flatten)]
        state: StateOnly,
    },
    /// Jobs that were given up
    DeadLetters {
        #[arg(long)]
        queue: Option<String>,
        #[arg(long, default_value_t = 50)]
        limit: usize,
        #[command(flatten)]
        state: StateOnly,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("innover: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<bool> {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    // SQL runs on the thread that asks for it, and a commit waits for the disk (crates/host).
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores * 2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(dispatch(command))
}

async fn dispatch(command: Command) -> Result<bool> {
    match command {
        Command::Up(up) => {
            let app = App::load(&up.place.manifest)?;
            let state = StateDir::create(&up.place.state_dir)?;
            let options = up::Options {
                listen: up.listen,
                management_listen: up.management_listen,
                profile: up.settings.profile.name().to_owned(),
                issuer: up.settings.issuer,
                redis_url: up.settings.redis_url,
                log: up.log,
                watch: up.watch,
            };
            up::run(app, state, options).await?;
        }
        Command::Bridge { gateway, log, place } => {
            let gateway = Target { url: gateway }.url()?;
            bridge::run(App::load(&place.manifest)?, StateDir::open(&place.state_dir)?, &gateway, &log).await?;
        }
        Command::Migrate { place } => {
            migrate::command(&App::load(&place.manifest)?, &StateDir::create(&place.state_dir)?)?;
        }
        Command::Keys { place, settings, listen } => {
            let settings = keys::Settings {
                profile: settings.profile.name().to_owned(),
                issuer: settings.issuer.unwrap_or_else(|| up::url(listen)),
                redis_url: settings.redis_url,
            };
            keys::run(&App::load(&place.manifest)?, &StateDir::create(&place.state_dir)?, &settings)?;
        }
        Command::Token { user, password, scope, target } => {
            token::run(&target.url()?, &user, password.as_deref(), scope.as_deref()).await?;
        }
        Command::Forex(ForexCommand::Load { file, user, password, replace, target }) => {
            let url = target.url()?;
            let load = forex::Load { file: &file, url: &url, user: &user, password: password.as_deref(), replace };
            forex::load(load).await?;
        }
        Command::Manifest { manifest, storage: Storage::Sqlite, without_redis } => {
            let app = App::load(&manifest)?;
            let text = if without_redis { Manifest::without_redis_triggers(&app.text)? } else { app.text };
            print::line(text.trim_end());
        }
        Command::Events(command) => events_command(command).await?,
        Command::Jobs(command) => jobs_command(command)?,
        Command::Demo { target } => demo::run(&target.url()?).await?,
        Command::Bench { manifest, payments } => bench::run(&App::load(&manifest)?, payments).await?,
        Command::Doctor { place, listen, management_listen, redis_url } => {
            let options = doctor::Options {
                manifest: &place.manifest,
                state: &place.state_dir,
                listen,
                management_listen,
                redis_url: &redis_url,
            };
            return doctor::run(options).await;
        }
    }
    Ok(true)
}

async fn events_command(command: EventsCommand) -> Result<()> {
    match command {
        EventsCommand::Tail { from_start, topic, key, follow, json, state } => {
            let filter = EventFilter { topic, key };
            events::tail(&store(&state)?, events::Tail { from_start, follow, filter, json }).await
        }
        EventsCommand::List { state } => events::list(&store(&state)?),
        EventsCommand::DeadLetters { subscriber, limit, state } => {
            events::dead_letters(&store(&state)?, "event", subscriber.as_deref(), limit)
        }
    }
}

fn jobs_command(command: JobsCommand) -> Result<()> {
    match command {
        JobsCommand::List { queue, task, job_state, limit, state } => {
            jobs::list(&store(&state)?, &JobFilter { queue, task, state: job_state }, limit)
        }
        JobsCommand::Show { id, state } => jobs::show(&store(&state)?, &id),
        JobsCommand::Queues { state } => jobs::queues(&store(&state)?),
        JobsCommand::DeadLetters { queue, limit, state } => {
            events::dead_letters(&store(&state)?, "job", queue.as_deref(), limit)
        }
    }
}

fn store(state: &StateOnly) -> Result<PathBuf> {
    Ok(StateDir::open(&state.state_dir)?.bridge())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
