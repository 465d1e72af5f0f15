//! Every built component against the world it claims in `wit/` and against what `spin.toml` lets it
//! do: nothing private is imported (the same .wasm has to run on stock Spin), nothing is used that is
//! not permitted, and nothing is permitted that cannot be used. The .wasm files come from
//! `tools/build`, which `make test` runs first.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use innover_manifest::{Component, DependencySource, Manifest, satisfies};
use wit_component::DecodedWasm;
use wit_parser::{Resolve, WorldId, WorldItem, WorldKey};

/// An import or export: its name without the version, e.g. `wasi:cli/stdin`.
#[derive(Clone, Debug)]
struct Interface {
    name: String,
    version: Option<semver::Version>,
    /// False when only types are taken over: then no call, and so no permission, is involved.
    callable: bool,
}

impl Interface {
    /// A host that offers `self` serves a component built for `wanted`: the same interface, the same
    /// compatible range, and not newer than what is offered.
    fn serves(&self, wanted: &Interface) -> bool {
        self.name == wanted.name
            && match (&self.version, &wanted.version) {
                (Some(offered), Some(wanted)) => same_range(offered, wanted) && wanted <= offered,
                (offered, wanted) => offered == wanted,
            }
    }

    fn is(&self, other: &Interface) -> bool {
        self.name == other.name && self.version == other.version
    }
}

