//! The application on disk: spin.toml and what its paths are relative to.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use innover_manifest::{Component, DependencySource, Manifest};

/// A parsed spin.toml.
pub struct App {
    pub manifest: Manifest,
    /// The folder its paths are relative to.
    pub base: PathBuf,
    /// Its text, for `innover manifest`.
    pub text: String,
    pub file: PathBuf,
}

/// A component's compiled file.
pub struct Wasm<'a> {
    pub component: &'a str,
    pub path: PathBuf,
}

impl App {
    pub fn load(file: &Path) -> Result<App> {
        let text = std::fs::read_to_string(file).with_context(|| {
            format!(
                "cannot read {}; run this in the project's folder, or name the file with --manifest",
                file.display()
            )
        })?;
        let manifest =
            Manifest::parse(&text).with_context(|| format!("{} is not right", file.display()))?;
        let folder = file
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        let base = folder
            .unwrap_or(Path::new("."))
            .canonicalize()
            .context("the manifest's folder is gone")?;
        Ok(App {
            manifest,
            base,
            text,
            file: file.to_owned(),
        })
    }

    /// The compiled file of every component that has one, and files plugged into it by their path.
    pub fn wasm_files(&self) -> Vec<Wasm<'_>> {
        let files = self.manifest.components.iter().flat_map(|(id, component)| {
            let dependencies = component.dependencies.values();
            let plugged = dependencies.filter_map(|dependency| match &dependency.source {
                DependencySource::Path(path) => Some(path.as_path()),
                _ => None,
            });
            let files = component.source.path().into_iter().chain(plugged);
            files.map(|file| Wasm {
                component: id,
                path: self.base.join(file),
            })
        });
        files.collect()
    }

    /// Every component's file is there, or the error says how to get it.
    pub fn check_built(&self) -> Result<()> {
        let missing: Vec<_> = self
            .wasm_files()
            .into_iter()
            .filter(|wasm| !wasm.path.is_file())
            .map(|wasm| wasm.component.to_owned())
            .collect();
        if !missing.is_empty() {
            bail!(
                "not built yet: {}. `make up` builds what is missing and then starts; `tools/build` only builds",
                missing.join(", ")
            );
        }
        Ok(())
    }

    /// A component's name as a service: in tokens, queues and the source of its events.
    pub fn service_name<'a>(&'a self, id: &'a str) -> &'a str {
        self.manifest
            .components
            .get(id)
            .map_or(id, |c| c.innover.service_name(id))
    }

    /// The component whose secrets the variable `keyring_<name>` carries.
    pub fn keyring_owner(&self, variable: &str) -> Option<(&str, &Component)> {
        let name = variable.strip_prefix("keyring_")?;
        self.manifest
            .components
            .iter()
            .find(|(id, _)| id.replace('-', "_") == name)
            .map(|(id, component)| (id.as_str(), component))
    }

    /// Names that need a secret: every component with a keyring, and the bridge.
    pub fn secret_names(&self) -> Vec<String> {
        let owners = self
            .manifest
            .variables
            .keys()
            .filter_map(|name| self.keyring_owner(name));
        owners
            .map(|(id, component)| component.innover.service_name(id).to_owned())
            .chain([crate::keys::BRIDGE.to_owned()])
            .collect()
    }

    /// The labels of all SQLite databases, once each.
    pub fn database_labels(&self) -> Vec<&str> {
        let mut labels: Vec<_> = self
            .manifest
            .components
            .values()
            .flat_map(|component| component.sqlite_databases.iter().map(String::as_str))
            .collect();
        labels.sort_unstable();
        labels.dedup();
        labels
    }
}

#[cfg(test)]
pub mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
    use super::*;

    /// The project's own application.
    pub fn own() -> App {
        App::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../spin.toml")).unwrap()
    }

    #[test]
    fn every_keyring_variable_of_the_application_has_an_owner() {
        let app = own();
        let names = app.secret_names();
        for name in app
            .manifest
            .variables
            .keys()
            .filter(|name| name.starts_with("keyring_"))
        {
            let (id, _) = app.keyring_owner(name).unwrap();
            assert!(names.iter().any(|known| known == app.service_name(id)));
        }
        assert!(names.contains(&"bridge".to_owned()));
    }

    #[test]
    fn a_missing_manifest_says_what_to_do() {
        let error = format!("{:#}", App::load(Path::new("no/spin.toml")).err().unwrap());
        assert!(error.contains("--manifest"), "{error}");
    }
}
