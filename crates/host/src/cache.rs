//! Compiled modules on disk, so that a second start does not compile.
//!
//! An entry is named by the SHA-256 of the component's bytes and a hash of everything in the engine
//! that machine code depends on. Next to it lies the SHA-256 of the machine code: loading trusts the
//! file, so one that was cut short or changed by accident must be recognised and replaced.

use std::fs::{self, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

/// A folder of compiled components.
pub(crate) struct ModuleCache {
    folder: PathBuf,
}

/// Whether a component came from the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Cached,
    Compiled,
}

impl ModuleCache {
    pub(crate) fn open(folder: &Path) -> anyhow::Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .with_context(|| format!("cannot make the module cache {}", folder.display()))?;
        Ok(Self {
            folder: folder.to_owned(),
        })
    }

    /// The component compiled from `wasm`. A cache that cannot be read or written costs time, never
    /// the start.
    pub(crate) fn load(&self, engine: &Engine, wasm: &[u8]) -> anyhow::Result<(Component, Origin)> {
        let entry = self
            .folder
            .join(format!("{}-{:016x}.cwasm", hex(wasm), engine_hash(engine)));
        if let Some(component) = read(engine, &entry) {
            return Ok((component, Origin::Cached));
        }
        let component = Component::new(engine, wasm).map_err(|error| anyhow!("{error:#}"))?;
        let cached = component
            .serialize()
            .map_err(|error| anyhow!("{error:#}"))
            .and_then(|code| self.write(&entry, &code));
        match cached {
            // From here on the file backs the machine code, as after every later start.
            Ok(()) => match read(engine, &entry) {
                Some(mapped) => return Ok((mapped, Origin::Compiled)),
                None => tracing::warn!("compiled module was written but does not load"),
            },
            Err(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "compiled module is not cached"
                );
            }
        }
        Ok((component, Origin::Compiled))
    }

    fn write(&self, entry: &Path, code: &[u8]) -> anyhow::Result<()> {
        // The digest first: code without it is recompiled, a digest without code is nothing.
        self.put(&digest_path(entry), hex(code).as_bytes())?;
        self.put(entry, code)
    }

    /// Temporary file and rename, so that no reader sees half a file.
    fn put(&self, path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
        let temporary = self.folder.join(format!(".{}.tmp", uuid::Uuid::now_v7()));
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .and_then(|mut file| file.write_all(bytes))
            .and_then(|()| fs::rename(&temporary, path));
        if written.is_err() {
            // What is left of it would only take space; the error of interest is the first one.
            let _ = fs::remove_file(&temporary);
        }
        written.with_context(|| format!("cannot write {}", path.display()))
    }
}

fn read(engine: &Engine, entry: &Path) -> Option<Component> {
    let code = fs::read(entry).ok()?;
    let digest = fs::read_to_string(digest_path(entry)).ok()?;
    if digest != hex(&code) {
        tracing::warn!(entry = %entry.display(), "cached module is damaged, compiling it again");
        return None;
    }
    drop(code);
    // SAFETY: the file is machine code this host wrote into a folder only its user may write to,
    // under a name that holds the engine's configuration, and its digest was just checked.
    match unsafe { Component::deserialize_file(engine, entry) } {
        Ok(component) => Some(component),
        Err(error) => {
            tracing::warn!(
                error = format!("{error:#}"),
                "cached module does not load, compiling it again"
            );
            None
        }
    }
}

fn digest_path(entry: &Path) -> PathBuf {
    entry.with_extension("sha256")
}

fn engine_hash(engine: &Engine) -> u64 {
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hasher.finish()
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(bytes)
        .iter()
        .fold(String::with_capacity(64), |mut out, byte| {
            // Writing to a String cannot fail.
            let _ = write!(out, "{byte:02x}");
            out
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An empty component: enough to compile, store and load.
    const EMPTY: &[u8] = &[0x00, 0x61, 0x73, 0x6d, 0x0d, 0x00, 0x01, 0x00];

    #[test]
    fn a_second_load_comes_from_the_cache_and_a_damaged_entry_is_compiled_again() {
        let folder = tempfile::tempdir().unwrap();
        let cache = ModuleCache::open(&folder.path().join("a/b")).unwrap();
        let engine = crate::engine::new(1 << 20).unwrap();
        let origin = || cache.load(&engine, EMPTY).unwrap().1;
        assert_eq!(origin(), Origin::Compiled);
        assert_eq!(origin(), Origin::Cached);
        let entry = fs::read_dir(folder.path().join("a/b"))
            .unwrap()
            .map(|file| file.unwrap().path())
            .find(|path| path.extension().is_some_and(|e| e == "cwasm"))
            .unwrap();
        let mut code = fs::read(&entry).unwrap();
        let middle = code.len() / 2;
        code[middle] ^= 1;
        fs::write(&entry, code).unwrap();
        assert_eq!(origin(), Origin::Compiled);
        assert_eq!(origin(), Origin::Cached);
    }
}
