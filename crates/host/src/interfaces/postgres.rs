//! `spin:postgres@4.2.0`, synchronous and asynchronous halves alike.
#![allow(
    clippy::result_large_err,
    reason = "the interface's error carries all that the server said"
)]

use std::sync::Arc;

use innover_failpoint::{Step, hold};
use tokio::sync::Mutex;
use wasmtime::component::{Accessor, FutureReader, HasSelf, Linker, Resource, StreamReader};

use super::Interface;
use crate::bindings::imports::spin::postgres::postgres::{
    self as wit, Column, DbValue, Error, ParameterValue, RowSet,
};
use crate::guest::Guest;
use crate::limits;
use crate::postgres::{Address, Failed, Lease};
use crate::shared::Shared;

pub(crate) struct Postgres;

impl Interface for Postgres {
    fn imports(&self) -> &'static [&'static str] {
        &["spin:postgres/postgres@4"]
    }

    fn link(&self, linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
        wit::add_to_linker::<Guest, HasSelf<Guest>>(linker, |guest| guest)
    }
}

/// The guest's handle; shared with the calls in flight.
pub struct Connection(Arc<Handle>);

struct Handle {
    address: Arc<Address>,
    /// The session that is kept from one statement to the next (see `postgres`). Whoever runs a
    /// statement holds the lock, so that the statements of one connection run one after the other.
    kept: Mutex<Option<Lease>>,
    shared: Arc<Shared>,
    /// Whose commits these are.
    database: Option<Arc<str>>,
}

/// What a connection is made with.
pub struct ConnectionBuilder {
    address: String,
    authority: Option<String>,
}

impl Handle {
    async fn run<T>(
        &self,
        statement: &str,
        work: impl AsyncFnOnce(&mut Lease) -> Result<T, Failed>,
    ) -> Result<T, Error> {
        // Whose rows it may have changed.
        let written = self.database.as_deref();
        let written = written.filter(|_| crate::postgres::writes(statement));
        if let Some(label) = written {
            hold(Step::StatementUnsent, label).await;
        }
        let mut kept = self.kept.lock().await;
        let mut lease = match kept.take() {
            Some(lease) => lease,
            None => self.address.lease().await.map_err(unreachable)?,
        };
        let done = work(&mut lease).await;
        if lease.is_pinned() {
            *kept = Some(lease);
        } else {
            drop(lease);
        }
        if let Some(label) = written
            && done.is_ok()
        {
            self.shared.databases.committed_elsewhere(label);
            hold(Step::StatementUnanswered, label).await;
        }
        done.map_err(Error::from)
    }
}

fn unreachable(error: impl std::fmt::Display) -> Error {
    Error::ConnectionFailed(error.to_string())
}

impl Guest {
    /// The handle of an address the manifest lets the component reach.
    fn postgres(&self, address: &str, authority: Option<&str>) -> Result<Arc<Handle>, Error> {
        let shared = self.shared();
        let resolved = shared
            .postgres
            .address(address, authority)
            .map_err(unreachable)?;
        if !resolved.names_its_hosts() {
            return Err(unreachable(
                "the address has to name its host, and by `host` alone",
            ));
        }
        for host in resolved.hosts() {
            let Some((name, port)) = host else {
                return Err(unreachable("Unix sockets are not open to components"));
            };
            if !self.app().hosts.allows("postgres", name, Some(port)) {
                tracing::warn!(
                    service_name = %self.app().service,
                    "connection to postgres://{name}:{port} denied: add it to allowed_outbound_hosts of component {}",
                    self.app().id
                );
                // Spin's answer.
                return Err(unreachable(format!(
                    "address postgres://{name}:{port} is not permitted"
                )));
            }
        }
        if self.open_databases >= limits::CONNECTIONS_PER_INSTANCE_MAX {
            return Err(unreachable(format!(
                "too many connections: close one of the {} this instance has open",
                limits::CONNECTIONS_PER_INSTANCE_MAX
            )));
        }
        Ok(Arc::new(Handle {
            address: resolved,
            kept: Mutex::default(),
            shared: Arc::clone(shared),
            database: self.app().database.clone(),
        }))
    }

    fn keep_postgres(&mut self, handle: Arc<Handle>) -> wasmtime::Result<Resource<Connection>> {
        let resource = self.table.push(Connection(handle))?;
        self.open_databases += 1;
        Ok(resource)
    }

    fn postgres_of(&self, connection: &Resource<Connection>) -> wasmtime::Result<Arc<Handle>> {
        Ok(Arc::clone(&self.table.get(connection)?.0))
    }

    async fn open_postgres(
        &mut self,
        address: &str,
        authority: Option<&str>,
    ) -> wasmtime::Result<Result<Resource<Connection>, Error>> {
        let handle = match self.postgres(address, authority) {
            Ok(handle) => handle,
            Err(error) => return Ok(Err(error)),
        };
        // An address nobody answers at is told now, as by Spin.
        if let Err(error) = probe(&handle).await {
            return Ok(Err(unreachable(error)));
        }
        Ok(Ok(self.keep_postgres(handle)?))
    }
}

async fn probe(handle: &Handle) -> Result<(), crate::postgres::Unreachable> {
    if !handle.address.has_answered() {
        handle.address.lease().await?;
    }
    Ok(())
}

