//! `[component.<id>]`, its sources, dependencies, build and profiles.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::imports::ImportName;
use crate::innover::{self, InnoverTool};
use crate::model::{
    Build, Component, Dependency, DependencySource, FilesMount, Inherit, Profile, Source,
};
use crate::names;
use crate::reader::{Node, Table};
use crate::schema::Reading;

/// The kinds of permission a dependency may inherit.
const INHERITABLE: [&str; 7] = [
    "ai_models",
    "allowed_outbound_hosts",
    "environment",
    "files",
    "key_value_stores",
    "sqlite_databases",
    "variables",
];

pub(crate) fn read<'a>(
    reading: &mut Reading<'a>,
    id: &str,
    mut table: Table<'a>,
) -> Option<Component> {
    let source = table
        .required(
            "source",
            "source = \"target/wasm32-wasip2/release/wallet.wasm\"",
        )
        .and_then(|node| read_source(&node));
    let variables = table.get("variables").and_then(|node| node.table());
    let variables = variables.map(|table| {
        let read = |(name, node): (String, Node<'a>)| {
            if let Err(reason) = names::lower_snake(&name) {
                node.place.report(reason);
            }
            Some((name, reading.template(&node)?))
        };
        table.entries().into_iter().filter_map(read).collect()
    });
    let hosts = table.get("allowed_outbound_hosts");
    let hosts = hosts.map(|node| node.items()).unwrap_or_default();
    let allowed_outbound_hosts = hosts
        .iter()
        .filter_map(|node| {
            let template = reading.template(node)?;
            let entry = (node.place.clone(), id.to_owned(), template.clone());
            reading.later.hosts.push(entry);
            Some(template)
        })
        .collect();
    if let Some(old) = table.get("allowed_http_hosts") {
        old.place.report(
            "is the form of manifest version 1; write `allowed_outbound_hosts = [\"https://api.example.com\"]`",
        );
    }
    let inherit_all = table.get("dependencies_inherit_configuration");
    let inherit_all = inherit_all.and_then(|node| node.boolean());
    let dependencies = read_dependencies(reading, inherit_all, &mut table);
    let mut component = Component {
        source: source.unwrap_or_else(|| Source::Path(PathBuf::new())),
        description: table.string("description").unwrap_or_default(),
        variables: variables.unwrap_or_default(),
        environment: table.string_map("environment"),
        files: read_files(&mut table),
        exclude_files: table.strings("exclude_files"),
        allowed_outbound_hosts,
        key_value_stores: read_labels(&mut table, "key_value_stores"),
        sqlite_databases: read_labels(&mut table, "sqlite_databases"),
        ai_models: table.strings("ai_models"),
        dependencies,
        build: table
            .get("build")
            .and_then(|node| node.table())
            .and_then(read_build),
        profiles: read_profiles(reading, &mut table),
        innover: InnoverTool::default(),
    };
    read_targets(&mut table);
    let mut tool = None;
    read_tool(&mut table, |table| tool = Some(table));
    if let Some(tool) = tool {
        component.innover = innover::read(reading, id, &component.sqlite_databases, tool);
    }
    table.finish();
    Some(component)
}

/// `targets`: only `spin build` looks at them, so their form alone is checked.
pub(crate) fn read_targets(table: &mut Table<'_>) {
    let targets = table.get("targets").map(|node| node.items());
    for target in targets.unwrap_or_default() {
        if target.is_table()
            && let Some(mut table) = target.table()
        {
            if table.string("url").is_some() == table.string("path").is_some() {
                table.place.report("needs either `url` or `path`");
            }
            table.finish();
        } else {
            target.string();
        }
    }
}

/// `tool`: what belongs to others is theirs, what belongs to us is given to `own`.
pub(crate) fn read_tool<'a>(table: &mut Table<'a>, own: impl FnOnce(Table<'a>)) {
    let Some(mut tools) = table.get("tool").and_then(|node| node.table()) else {
        return;
    };
    if let Some(innover) = tools.get("innover").and_then(|node| node.table()) {
        own(innover);
    }
}

