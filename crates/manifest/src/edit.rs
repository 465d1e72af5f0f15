//! Changes of a manifest's text that keep its comments and layout.

use std::collections::BTreeSet;

use toml_edit::{DocumentMut, Item, TableLike};

use crate::model::{HttpTrigger, Manifest};
use crate::problem::{ManifestError, Problem};

/// See [`Manifest::without_redis_triggers`].
pub(crate) fn without_redis_triggers(toml: &str) -> Result<String, ManifestError> {
    let manifest = Manifest::parse(toml)?;
    let mut document: DocumentMut = toml.parse().map_err(not_toml)?;
    if let Some(triggers) = table_mut(document.get_mut("trigger")) {
        triggers.remove("redis");
    }
    if let Some(application) = table_mut(document.get_mut("application"))
        && let Some(triggers) = table_mut(application.get_mut("trigger"))
    {
        triggers.remove("redis");
        if triggers.is_empty() {
            application.remove("trigger");
        }
    }
    if let Some(components) = table_mut(document.get_mut("component")) {
        for id in only_used_by_redis(&manifest) {
            components.remove(id);
        }
    }
    Ok(document.to_string())
}

/// See [`Manifest::without_sqlite_databases`].
pub(crate) fn without_sqlite_databases(toml: &str) -> Result<String, ManifestError> {
    Manifest::parse(toml)?;
    let mut document: DocumentMut = toml.parse().map_err(not_toml)?;
    if let Some(components) = table_mut(document.get_mut("component")) {
        for (_, component) in components.iter_mut() {
            if let Some(component) = component.as_table_like_mut() {
                component.remove("sqlite_databases");
            }
        }
    }
    Ok(document.to_string())
}

fn only_used_by_redis(manifest: &Manifest) -> BTreeSet<&str> {
    let mut ids: BTreeSet<&str> = manifest
        .redis_triggers
        .iter()
        .map(|trigger| trigger.component.as_str())
        .collect();
    let by_http = manifest.http_triggers.iter().filter_map(component_of);
    let by_others = manifest
        .other_triggers
        .iter()
        .flat_map(|trigger| trigger.components.iter().map(String::as_str));
    for used in by_http
        .chain(by_others)
        .chain(manifest.plugged_components())
    {
        ids.remove(used);
    }
    ids
}

fn component_of(trigger: &HttpTrigger) -> Option<&str> {
    trigger.component.as_deref()
}

fn table_mut(item: Option<&mut Item>) -> Option<&mut dyn TableLike> {
    item.and_then(Item::as_table_like_mut)
}

/// `Manifest::parse` has read the same text, so this is a difference between two TOML readers.
fn not_toml(error: toml_edit::TomlError) -> ManifestError {
    ManifestError {
        problems: vec![Problem {
            line: 1,
            path: String::new(),
            text: format!("not TOML: {}", error.message()),
        }],
    }
}
