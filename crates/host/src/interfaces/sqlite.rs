//! `spin:sqlite@3.1.0`, synchronous and asynchronous halves alike.

use std::sync::Arc;

use wasmtime::component::{Accessor, FutureReader, HasSelf, Linker, Resource, StreamReader};

use super::Interface;
use crate::bindings::imports::spin::sqlite::sqlite::{self, Error, QueryResult, RowResult, Value};
use crate::database;
use crate::guest::Guest;
use crate::limits;

pub(crate) struct Sqlite;

/// The guest's handle; shared with the calls in flight, so that dropping the resource during an
/// asynchronous call cannot take the connection away from it.
pub struct Connection(Arc<database::Connection>);

impl Interface for Sqlite {
    fn imports(&self) -> &'static [&'static str] {
        &["spin:sqlite/sqlite@3.1"]
    }

    fn link(&self, linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
        sqlite::add_to_linker::<Guest, HasSelf<Guest>>(linker, |guest| guest)
    }
}

impl Guest {
    fn open_database(
        &mut self,
        label: &str,
    ) -> wasmtime::Result<Result<Resource<Connection>, Error>> {
        let app = self.app();
        if !app.databases.iter().any(|allowed| allowed == label) {
            return Ok(Err(Error::AccessDenied));
        }
        let Some(database) = self.shared().databases.get(label) else {
            return Ok(Err(Error::NoSuchDatabase));
        };
        if self.open_databases >= limits::CONNECTIONS_PER_INSTANCE_MAX {
            return Ok(Err(Error::Io(format!(
                "too many connections: close one of the {} this instance has open",
                limits::CONNECTIONS_PER_INSTANCE_MAX
            ))));
        }
        match database::Connection::open(database, self.instance(), &self.seen) {
            Ok(connection) => {
                let handle = self.table.push(Connection(Arc::new(connection)))?;
                self.open_databases += 1;
                Ok(Ok(handle))
            }
            Err(error) => Ok(Err(error)),
        }
    }

    fn connection(
        &self,
        handle: &Resource<Connection>,
    ) -> wasmtime::Result<Arc<database::Connection>> {
        Ok(Arc::clone(&self.table.get(handle)?.0))
    }
}

impl sqlite::Host for Guest {}

impl sqlite::HostConnection for Guest {
    async fn open(
        &mut self,
        label: String,
    ) -> wasmtime::Result<Result<Resource<Connection>, Error>> {
        self.open_database(&label)
    }

    async fn execute(
        &mut self,
        handle: Resource<Connection>,
        statement: String,
        parameters: Vec<Value>,
    ) -> wasmtime::Result<Result<QueryResult, Error>> {
        let connection = self.connection(&handle)?;
        let result = connection.execute(&statement, &parameters, true).await;
        Ok(result.map(|rows| QueryResult {
            columns: rows.columns,
            rows: rows.rows,
        }))
    }

    async fn last_insert_rowid(&mut self, handle: Resource<Connection>) -> wasmtime::Result<i64> {
        Ok(self.connection(&handle)?.last_insert_rowid())
    }

    async fn changes(&mut self, handle: Resource<Connection>) -> wasmtime::Result<u64> {
        Ok(self.connection(&handle)?.changes())
    }

    async fn drop(&mut self, handle: Resource<Connection>) -> wasmtime::Result<()> {
        self.table.delete(handle)?;
        self.open_databases = self.open_databases.saturating_sub(1);
        Ok(())
    }
}

type AsyncRows = (
    Vec<String>,
    StreamReader<RowResult>,
    FutureReader<Result<(), Error>>,
);

impl<T: Send> sqlite::HostConnectionWithStore<T> for HasSelf<Guest> {
    async fn open_async(
        accessor: &Accessor<T, Self>,
        label: String,
    ) -> wasmtime::Result<Result<Resource<Connection>, Error>> {
        accessor.with(|mut access| access.get().open_database(&label))
    }

    async fn execute_async(
        accessor: &Accessor<T, Self>,
        handle: Resource<Connection>,
        statement: String,
        parameters: Vec<Value>,
    ) -> wasmtime::Result<Result<AsyncRows, Error>> {
        let connection = accessor.with(|mut access| access.get().connection(&handle))?;
        // An error here is reported by the call itself; Spin reports it on the future. Both are
        // places a guest has to look at, and this one costs no stream.
        let rows = match connection.execute(&statement, &parameters, false).await {
            Ok(rows) => rows,
            Err(error) => return Ok(Err(error)),
        };
        accessor.with(|mut access| {
            let stream = StreamReader::new(&mut access, rows.rows)?;
            let done = FutureReader::new(&mut access, async { wasmtime::error::Ok(Ok(())) })?;
            Ok(Ok((rows.columns, stream, done)))
        })
    }

    async fn last_insert_rowid_async(
        accessor: &Accessor<T, Self>,
        handle: Resource<Connection>,
    ) -> wasmtime::Result<i64> {
        accessor.with(|mut access| Ok(access.get().connection(&handle)?.last_insert_rowid()))
    }

    async fn changes_async(
        accessor: &Accessor<T, Self>,
        handle: Resource<Connection>,
    ) -> wasmtime::Result<u64> {
        accessor.with(|mut access| Ok(access.get().connection(&handle)?.changes()))
    }
}