fn read_labels(table: &mut Table<'_>, key: &'static str) -> Vec<String> {
    table
        .get(key)
        .map(|node| node.names(names::label))
        .unwrap_or_default()
}

fn read_source(node: &Node<'_>) -> Option<Source> {
    if !node.is_table() {
        return node.string().map(|path| Source::Path(path.into()));
    }
    let mut table = node.table()?;
    let source = if table.has("url") {
        let url = table.string("url");
        let digest = read_digest(&mut table);
        url.zip(digest)
            .map(|(url, digest)| Source::Url { url, digest })
    } else if table.has("package") || table.has("registry") {
        let registry = table.string("registry");
        let package = table.required("package", "package = \"acme:wallet\"");
        let package = package.and_then(|node| node.string());
        let version = table.required("version", "version = \"1.0.0\"");
        let version = version.and_then(|node| node.string());
        package
            .zip(version)
            .map(|(package, version)| Source::Registry {
                registry,
                package,
                version,
            })
    } else {
        table
            .place
            .report("must be a path, `{ url, digest }` or `{ registry, package, version }`");
        return None;
    };
    table.finish();
    source
}

fn read_digest(table: &mut Table<'_>) -> Option<String> {
    let node = table.required("digest", "digest = \"sha256:…\"")?;
    let digest = node.string()?;
    let hex = digest.strip_prefix("sha256:").unwrap_or_default();
    if hex.len() != 64 || !hex.chars().all(|c| c.is_ascii_hexdigit()) {
        node.place
            .report("must be `sha256:` and 64 hexadecimal digits");
    }
    Some(digest)
}

fn read_files(table: &mut Table<'_>) -> Vec<FilesMount> {
    let mut files = Vec::new();
    let items = table.get("files").map(|node| node.items());
    for item in items.unwrap_or_default() {
        if !item.is_table() {
            files.extend(item.string().map(FilesMount::Pattern));
            continue;
        }
        let Some(mut mount) = item.table() else {
            continue;
        };
        let source = mount.required("source", "source = \"assets\"");
        let destination = mount.required("destination", "destination = \"/\"");
        let source = source.and_then(|node| node.string());
        let destination = destination.and_then(|node| node.string());
        mount.finish();
        if let Some((source, destination)) = source.zip(destination) {
            files.push(FilesMount::Placement {
                source,
                destination,
            });
        }
    }
    files
}

fn read_build(mut table: Table<'_>) -> Option<Build> {
    let command = table
        .required("command", "command = \"cargo build\"")
        .map(|node| read_commands(&node));
    let build = Build {
        command: command.unwrap_or_default(),
        workdir: table.string("workdir").map(PathBuf::from),
        watch: table.strings("watch"),
    };
    table.finish();
    Some(build)
}

fn read_commands(node: &Node<'_>) -> Vec<String> {
    if node.is_array() {
        node.strings()
    } else {
        node.string().into_iter().collect()
    }
}

fn read_profiles<'a>(
    reading: &mut Reading<'a>,
    table: &mut Table<'a>,
) -> BTreeMap<String, Profile> {
    let profiles = table.get("profile").and_then(|node| node.table());
    let mut read = BTreeMap::new();
    for (name, node) in profiles.map(|table| table.entries()).unwrap_or_default() {
        let Some(mut table) = node.table() else {
            continue;
        };
        let build = table.get("build").and_then(|node| node.table());
        let build_command = build.and_then(|mut table| {
            let command = table.required("command", "command = \"cargo build\"");
            table.finish();
            command.map(|node| read_commands(&node))
        });
        let profile = Profile {
            source: table.get("source").and_then(|node| read_source(&node)),
            environment: table.string_map("environment"),
            dependencies: read_dependencies(reading, None, &mut table),
            build_command,
        };
        table.finish();
        read.insert(name, profile);
    }
    read
}

