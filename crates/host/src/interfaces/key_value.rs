//! `spin:key-value@3.0.0`, in a SQLite file laid out as Spin's own, or in Redis.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use redis::AsyncCommands;
use rusqlite::{Connection, OptionalExtension, params};
use wasmtime::component::{Accessor, FutureReader, HasSelf, Linker, Resource, StreamReader};

use super::Interface;
use super::redis::Servers;
use crate::bindings::imports::spin::key_value::key_value::{self, Error};
use crate::config::KeyValueStore;
use crate::database::Seen;
use crate::guest::Guest;
use crate::limits;
use crate::shared::Shared;

pub(crate) struct KeyValue;

impl Interface for KeyValue {
    fn imports(&self) -> &'static [&'static str] {
        &["spin:key-value/key-value@3"]
    }

    fn link(&self, linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
        key_value::add_to_linker::<Guest, HasSelf<Guest>>(linker, |guest| guest)
    }
}

/// All stores of the application, by label.
pub(crate) struct Stores {
    by_label: HashMap<String, Backend>,
}

#[derive(Clone)]
enum Backend {
    File {
        label: Arc<str>,
        file: Arc<Mutex<Connection>>,
    },
    Redis(Arc<str>),
}

impl Stores {
    pub(crate) fn open(stores: &BTreeMap<String, KeyValueStore>) -> anyhow::Result<Self> {
        // Several labels may share one file, and then share its connection.
        let mut files: HashMap<&PathBuf, Arc<Mutex<Connection>>> = HashMap::new();
        let mut by_label = HashMap::new();
        for (label, store) in stores {
            let backend = match store {
                KeyValueStore::Redis(url) => Backend::Redis(url.as_str().into()),
                KeyValueStore::File(path) => {
                    let file = match files.get(path) {
                        Some(file) => Arc::clone(file),
                        None => {
                            let file = open_file(path).with_context(|| {
                                format!("key-value store {label}: cannot open {}", path.display())
                            })?;
                            Arc::clone(files.entry(path).or_insert(Arc::new(Mutex::new(file))))
                        }
                    };
                    Backend::File {
                        label: label.as_str().into(),
                        file,
                    }
                }
            };
            by_label.insert(label.clone(), backend);
        }
        Ok(Self { by_label })
    }
}

fn open_file(path: &Path) -> anyhow::Result<Connection> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let file = Connection::open(path)?;
    file.busy_timeout(limits::DATABASE_LOCK_WAIT)?;
    file.execute_batch(
        "PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         CREATE TABLE IF NOT EXISTS spin_key_value (
             store TEXT NOT NULL,
             key TEXT NOT NULL,
             value BLOB NOT NULL,
             PRIMARY KEY (store, key)
         );",
    )?;
    Ok(file)
}

/// The guest's handle of a store.
#[derive(Clone)]
pub struct Store(Backend);

type FileResult<T> = rusqlite::Result<T>;

impl Store {
    fn file<T>(
        label: &str,
        file: &Mutex<Connection>,
        work: impl FnOnce(&Connection, &str) -> FileResult<T>,
    ) -> Result<T, Error> {
        let file = file.lock().unwrap_or_else(PoisonError::into_inner);
        work(&file, label).map_err(|error| Error::Other(error.to_string()))
    }

    async fn get(&self, servers: &Servers, key: &str) -> Result<Option<Vec<u8>>, Error> {
        match &self.0 {
            Backend::File { label, file } => Self::file(label, file, |file, store| {
                file.prepare_cached(
                    "SELECT value FROM spin_key_value WHERE store = ?1 AND key = ?2",
                )?
                .query_row(params![store, key], |row| row.get(0))
                .optional()
            }),
            Backend::Redis(url) => servers
                .with(url, |mut redis| async move { redis.get(key).await })
                .await
                .map_err(other),
        }
    }

    async fn set(&self, servers: &Servers, key: &str, value: &[u8]) -> Result<(), Error> {
        match &self.0 {
            Backend::File { label, file } => Self::file(label, file, |file, store| {
                file.prepare_cached(
                    "INSERT INTO spin_key_value (store, key, value) VALUES (?1, ?2, ?3)
                     ON CONFLICT (store, key) DO UPDATE SET value = excluded.value",
                )?
                .execute(params![store, key, value])
                .map(drop)
            }),
            Backend::Redis(url) => servers
                .with(url, |mut redis| async move { redis.set(key, value).await })
                .await
                .map_err(other),
        }
    }

    async fn delete(&self, servers: &Servers, key: &str) -> Result<(), Error> {
        match &self.0 {
            Backend::File { label, file } => Self::file(label, file, |file, store| {
                file.prepare_cached("DELETE FROM spin_key_value WHERE store = ?1 AND key = ?2")?
                    .execute(params![store, key])
                    .map(drop)
            }),
            Backend::Redis(url) => servers
                .with(url, |mut redis| async move { redis.del(key).await })
                .await
                .map_err(other),
        }
    }

