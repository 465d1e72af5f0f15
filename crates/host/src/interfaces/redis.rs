//! `spin:redis@3.0.0`: one multiplexed connection per address, shared by all guests and opened again
//! when it broke.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, PoisonError, RwLock};

use redis::aio::MultiplexedConnection;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{
    AsyncCommands, AsyncConnectionConfig, Client, Cmd, ErrorKind, IntoConnectionInfo, RedisError,
    Value,
};
use wasmtime::component::{Accessor, HasSelf, Linker, Resource};

use super::Interface;
use crate::bindings::imports::spin::redis::redis::{
    self as wit, Error, RedisParameter, RedisResult,
};
use crate::database::Seen;
use crate::guest::Guest;
use crate::limits;
use crate::shared::Shared;

pub(crate) struct Redis;

impl Interface for Redis {
    fn imports(&self) -> &'static [&'static str] {
        &["spin:redis/redis@3"]
    }

    fn link(&self, linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
        wit::add_to_linker::<Guest, HasSelf<Guest>>(linker, |guest| guest)
    }
}

/// A client for `address`; connects to nothing yet. Its connections end when the server is gone, also
/// when it could not say so: whoever only listens would never find out, and the timeout of an answer
/// ends with a guest that is stopped at its deadline.
pub(crate) fn client(address: &str) -> Result<Client, RedisError> {
    let keepalive = TcpKeepalive::new()
        .with_time(limits::REDIS_SILENCE)
        .with_interval(limits::REDIS_SILENCE);
    let settings = TcpSettings::default().set_keepalive(keepalive);
    #[cfg(target_os = "linux")]
    let settings = settings.set_user_timeout(limits::REDIS_SILENCE);
    Client::open(address.into_connection_info()?.set_tcp_settings(settings))
}

/// Open connections, by address.
#[derive(Default)]
pub(crate) struct Servers {
    open: RwLock<HashMap<String, MultiplexedConnection>>,
}

impl Servers {
    async fn connection(&self, address: &str) -> Result<MultiplexedConnection, RedisError> {
        let known = self
            .open
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(address)
            .cloned();
        if let Some(connection) = known {
            return Ok(connection);
        }
        let settings = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(limits::REDIS_CONNECT))
            .set_response_timeout(Some(limits::REDIS_COMMAND));
        let connection = client(address)?
            .get_multiplexed_async_connection_with_config(&settings)
            .await?;
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        // Addresses come from guests: a guest that makes them up must not fill the map.
        if open.len() >= limits::REDIS_ADDRESSES_MAX {
            open.clear();
        }
        Ok(open.entry(address.to_owned()).or_insert(connection).clone())
    }

    /// Runs one command. A connection that broke is opened anew for the next one; the command is not
    /// repeated, since it may have been executed.
    pub(crate) async fn with<T, F>(
        &self,
        address: &str,
        command: impl FnOnce(MultiplexedConnection) -> F,
    ) -> Result<T, RedisError>
    where
        F: Future<Output = Result<T, RedisError>>,
    {
        let connection = self.connection(address).await?;
        let result = command(connection).await;
        if let Err(error) = &result
            && (error.is_unrecoverable_error() || error.is_timeout())
        {
            self.open
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(address);
        }
        result
    }
}

/// The guest's handle: an address it may reach.
pub struct Connection(Arc<str>);

fn problem(error: RedisError) -> Error {
    match error.kind() {
        ErrorKind::InvalidClientConfig => Error::InvalidAddress,
        ErrorKind::UnexpectedReturnType => Error::TypeError,
        _ => Error::Other(error.to_string()),
    }
}

impl wit::Host for Guest {}

impl wit::HostConnection for Guest {
    async fn drop(&mut self, handle: Resource<Connection>) -> wasmtime::Result<()> {
        self.table.delete(handle)?;
        Ok(())
    }
}

