//! The manifest as it is printed for other places: without Redis triggers, without SQLite.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use innover_manifest::Manifest;

#[test]
fn redis_triggers_and_what_only_they_use_go_and_all_else_stays_as_written() {
    let toml = r#"# The whole application.
spin_manifest_version = 2

[application]
name = "x" # its name

# Where messages come from.
[application.trigger.redis]
address = "{{ redis_url }}"

[variables]
redis_url = { default = "redis://127.0.0.1:6379" }

# The door.
[[trigger.http]]
route = "/..."
component = "both"

[[trigger.redis]]
channel = "a"
component = "tasks"

# Second channel.
[[trigger.redis]]
channel = "b"
component = "both"

[[trigger.redis]]
channel = "c"
component = "plug"

# Takes messages only.
[component.tasks]
source = "tasks.wasm"
[component.tasks.build]
command = "make tasks"

# Takes both.
[component.both]
source = "both.wasm" # stays
dependencies = { "a:b/c" = { component = "plug" } }

[component.plug]
source = "plug.wasm"
# The end.
"#;
    let expected = r#"# The whole application.
spin_manifest_version = 2

[application]
name = "x" # its name

[variables]
redis_url = { default = "redis://127.0.0.1:6379" }

# The door.
[[trigger.http]]
route = "/..."
component = "both"

# Takes both.
[component.both]
source = "both.wasm" # stays
dependencies = { "a:b/c" = { component = "plug" } }

[component.plug]
source = "plug.wasm"
# The end.
"#;
    let printed = Manifest::without_redis_triggers(toml).unwrap();
    assert_eq!(printed, expected);
    let manifest = Manifest::parse(&printed).unwrap();
    assert!(manifest.redis_triggers.is_empty());
    assert_eq!(manifest.application.redis_address, None);
    // Once they are gone there is nothing left to do.
    assert_eq!(
        Manifest::without_redis_triggers(&printed).unwrap(),
        expected
    );
}

#[test]
fn inline_forms_are_cut_too_and_other_trigger_settings_stay() {
    let toml = r#"spin_manifest_version = 2
application = { name = "x", trigger = { redis = { address = "redis://r.test" }, http = { base = "/" } } }
trigger.http = [{ route = "/", component = { source = "a.wasm" } }]
trigger.redis = [{ channel = "c", component = { source = "b.wasm" } }]
"#;
    let printed = Manifest::without_redis_triggers(toml).unwrap();
    assert!(!printed.contains("redis"), "{printed}");
    let manifest = Manifest::parse(&printed).unwrap();
    assert_eq!(manifest.application.http_base.as_deref(), Some("/"));
    assert_eq!(manifest.components.len(), 1);
}

#[test]
fn a_manifest_that_is_wrong_is_not_printed() {
    let error = Manifest::without_redis_triggers("spin_manifest_version = 2").unwrap_err();
    assert!(
        error.to_string().contains("`application` is missing"),
        "{error}"
    );
}

#[test]
fn the_application_without_sqlite_is_the_same_in_everything_else() {
    let toml = include_str!("../../../spin.toml");
    let printed = Manifest::without_sqlite_databases(toml).unwrap();
    let (before, after) = (
        Manifest::parse(toml).unwrap(),
        Manifest::parse(&printed).unwrap(),
    );
    assert!(
        before
            .components
            .values()
            .any(|c| !c.sqlite_databases.is_empty())
    );
    assert!(after.warnings.is_empty(), "{:?}", after.warnings);
    for (id, component) in &after.components {
        assert!(component.sqlite_databases.is_empty(), "{id}");
        assert_eq!(
            component.innover.database, before.components[id].innover.database,
            "{id}"
        );
        assert_eq!(
            component.variables.len(),
            before.components[id].variables.len()
        );
    }
}
