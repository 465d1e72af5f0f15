//! What guests import from Spin: one file per interface, each an [`Interface`].

pub(crate) mod http;
pub(crate) mod key_value;
pub(crate) mod postgres;
pub(crate) mod redis;
pub(crate) mod sqlite;
pub(crate) mod variables;
pub(crate) mod wasi;

use wasmtime::component::Linker;

use crate::guest::Guest;

/// A group of imports the host offers.
pub(crate) trait Interface: Sync {
    /// The packages or interfaces, as the start of an import's name, for example
    /// `spin:sqlite/sqlite@3.1`.
    fn imports(&self) -> &'static [&'static str];

    /// Makes them available to every component.
    fn link(&self, linker: &mut Linker<Guest>) -> wasmtime::Result<()>;
}

/// Everything a guest may import.
pub(crate) const ALL: [&dyn Interface; 7] = [
    &wasi::Wasi,
    &http::OutboundHttp,
    &sqlite::Sqlite,
    &key_value::KeyValue,
    &variables::Variables,
    &redis::Redis,
    &postgres::Postgres,
];

/// Interfaces of Spin that guests may know of and this host does not have, with what to do.
const LATER: [(&str, &str); 8] = [
    (
        "spin:sqlite/",
        "build the component with spin-sdk 7, which uses version 3.1.0",
    ),
    (
        "spin:postgres/",
        "build the component with spin-sdk 7, which uses version 4.2.0",
    ),
    ("spin:mysql/", "run the application under Spin"),
    ("spin:mqtt/", "run the application under Spin"),
    ("fermyon:spin/llm", "run the application under Spin"),
    (
        "fermyon:spin/",
        "build the component with spin-sdk 7, which uses the spin:* interfaces",
    ),
    (
        "wasi:keyvalue/",
        "use spin:key-value through spin-sdk's key_value module",
    ),
    (
        "wasi:http/outgoing-handler@0.2",
        "build the component with spin-sdk 7 (WASI 0.3)",
    ),
];

/// Why a component that imports `name` cannot be loaded; `None` when it can.
pub(crate) fn missing(name: &str) -> Option<String> {
    let offered = ALL.iter().flat_map(|interface| interface.imports());
    if offered.into_iter().any(|prefix| name.starts_with(prefix)) {
        return None;
    }
    let known = LATER.iter().find(|(prefix, _)| name.starts_with(prefix));
    Some(match known {
        Some((_, advice)) => {
            format!("it imports {name}, which this host does not offer yet: {advice}")
        }
        None => format!(
            "it imports {name}, which this host does not know: remove the import, or supply it as a dependency of the component"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_is_offered_or_named_with_what_to_do() {
        for (name, expected) in [
            ("spin:sqlite/sqlite@3.1.0", None),
            ("wasi:io/streams@0.2.6", None),
            ("wasi:http/types@0.3.0", None),
            ("wasi:http/client@0.3.0", None),
            ("spin:postgres/postgres@4.2.0", None),
            ("spin:postgres/postgres@3.0.0", Some("spin-sdk 7")),
            ("fermyon:spin/llm@2.0.0", Some("under Spin")),
            ("fermyon:spin/sqlite@2.0.0", Some("spin-sdk 7")),
            ("wasi:http/types@0.2.0", Some("does not know")),
            ("acme:thing/x@1.0.0", Some("dependency")),
        ] {
            let found = missing(name);
            assert_eq!(found.is_some(), expected.is_some(), "{name}: {found:?}");
            if let (Some(found), Some(expected)) = (found, expected) {
                assert!(found.contains(expected) && found.contains(name), "{found}");
            }
        }
    }
}