    async fn exists(&self, servers: &Servers, key: &str) -> Result<bool, Error> {
        match &self.0 {
            Backend::File { .. } => Ok(self.get(servers, key).await?.is_some()),
            Backend::Redis(url) => servers
                .with(url, |mut redis| async move { redis.exists(key).await })
                .await
                .map_err(other),
        }
    }

    async fn keys(&self, servers: &Servers) -> Result<Vec<String>, Error> {
        match &self.0 {
            Backend::File { label, file } => Self::file(label, file, |file, store| {
                file.prepare_cached("SELECT key FROM spin_key_value WHERE store = ?1")?
                    .query_map(params![store], |row| row.get(0))?
                    .collect()
            }),
            Backend::Redis(url) => servers
                .with(url, |mut redis| async move { redis.keys("*").await })
                .await
                .map_err(other),
        }
    }
}

fn other(error: impl std::fmt::Display) -> Error {
    Error::Other(error.to_string())
}

impl key_value::Host for Guest {}

impl key_value::HostStore for Guest {
    async fn drop(&mut self, handle: Resource<Store>) -> wasmtime::Result<()> {
        self.table.delete(handle)?;
        Ok(())
    }
}

/// The store behind `handle` and what it needs to reach its server, once all that the instance may
/// put there is on disk itself.
async fn lookup<T: Send>(
    accessor: &Accessor<T, HasSelf<Guest>>,
    handle: &Resource<Store>,
) -> wasmtime::Result<(Store, Arc<Shared>)> {
    let (store, shared, seen) = accessor.with(|mut access| {
        let guest = access.get();
        let store = guest.table.get(handle)?.clone();
        let (shared, seen) = (Arc::clone(guest.shared()), Arc::clone(&guest.seen));
        wasmtime::error::Ok::<(Store, Arc<Shared>, Arc<Seen>)>((store, shared, seen))
    })?;
    seen.on_disk().await;
    Ok((store, shared))
}

impl<T: Send> key_value::HostStoreWithStore<T> for HasSelf<Guest> {
    async fn open(
        accessor: &Accessor<T, Self>,
        label: String,
    ) -> wasmtime::Result<Result<Resource<Store>, Error>> {
        accessor.with(|mut access| {
            let guest = access.get();
            if !guest.app().stores.contains(&label) {
                return Ok(Err(Error::AccessDenied));
            }
            let Some(backend) = guest.shared().stores.by_label.get(&label).cloned() else {
                return Ok(Err(Error::NoSuchStore));
            };
            Ok(Ok(guest.table.push(Store(backend))?))
        })
    }

    async fn get(
        accessor: &Accessor<T, Self>,
        handle: Resource<Store>,
        key: String,
    ) -> wasmtime::Result<Result<Option<Vec<u8>>, Error>> {
        let (store, shared) = lookup(accessor, &handle).await?;
        Ok(store.get(&shared.redis, &key).await)
    }

    async fn set(
        accessor: &Accessor<T, Self>,
        handle: Resource<Store>,
        key: String,
        value: Vec<u8>,
    ) -> wasmtime::Result<Result<(), Error>> {
        let (store, shared) = lookup(accessor, &handle).await?;
        Ok(store.set(&shared.redis, &key, &value).await)
    }

    async fn delete(
        accessor: &Accessor<T, Self>,
        handle: Resource<Store>,
        key: String,
    ) -> wasmtime::Result<Result<(), Error>> {
        let (store, shared) = lookup(accessor, &handle).await?;
        Ok(store.delete(&shared.redis, &key).await)
    }

    async fn exists(
        accessor: &Accessor<T, Self>,
        handle: Resource<Store>,
        key: String,
    ) -> wasmtime::Result<Result<bool, Error>> {
        let (store, shared) = lookup(accessor, &handle).await?;
        Ok(store.exists(&shared.redis, &key).await)
    }

    async fn get_keys(
        accessor: &Accessor<T, Self>,
        handle: Resource<Store>,
    ) -> wasmtime::Result<(StreamReader<String>, FutureReader<Result<(), Error>>)> {
        let (store, shared) = lookup(accessor, &handle).await?;
        let (keys, end) = match store.keys(&shared.redis).await {
            Ok(keys) => (keys, Ok(())),
            Err(error) => (Vec::new(), Err(error)),
        };
        accessor.with(|mut access| {
            let keys = StreamReader::new(&mut access, keys)?;
            let end = FutureReader::new(&mut access, async { wasmtime::error::Ok(end) })?;
            Ok((keys, end))
        })
    }
}