fn read_dependencies<'a>(
    reading: &mut Reading<'a>,
    inherit_all: Option<bool>,
    table: &mut Table<'a>,
) -> BTreeMap<String, Dependency> {
    let dependencies = table.get("dependencies").and_then(|node| node.table());
    let mut read: BTreeMap<String, Dependency> = BTreeMap::new();
    for (name, node) in dependencies
        .map(|table| table.entries())
        .unwrap_or_default()
    {
        let parsed = ImportName::parse(&name);
        if let Err(reason) = &parsed {
            node.place.report(reason.as_str());
        }
        let Some(dependency) = read_dependency(reading, inherit_all, &node) else {
            continue;
        };
        if let Ok(import) = &parsed {
            import.check(&node, &dependency);
            let earlier = read.keys().filter_map(|name| ImportName::parse(name).ok());
            for other in earlier.filter(|other| other.overlaps(import)) {
                node.place.report(format!(
                    "satisfies imports that `{}` satisfies too; name different interfaces or versions",
                    other.text
                ));
            }
        }
        read.insert(name, dependency);
    }
    read
}

/// One dependency. `inherit_all` is `dependencies_inherit_configuration` of the component.
pub(crate) fn read_dependency<'a>(
    reading: &mut Reading<'a>,
    inherit_all: Option<bool>,
    node: &Node<'a>,
) -> Option<Dependency> {
    let inherit = match inherit_all {
        Some(true) => Inherit::All,
        _ => Inherit::None,
    };
    if !node.is_table() {
        let source = read_requirement(node).map(|version| DependencySource::Registry {
            version,
            registry: None,
            package: None,
        });
        return Some(Dependency {
            source: source?,
            export: None,
            inherit,
        });
    }
    let mut table = node.table()?;
    let export = table.string("export");
    let own_inherit = table.get("inherit_configuration");
    if let (Some(own), Some(_)) = (&own_inherit, inherit_all) {
        own.place.report(
            "cannot be used together with the component's `dependencies_inherit_configuration`; remove one",
        );
    }
    let source = read_dependency_source(reading, &mut table);
    table.finish();
    Some(Dependency {
        source: source?,
        export,
        inherit: own_inherit.map_or(inherit, |node| read_inherit(&node)),
    })
}

fn read_dependency_source<'a>(
    reading: &mut Reading<'a>,
    table: &mut Table<'a>,
) -> Option<DependencySource> {
    if let Some(node) = table.get("component") {
        let id = node.string()?;
        if reading.known_component(&node, &id) {
            reading.later.plugged.push((node.place, id.clone()));
        }
        return Some(DependencySource::Component(id));
    }
    if let Some(path) = table.get("path") {
        return path
            .string()
            .map(|path| DependencySource::Path(path.into()));
    }
    if let Some(url) = table.get("url") {
        let digest = read_digest(table);
        return Some(DependencySource::Url {
            url: url.string()?,
            digest: digest?,
        });
    }
    let registry = table.string("registry");
    let package = table.string("package");
    let version = table.required(
        "version",
        "component = \"<id>\"`, `path = \"…\"`, `url = \"…\"` or `version = \"1.0\"",
    );
    Some(DependencySource::Registry {
        version: read_requirement(&version?)?,
        registry,
        package,
    })
}

fn read_requirement(node: &Node<'_>) -> Option<String> {
    let version = node.string()?;
    if let Err(error) = semver::VersionReq::parse(&version) {
        node.place
            .report(format!("`{version}` is no version requirement: {error}"));
    }
    Some(version)
}

fn read_inherit(node: &Node<'_>) -> Inherit {
    if node.is_bool() {
        return match node.boolean() {
            Some(true) => Inherit::All,
            _ => Inherit::None,
        };
    }
    let mut only = Vec::new();
    for item in node.items() {
        let Some(kind) = item.string() else { continue };
        if !INHERITABLE.contains(&kind.as_str()) {
            let known = INHERITABLE.join("`, `");
            item.place.report(format!(
                "`{kind}` cannot be inherited; use some of `{known}`"
            ));
        }
        only.push(kind);
    }
    Inherit::Only(only)
}