/// As [`Guest::open_postgres`], while the guest's other tasks go on.
async fn open_async<T: Send>(
    accessor: &Accessor<T, HasSelf<Guest>>,
    address: &str,
    authority: Option<&str>,
) -> wasmtime::Result<Result<Resource<Connection>, Error>> {
    let handle = accessor.with(|mut access| access.get().postgres(address, authority));
    let handle = match handle {
        Ok(handle) => handle,
        Err(error) => return Ok(Err(error)),
    };
    if let Err(error) = probe(&handle).await {
        return Ok(Err(unreachable(error)));
    }
    Ok(Ok(
        accessor.with(|mut access| access.get().keep_postgres(handle))?
    ))
}

impl wit::Host for Guest {}

impl wit::HostConnectionBuilder for Guest {
    async fn new(&mut self, address: String) -> wasmtime::Result<Resource<ConnectionBuilder>> {
        let builder = ConnectionBuilder {
            address,
            authority: None,
        };
        Ok(self.table.push(builder)?)
    }

    async fn set_ca_root(
        &mut self,
        builder: Resource<ConnectionBuilder>,
        certificate: String,
    ) -> wasmtime::Result<Result<(), Error>> {
        self.table.get_mut(&builder)?.authority = Some(certificate);
        Ok(Ok(()))
    }

    async fn build(
        &mut self,
        builder: Resource<ConnectionBuilder>,
    ) -> wasmtime::Result<Result<Resource<Connection>, Error>> {
        let ConnectionBuilder { address, authority } = self.table.get(&builder)?;
        let (address, authority) = (address.clone(), authority.clone());
        self.open_postgres(&address, authority.as_deref()).await
    }

    async fn drop(&mut self, builder: Resource<ConnectionBuilder>) -> wasmtime::Result<()> {
        self.table.delete(builder)?;
        Ok(())
    }
}

impl<T: Send> wit::HostConnectionBuilderWithStore<T> for HasSelf<Guest> {
    async fn build_async(
        accessor: &Accessor<T, Self>,
        builder: Resource<ConnectionBuilder>,
    ) -> wasmtime::Result<Result<Resource<Connection>, Error>> {
        let (address, authority) = accessor.with(|mut access| {
            let ConnectionBuilder { address, authority } = access.get().table.get(&builder)?;
            wasmtime::error::Ok((address.clone(), authority.clone()))
        })?;
        open_async(accessor, &address, authority.as_deref()).await
    }
}

impl wit::HostConnection for Guest {
    async fn open(
        &mut self,
        address: String,
    ) -> wasmtime::Result<Result<Resource<Connection>, Error>> {
        self.open_postgres(&address, None).await
    }

    async fn query(
        &mut self,
        connection: Resource<Connection>,
        statement: String,
        parameters: Vec<ParameterValue>,
    ) -> wasmtime::Result<Result<RowSet, Error>> {
        let handle = self.postgres_of(&connection)?;
        self.seen.on_disk().await;
        Ok(handle
            .run(&statement, async |lease| {
                lease.query(&statement, parameters).await
            })
            .await)
    }

    async fn execute(
        &mut self,
        connection: Resource<Connection>,
        statement: String,
        parameters: Vec<ParameterValue>,
    ) -> wasmtime::Result<Result<u64, Error>> {
        let handle = self.postgres_of(&connection)?;
        self.seen.on_disk().await;
        Ok(handle
            .run(&statement, async |lease| {
                lease.execute(&statement, parameters).await
            })
            .await)
    }

    async fn drop(&mut self, connection: Resource<Connection>) -> wasmtime::Result<()> {
        self.table.delete(connection)?;
        self.open_databases = self.open_databases.saturating_sub(1);
        Ok(())
    }
}

type AsyncRows = (
    Vec<Column>,
    StreamReader<Vec<DbValue>>,
    FutureReader<Result<(), Error>>,
);

impl<T: Send> wit::HostConnectionWithStore<T> for HasSelf<Guest> {
    async fn open_async(
        accessor: &Accessor<T, Self>,
        address: String,
    ) -> wasmtime::Result<Result<Resource<Connection>, Error>> {
        open_async(accessor, &address, None).await
    }

    async fn query_async(
        accessor: &Accessor<T, Self>,
        connection: Resource<Connection>,
        statement: String,
        parameters: Vec<ParameterValue>,
    ) -> wasmtime::Result<Result<AsyncRows, Error>> {
        let handle = prepare(accessor, &connection).await?;
        let rows = handle.run(&statement, async |lease| {
            lease.query(&statement, parameters).await
        });
        // As with SQLite, an error is reported by the call itself.
        let RowSet { columns, rows } = match rows.await {
            Ok(rows) => rows,
            Err(error) => return Ok(Err(error)),
        };
        accessor.with(|mut access| {
            let stream = StreamReader::new(&mut access, rows)?;
            let done = FutureReader::new(&mut access, async { wasmtime::error::Ok(Ok(())) })?;
            Ok(Ok((columns, stream, done)))
        })
    }

    async fn execute_async(
        accessor: &Accessor<T, Self>,
        connection: Resource<Connection>,
        statement: String,
        parameters: Vec<ParameterValue>,
    ) -> wasmtime::Result<Result<u64, Error>> {
        let handle = prepare(accessor, &connection).await?;
        Ok(handle
            .run(&statement, async |lease| {
                lease.execute(&statement, parameters).await
            })
            .await)
    }
}

/// What the guest saw of its files may leave the process from here on.
async fn prepare<T: Send>(
    accessor: &Accessor<T, HasSelf<Guest>>,
    connection: &Resource<Connection>,
) -> wasmtime::Result<Arc<Handle>> {
    let (handle, seen) = accessor.with(|mut access| {
        let guest = access.get();
        let handle = guest.postgres_of(connection)?;
        wasmtime::error::Ok((handle, Arc::clone(&guest.seen)))
    })?;
    seen.on_disk().await;
    Ok(handle)
}