/// Whether the manifest lets the component reach `address`.
fn allowed(guest: &Guest, address: &str) -> bool {
    let Ok(uri) = address.parse::<http::Uri>() else {
        return false;
    };
    let (Some(scheme), Some(host)) = (uri.scheme_str(), uri.host()) else {
        return false;
    };
    let allowed = guest.app().hosts.allows(scheme, host, uri.port_u16());
    if !allowed {
        tracing::warn!(
            service_name = %guest.app().service,
            "connection to {scheme}://{host} denied: add it to allowed_outbound_hosts of component {}",
            guest.app().id
        );
    }
    allowed
}

async fn run<T: Send, R, F>(
    accessor: &Accessor<T, HasSelf<Guest>>,
    handle: &Resource<Connection>,
    command: impl FnOnce(MultiplexedConnection) -> F + Send,
) -> wasmtime::Result<Result<R, Error>>
where
    F: Future<Output = Result<R, RedisError>> + Send,
{
    let (address, shared, seen) = accessor.with(|mut access| {
        let guest = access.get();
        let address = Arc::clone(&guest.table.get(handle)?.0);
        let (shared, seen) = (Arc::clone(guest.shared()), Arc::clone(&guest.seen));
        wasmtime::error::Ok::<(Arc<str>, Arc<Shared>, Arc<Seen>)>((address, shared, seen))
    })?;
    seen.on_disk().await;
    Ok(shared.redis.with(&address, command).await.map_err(problem))
}

impl<T: Send> wit::HostConnectionWithStore<T> for HasSelf<Guest> {
    async fn open(
        accessor: &Accessor<T, Self>,
        address: String,
    ) -> wasmtime::Result<Result<Resource<Connection>, Error>> {
        let shared = accessor.with(|mut access| {
            let guest = access.get();
            allowed(guest, &address).then(|| Arc::clone(guest.shared()))
        });
        // Spin's answer for an address that is not allowed, too.
        let Some(shared) = shared else {
            return Ok(Err(Error::InvalidAddress));
        };
        if let Err(error) = shared.redis.connection(&address).await {
            return Ok(Err(problem(error)));
        }
        accessor.with(|mut access| {
            Ok(Ok(access
                .get()
                .table
                .push(Connection(address.as_str().into()))?))
        })
    }

    async fn publish(
        accessor: &Accessor<T, Self>,
        handle: Resource<Connection>,
        channel: String,
        payload: Vec<u8>,
    ) -> wasmtime::Result<Result<(), Error>> {
        run(accessor, &handle, |mut redis| async move {
            redis.publish(channel, payload).await
        })
        .await
    }

    async fn get(
        accessor: &Accessor<T, Self>,
        handle: Resource<Connection>,
        key: String,
    ) -> wasmtime::Result<Result<Option<Vec<u8>>, Error>> {
        run(accessor, &handle, |mut redis| async move {
            redis.get(key).await
        })
        .await
    }

    async fn set(
        accessor: &Accessor<T, Self>,
        handle: Resource<Connection>,
        key: String,
        value: Vec<u8>,
    ) -> wasmtime::Result<Result<(), Error>> {
        run(accessor, &handle, |mut redis| async move {
            redis.set(key, value).await
        })
        .await
    }

    async fn incr(
        accessor: &Accessor<T, Self>,
        handle: Resource<Connection>,
        key: String,
    ) -> wasmtime::Result<Result<i64, Error>> {
        run(accessor, &handle, |mut redis| async move {
            redis.incr(key, 1).await
        })
        .await
    }

    async fn del(
        accessor: &Accessor<T, Self>,
        handle: Resource<Connection>,
        keys: Vec<String>,
    ) -> wasmtime::Result<Result<u32, Error>> {
        run(accessor, &handle, |mut redis| async move {
            redis.del(keys).await
        })
        .await
    }

    async fn sadd(
        accessor: &Accessor<T, Self>,
        handle: Resource<Connection>,
        key: String,
        values: Vec<String>,
    ) -> wasmtime::Result<Result<u32, Error>> {
        run(accessor, &handle, |mut redis| async move {
            redis.sadd(key, values).await
        })
        .await
    }