impl std::fmt::Display for Interface {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.version {
            Some(version) => write!(f, "{}@{version}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// Semver's compatible range: 1.x, 0.2.x, and each pre-release by itself.
fn same_range(a: &semver::Version, b: &semver::Version) -> bool {
    if !a.pre.is_empty() || !b.pre.is_empty() {
        return a == b;
    }
    match (a.major, a.minor) {
        (0, 0) => a == b,
        (0, minor) => b.major == 0 && b.minor == minor,
        (major, _) => b.major == major,
    }
}

/// What a component or world takes and gives.
#[derive(Debug)]
struct Surface {
    imports: Vec<Interface>,
    exports: Vec<Interface>,
}

impl Surface {
    fn of(resolve: &Resolve, world: WorldId) -> Result<Surface> {
        let world = &resolve.worlds[world];
        let read = |(key, item)| interface(resolve, key, item);
        Ok(Surface {
            imports: world.imports.iter().map(read).collect::<Result<_>>()?,
            exports: world.exports.iter().map(read).collect::<Result<_>>()?,
        })
    }

    /// Without what is satisfied before the component meets a host: imports that `component`'s
    /// dependencies satisfy, and interfaces of plain types, which it shares with them.
    fn composed(mut self, component: &Component) -> Surface {
        let plugged = |import: &Interface| {
            let mut keys = component.dependencies.keys();
            keys.any(|key| satisfies(key, &import.to_string()))
        };
        self.imports
            .retain(|import| !plugged(import) && (import.callable || !is_ours(import)));
        self
    }

    fn calls(&self, name: &str) -> bool {
        self.imports
            .iter()
            .any(|import| import.callable && import.name == name)
    }
}

fn interface(resolve: &Resolve, key: &WorldKey, item: &WorldItem) -> Result<Interface> {
    let full = resolve.name_world_key(key);
    let (name, version) = match full.rsplit_once('@') {
        Some((name, version)) => {
            let version = version
                .parse()
                .with_context(|| format!("version of {full}"))?;
            (name, Some(version))
        }
        None => (full.as_str(), None),
    };
    let callable = match item {
        WorldItem::Interface { id, .. } => !resolve.interfaces[*id].functions.is_empty(),
        WorldItem::Function(_) => true,
        WorldItem::Type { .. } => false,
    };
    Ok(Interface {
        name: name.to_owned(),
        version,
        callable,
    })
}

fn is_ours(import: &Interface) -> bool {
    import.name.starts_with("innover:")
}

/// Where the component is not of its world, as sentences.
fn breaks_its_world(id: &str, surface: &Surface, world: &str, allowed: &Surface) -> Vec<String> {
    let mut faults = Vec::new();
    for import in &surface.imports {
        if allowed.imports.iter().any(|offered| offered.serves(import)) {
            continue;
        }
        faults.push(
            if import.name.starts_with("wasi:") || import.name.starts_with("spin:") {
                format!("{id} imports {import}, which the world `{world}` does not offer")
            } else {
                format!("{id} imports {import}: only WASI and Spin interfaces exist on every host")
            },
        );
    }
    for export in &allowed.exports {
        if !surface.exports.iter().any(|given| given.is(export)) {
            faults.push(format!(
                "{id} does not export {export}, which `{world}` demands"
            ));
        }
    }
    for export in &surface.exports {
        if !allowed.exports.iter().any(|wanted| wanted.is(export)) {
            faults.push(format!(
                "{id} exports {export}, which `{world}` does not have"
            ));
        }
    }
    faults
}

/// Where imports and the manifest's permissions do not fit, as sentences.
fn breaks_its_permissions(id: &str, surface: &Surface, component: &Component) -> Vec<String> {
    let hosts: Vec<(String, String)> = component
        .allowed_outbound_hosts
        .iter()
        .map(|host| host.to_string())
        // The bridge's address is a variable; what is called is HTTP.
        .map(|host| host.replace("{{ bridge_url }}", "http://127.0.0.1:3001"))
        // So is the database server's, which is empty where there is none.
        .map(|host| host.replace("{{ database_server }}", "postgres://127.0.0.1:5432"))
        .map(|host| {
            (
                host.split("://").next().unwrap_or_default().to_owned(),
                host,
            )
        })
        .collect();
    let schemes: BTreeSet<&str> = hosts.iter().map(|(scheme, _)| scheme.as_str()).collect();
    let http = schemes.contains("http") || schemes.contains("https");
    let redis = schemes.contains("redis") || schemes.contains("rediss");
    let imports_and_permissions = [
        (
            vec!["wasi:http/client", "wasi:http/handler"],
            http,
            "http hosts in allowed_outbound_hosts",
        ),
        (
            vec!["spin:redis/redis"],
            redis,
            "redis hosts in allowed_outbound_hosts",
        ),
        (
            vec!["spin:postgres/postgres"],
            schemes.contains("postgres"),
            "PostgreSQL servers in allowed_outbound_hosts",
        ),
        (
            vec!["spin:sqlite/sqlite"],
            !component.sqlite_databases.is_empty(),
            "sqlite_databases",
        ),
        (
            vec!["spin:key-value/key-value"],
            !component.key_value_stores.is_empty(),
            "key_value_stores",
        ),
        (
            vec!["spin:variables/variables"],
            !component.variables.is_empty(),
            "variables",
        ),
    ];
    let mut faults = Vec::new();
    for (interfaces, permitted, permission) in imports_and_permissions {
        let imported = interfaces.iter().find(|name| surface.calls(name));
        match (imported, permitted) {
            (Some(interface), false) => faults.push(format!(
                "{id} imports {interface}, but spin.toml gives it no {permission}"
            )),
            (None, true) => faults.push(format!(
                "spin.toml gives {id} {permission}, but it does not import {}",
                interfaces[0]
            )),
            _ => {}
        }
    }
    for (scheme, host) in &hosts {
        if !["http", "https", "postgres", "redis", "rediss"].contains(&scheme.as_str()) {
            faults.push(format!(
                "spin.toml lets {id} reach {host}, for which its world has no interface"
            ));
        }
        if host.contains('*') {
            faults.push(format!(
                "spin.toml lets {id} reach {host}: a `*` names no host"
            ));
        }
    }
    if !component.files.is_empty() {
        faults.push(format!(
            "spin.toml mounts files into {id}: compile tables in instead"
        ));
    }
    if !component.ai_models.is_empty() {
        faults.push(format!(
            "spin.toml gives {id} ai_models, for which its world has no interface"
        ));
    }
    faults
}

/// What plug-ins export, and the world each is held against.
const PLUGINS: [(&str, &str); 2] = [
    ("innover:risk/scorer@1.0.0", "scorer-plugin"),
    ("innover:risk/rules@1.0.0", "rules-plugin"),
];

/// The world each component claims by its triggers or by what it is plugged in as, and what is wrong
/// with the claims.
fn claimed_worlds(manifest: &Manifest) -> (BTreeMap<&str, &'static str>, Vec<String>) {
    let mut claims = BTreeMap::new();
    let mut faults = Vec::new();
    for trigger in &manifest.http_triggers {
        if let Some(component) = &trigger.component {
            claims.insert(component.as_str(), "service");
        }
    }
    for trigger in &manifest.redis_triggers {
        if claims.insert(trigger.component.as_str(), "trigger") == Some("service") {
            faults.push(format!(
                "{} has HTTP and Redis triggers: stock Spin then refuses it service chaining",
                trigger.component
            ));
        }
    }
    for component in manifest.components.values() {
        for (key, dependency) in &component.dependencies {
            let DependencySource::Component(id) = &dependency.source else {
                continue;
            };
            match PLUGINS.iter().find(|(name, _)| satisfies(key, name)) {
                Some((_, world)) => {
                    claims.insert(id.as_str(), world);
                }
                None => faults.push(format!("{id} is plugged in as {key}, which has no world")),
            }
        }
    }
    for id in manifest.components.keys() {
        if !claims.contains_key(id.as_str()) {
            faults.push(format!(
                "{id} has no trigger and is plugged into nothing, so nothing can reach it"
            ));
        }
    }
    (claims, faults)
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn worlds(folder: &str) -> Result<Resolve> {
    let mut resolve = Resolve::default();
    resolve
        .push_dir(repository().join(folder))
        .context(folder.to_owned())?;
    Ok(resolve)
}

fn world(resolve: &Resolve, name: &str) -> Result<Surface> {
    let ours = resolve.worlds.iter().find(|(_, world)| {
        let package = world.package.map(|id| &resolve.packages[id].name);
        world.name == name && package.is_some_and(|package| package.namespace == "innover")
    });
    let (id, _) = ours.with_context(|| format!("wit/ has no world `{name}` of ours"))?;
    Surface::of(resolve, id)
}

fn built(component: &Component) -> Result<Surface> {
    let source = component
        .source
        .path()
        .context("its source is not a file")?;
    let bytes = std::fs::read(repository().join(source))
        .with_context(|| format!("{} is not built: run tools/build", source.display()))?;
    match wit_component::decode(&bytes).with_context(|| source.display().to_string())? {
        DecodedWasm::Component(resolve, world) => Surface::of(&resolve, world),
        DecodedWasm::WitPackage(..) => bail!("{} holds WIT, no component", source.display()),
    }
}

#[test]
fn every_component_keeps_to_its_world_and_its_permissions() -> Result<()> {
    let manifest = Manifest::parse(&std::fs::read_to_string(repository().join("spin.toml"))?)?;
    let (resolve, plugins) = (worlds("wit")?, worlds("wit/risk")?);
    let (claims, mut faults) = claimed_worlds(&manifest);
    for (id, component) in &manifest.components {
        let Some(claim) = claims.get(id.as_str()) else {
            continue;
        };
        let allowed = match claim.ends_with("-plugin") {
            // Of the host a plug-in has what standard libraries import by themselves.
            true => Surface {
                imports: world(&resolve, "runtime")?.imports,
                ..world(&plugins, claim)?
            },
            false => world(&resolve, claim)?,
        };
        match built(component) {
            Ok(surface) => {
                let surface = surface.composed(component);
                faults.extend(breaks_its_world(id, &surface, claim, &allowed));
                faults.extend(breaks_its_permissions(id, &surface, component));
            }
            Err(error) => faults.push(format!("{id}: {error:#}")),
        }
    }
    assert!(
        faults.is_empty(),
        "{} faults:\n{}",
        faults.len(),
        faults.join("\n")
    );
    Ok(())
}

#[test]
fn the_risk_interfaces_are_valid_and_need_nothing_of_a_host() -> Result<()> {
    let resolve = worlds("wit/risk")?;
    for (name, exported) in [
        ("scorer-plugin", "innover:risk/scorer"),
        ("rules-plugin", "innover:risk/rules"),
    ] {
        let surface = world(&resolve, name)?;
        let exports: Vec<_> = surface
            .exports
            .iter()
            .map(|export| export.name.as_str())
            .collect();
        assert_eq!(exports, [exported]);
        assert!(
            surface.imports.iter().all(|import| !import.callable),
            "{name} calls nobody"
        );
    }
    Ok(())
}

/// The faults of a service whose WIT world has these items, with these keys in its manifest.
fn faults_of(items: &str, keys: &str) -> Result<Vec<String>> {
    let mut resolve = worlds("wit")?;
    let text = format!("package tests:made; world made {{ {items} }}");
    let package = resolve.push_source("made.wit", &text)?;
    let made = resolve.select_world(&[package], Some("made"))?;
    let surface = Surface::of(&resolve, made)?;
    let manifest = Manifest::parse(&format!(
        r#"
        spin_manifest_version = 2
        [application]
        name = "made"
        [variables]
        v = {{ default = "a.example" }}
        [[trigger.http]]
        route = "/..."
        component = "made"
        [component.made]
        source = "made.wasm"
        {keys}
        "#
    ))?;
    let mut faults = breaks_its_world("made", &surface, "service", &world(&resolve, "service")?);
    faults.extend(breaks_its_permissions(
        "made",
        &surface,
        &manifest.components["made"],
    ));
    Ok(faults)
}

#[test]
fn a_service_without_an_http_handler_is_refused() -> Result<()> {
    let faults = faults_of("", "")?;
    assert_eq!(
        faults,
        ["made does not export wasi:http/handler@0.3.0, which `service` demands"]
    );
    Ok(())
}

#[test]
fn what_fits_is_accepted() -> Result<()> {
    for (items, keys) in [
        ("", ""),
        (
            "import wasi:cli/stdin@0.2.12; import wasi:http/types@0.3.0;",
            "",
        ),
        (
            "import spin:sqlite/sqlite@3.1.0;",
            r#"sqlite_databases = ["a"]"#,
        ),
        (
            "import spin:key-value/key-value@3.0.0;",
            r#"key_value_stores = ["a"]"#,
        ),
        (
            "import spin:variables/variables@3.0.0;",
            r#"variables = { v = "{{ v }}" }"#,
        ),
        (
            "import wasi:http/client@0.3.0;",
            r#"allowed_outbound_hosts = ["https://a.example"]"#,
        ),
        (
            "import spin:redis/redis@3.0.0;",
            r#"allowed_outbound_hosts = ["redis://{{ v }}"]"#,
        ),
    ] {
        let faults = faults_of(&format!("export wasi:http/handler@0.3.0; {items}"), keys)?;
        assert!(faults.is_empty(), "{items} with {keys}: {faults:?}");
    }
    Ok(())
}

#[test]
fn what_does_not_fit_is_named_with_component_and_interface() -> Result<()> {
    for (items, keys, said) in [
        (
            "import wasi:sockets/types@0.3.0;",
            "",
            "made imports wasi:sockets/types@0.3.0, which",
        ),
        (
            "import private: interface { peek: func(); }",
            "",
            "made imports private: only",
        ),
        (
            "export extra: interface { peek: func(); }",
            "",
            "made exports extra, which",
        ),
        (
            "import spin:sqlite/sqlite@3.1.0;",
            "",
            "imports spin:sqlite/sqlite, but spin.toml gives",
        ),
        (
            "",
            r#"sqlite_databases = ["a"]"#,
            "gives made sqlite_databases, but",
        ),
        (
            "import spin:key-value/key-value@3.0.0;",
            "",
            "gives it no key_value_stores",
        ),
        (
            "",
            r#"key_value_stores = ["a"]"#,
            "not import spin:key-value/key-value",
        ),
        (
            "import spin:variables/variables@3.0.0;",
            "",
            "gives it no variables",
        ),
        (
            "",
            r#"variables = { v = "{{ v }}" }"#,
            "not import spin:variables/variables",
        ),
        (
            "import wasi:http/client@0.3.0;",
            "",
            "gives it no http hosts",
        ),
        (
            "",
            r#"allowed_outbound_hosts = ["https://a.example"]"#,
            "not import wasi:http/client",
        ),
        (
            "import spin:redis/redis@3.0.0;",
            "",
            "gives it no redis hosts",
        ),
        (
            "",
            r#"allowed_outbound_hosts = ["redis://{{ v }}"]"#,
            "not import spin:redis/redis",
        ),
        (
            "",
            r#"allowed_outbound_hosts = ["postgres://a.example"]"#,
            "not import spin:postgres/postgres",
        ),
        (
            "",
            r#"allowed_outbound_hosts = ["mysql://a.example"]"#,
            "reach mysql://a.example, for which",
        ),
        (
            "import wasi:http/client@0.3.0;",
            r#"allowed_outbound_hosts = ["https://*.a.example"]"#,
            "reach https://*.a.example: a `*`",
        ),
    ] {
        let faults = faults_of(&format!("export wasi:http/handler@0.3.0; {items}"), keys)?;
        // One mistake is one sentence, or those who read it stop reading.
        assert_eq!(faults.len(), 1, "{items} with {keys}: {faults:?}");
        assert!(
            faults[0].contains(said) && faults[0].contains("made"),
            "{faults:?}, not {said}"
        );
    }
    Ok(())
}

#[test]
fn versions_match_as_semver_says() -> Result<()> {
    let at = |version: &str| -> Result<Interface> {
        Ok(Interface {
            name: "a:b/c".into(),
            version: Some(version.parse()?),
            callable: true,
        })
    };
    for (offered, wanted, served) in [
        ("0.2.12", "0.2.6", true),
        ("0.2.12", "0.2.13", false),
        ("0.3.0", "0.2.6", false),
        ("0.2.12", "0.3.0", false),
        ("3.1.0", "3.0.0", true),
        ("3.1.0", "4.0.0", false),
        ("0.0.2", "0.0.1", false),
        ("0.3.0", "0.3.0-rc-2026-03-15", false),
    ] {
        assert_eq!(
            at(offered)?.serves(&at(wanted)?),
            served,
            "{offered} for {wanted}"
        );
    }
    Ok(())
}
