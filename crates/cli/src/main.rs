//! `innover`: the one native binary. `arguments` is the command line; each command is a module.

mod app;
mod arguments;
mod bench;
mod bridge;
mod bus;
mod client;
mod databases;
mod demo;
mod doctor;
mod door;
mod events;
mod forex;
mod jobs;
mod keys;
mod ledger;
mod log_file;
mod migrate;
mod print;
mod redis_probe;
mod secrets;
mod state;
mod token;
mod up;
mod watch;

/// Every call of a component makes and frees dozens of small things on the host's side.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Gives freed memory back to the system now.
fn release_memory() {
    // SAFETY: has no preconditions and may be called from any thread.
    unsafe { libmimalloc_sys::mi_collect(true) }
}

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::Parser;
use innover_bridge::{HttpDoor, inspect::EventFilter};
use innover_manifest::Manifest;

use crate::{
    app::App,
    arguments::{
        Cli, Command, EventsCommand, ForexCommand, LedgerCommand, StateOnly, Storage, Target,
    },
    databases::Databases,
    state::StateDir,
};

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
                management_listen: up.management.management_listen,
                profile: up.settings.profile.name().to_owned(),
                issuer: up.settings.issuer,
                databases: Databases::new(&up.settings.databases)?,
                redis: up.settings.queues.into(),
                log: up.log,
                bridge_elsewhere: up.no_bridge.then_some(up.bridge_url).flatten(),
                watch: up.watch,
            };
            up::run(app, state, options).await?;
        }
        Command::Bridge {
            gateway,
            log,
            store,
            queues,
            databases,
            management,
            place,
        } => {
            let gateway = Target { url: gateway }.url()?;
            let options = bridge::Options {
                gateway,
                store,
                databases: Databases::new(&databases)?,
                redis: queues.into(),
                log,
                listen: management.management_listen,
            };
            let app = App::load(&place.manifest)?;
            bridge::run(app, StateDir::open(&place.state_dir)?, options).await?;
        }
        Command::Migrate {
            create,
            new_passwords,
            admin,
            databases,
            place,
        } => {
            let admin = match (create, &admin) {
                (false, _) => None,
                (true, Some(admin)) => Some(admin.as_str()),
                (true, None) => anyhow::bail!(
                    "--create needs DATABASE_ADMIN_URL: postgres://user:password@host:port/database of somebody who may create databases and roles"
                ),
            };
            migrate::command(
                &App::load(&place.manifest)?,
                &StateDir::create(&place.state_dir)?,
                &mut Databases::new(&databases)?,
                admin,
                new_passwords,
            )
            .await?;
        }
        Command::Keys {
            place,
            settings,
            listen,
            management,
            new_profile_key,
        } => {
            let settings = keys::Settings {
                profile: settings.profile.name().to_owned(),
                issuer: settings.issuer.unwrap_or_else(|| up::url(listen)),
                databases: Databases::new(&settings.databases)?,
                redis_url: settings.queues.redis_url,
                bridge_url: up::url(management.management_listen),
            };
            let app = App::load(&place.manifest)?;
            let state = StateDir::create(&place.state_dir)?;
            if new_profile_key {
                keys::new_profile_key(&app, &state)?;
            }
            keys::run(&app, &state, &settings)?;
        }
        Command::Token { scope, signing_in } => {
            token::run(&signing_in.access("user")?, scope.as_deref()).await?;
        }
        Command::Forex(ForexCommand::Load {
            file,
            replace,
            signing_in,
        }) => {
            forex::load(&signing_in.access("admin")?, &file, replace).await?;
        }
        Command::Ledger(command) => run_ledger(command).await?,
        Command::Manifest {
            manifest,
            storage,
            without_redis,
        } => {
            let mut text = App::load(&manifest)?.text;
            if without_redis {
                text = Manifest::without_redis_triggers(&text)?;
            }
            if let Storage::Postgres = storage {
                text = Manifest::without_sqlite_databases(&text)?;
            }
            print::line(text.trim_end());
        }
        Command::Events(command) => events_command(command).await?,
        Command::Jobs(command) => jobs::run(command).await?,
        Command::Demo { target } => demo::run(&target.url()?).await?,
        Command::Bench {
            manifest,
            payments,
            only,
        } => bench::run(&App::load(&manifest)?, payments, &only).await?,
        Command::Doctor {
            place,
            listen,
            management,
            queues,
            databases,
        } => {
            let options = doctor::Options {
                manifest: &place.manifest,
                state: &place.state_dir,
                listen,
                management_listen: management.management_listen,
                redis_url: &queues.redis_url,
                databases: Databases::new(&databases)?,
            };
            return doctor::run(options).await;
        }
    }
    Ok(true)
}

async fn events_command(command: EventsCommand) -> Result<()> {
    match command {
        EventsCommand::Tail {
            from_start,
            topic,
            key,
            follow,
            json,
            state,
        } => {
            let filter = EventFilter { topic, key };
            events::tail(
                &store(&state)?,
                events::Tail {
                    from_start,
                    follow,
                    filter,
                    json,
                },
            )
            .await
        }
        EventsCommand::List { state } => events::list(&store(&state)?),
        EventsCommand::DeadLetters {
            subscriber,
            limit,
            json,
            databases,
            place,
        } => {
            let rows = jobs::store(&place, &databases)?;
            let services = || match &subscriber {
                Some(service) => Ok(vec![service.clone()]),
                None => App::load(&place.manifest).map(|app| events::subscribers(&app)),
            };
            let bus = events::Bus::of(&place, services)?;
            events::dead_letters(bus, &rows, subscriber, limit, json).await
        }
        EventsCommand::Replay {
            service,
            letters,
            target,
            place,
        } => {
            let bus = events::Bus::of(&place, || Ok(vec![service.clone()]))?;
            let door = || {
                let app = App::load(&place.manifest)?;
                let state = StateDir::open(&place.state_dir)?;
                let keyring = keys::bridge_keyring(&app, &secrets::read(&state.secrets())?);
                HttpDoor::new(&target.url()?, keyring).context("cannot set up the HTTP client")
            };
            events::replay(bus, service, letters.letter, door).await
        }
        EventsCommand::Discard {
            service,
            letters,
            databases,
            place,
        } => {
            let bus = events::Bus::of(&place, || Ok(vec![service.clone()]))?;
            let rows = || jobs::store(&place, &databases);
            events::discard(bus, rows, service, letters.letter).await
        }
    }
}

fn store(state: &StateOnly) -> Result<PathBuf> {
    Ok(StateDir::open(&state.state_dir)?.bridge())
}

/// The dev user who may read the journal and write checkpoints.
const FINANCE: &str = "finance";

async fn run_ledger(command: LedgerCommand) -> Result<()> {
    match command {
        LedgerCommand::Checkpoint { signing_in } => {
            ledger::checkpoint(&signing_in.access(FINANCE)?).await
        }
        LedgerCommand::Key { signing_in } => ledger::key(&signing_in.access(FINANCE)?).await,
        LedgerCommand::Export {
            file,
            checkpoint,
            signing_in,
        } => ledger::export(&signing_in.access(FINANCE)?, &file, checkpoint).await,
        LedgerCommand::Verify { file, key } => ledger::verify(&file, &key),
    }
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