    async fn smembers(
        accessor: &Accessor<T, Self>,
        handle: Resource<Connection>,
        key: String,
    ) -> wasmtime::Result<Result<Vec<String>, Error>> {
        run(accessor, &handle, |mut redis| async move {
            redis.smembers(key).await
        })
        .await
    }

    async fn srem(
        accessor: &Accessor<T, Self>,
        handle: Resource<Connection>,
        key: String,
        values: Vec<String>,
    ) -> wasmtime::Result<Result<u32, Error>> {
        run(accessor, &handle, |mut redis| async move {
            redis.srem(key, values).await
        })
        .await
    }

    async fn execute(
        accessor: &Accessor<T, Self>,
        handle: Resource<Connection>,
        command: String,
        arguments: Vec<RedisParameter>,
    ) -> wasmtime::Result<Result<Vec<RedisResult>, Error>> {
        if let Some(refused) = shares_badly(&command, &arguments) {
            return Ok(Err(Error::Other(refused)));
        }
        let mut cmd = Cmd::new();
        cmd.arg(command);
        for argument in arguments {
            match argument {
                RedisParameter::Int64(n) => cmd.arg(n),
                RedisParameter::Binary(bytes) => cmd.arg(bytes),
            };
        }
        let answer = run(accessor, &handle, |mut redis| async move {
            cmd.query_async::<Value>(&mut redis).await
        });
        Ok(answer.await?.and_then(|value| {
            let mut results = Vec::new();
            flatten(value, &mut results).map(|()| results)
        }))
    }
}

/// Commands that would change or hold up the connection everybody shares.
fn shares_badly(command: &str, arguments: &[RedisParameter]) -> Option<String> {
    const REFUSED: [&str; 22] = [
        "AUTH",
        "BLMOVE",
        "BLMPOP",
        "BLPOP",
        "BRPOP",
        "BRPOPLPUSH",
        "BZMPOP",
        "BZPOPMAX",
        "BZPOPMIN",
        "CLIENT",
        "HELLO",
        "MONITOR",
        "MULTI",
        "PSUBSCRIBE",
        "QUIT",
        "RESET",
        "SELECT",
        "SSUBSCRIBE",
        "SUBSCRIBE",
        "WAIT",
        "WAITAOF",
        "WATCH",
    ];
    let blocks = |argument: &RedisParameter| matches!(argument, RedisParameter::Binary(bytes) if bytes.eq_ignore_ascii_case(b"BLOCK"));
    let name = command.to_ascii_uppercase();
    let waits = matches!(name.as_str(), "XREAD" | "XREADGROUP") && arguments.iter().any(blocks);
    (waits || REFUSED.contains(&name.as_str()))
        .then(|| format!("{name} is not possible on a shared connection; use a script (EVAL) for several commands at once"))
}

/// Redis answers are trees; Spin's interface is flat.
fn flatten(value: Value, out: &mut Vec<RedisResult>) -> Result<(), Error> {
    match value {
        Value::Nil => out.push(RedisResult::Nil),
        Value::Int(n) => out.push(RedisResult::Int64(n)),
        Value::BulkString(bytes) => out.push(RedisResult::Binary(bytes)),
        Value::SimpleString(text) => out.push(RedisResult::Status(text)),
        Value::Okay => out.push(RedisResult::Status("OK".to_owned())),
        Value::Double(n) => out.push(RedisResult::Binary(n.to_string().into_bytes())),
        Value::Boolean(b) => out.push(RedisResult::Int64(i64::from(b))),
        Value::Array(values) | Value::Set(values) => {
            for value in values {
                flatten(value, out)?;
            }
        }
        Value::ServerError(error) => return Err(Error::Other(format!("{error:?}"))),
        _ => return Err(Error::TypeError),
    }
    Ok(())
}
