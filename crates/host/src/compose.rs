//! Plugs a component's dependencies into its imports when it is loaded, as Spin does.
//!
//! What is plugged in is part of the component's instance: it shares its deadline, its memory limit
//! (per memory) and its end by a trap. It shares none of its permissions unless the manifest says
//! so (`inherit_configuration`): it may import what the standard libraries of most languages import
//! by themselves, which reaches nothing (there are no folders and no arguments, and the environment
//! it sees is empty), and anything else is refused here, by name, instead of failing when called.

use std::path::PathBuf;

use anyhow::{Context, bail};
use innover_manifest::{Inherit, satisfies};
use wac_graph::types::{ItemKind, Package, Type, Types, WorldId};
use wac_graph::{CompositionGraph, EncodeOptions, NodeId};

/// A dependency of a component.
pub(crate) struct Plug {
    /// The import or imports it satisfies: its key in the manifest.
    pub(crate) name: String,
    pub(crate) source: PathBuf,
    /// The export to use, when its name differs from the import's.
    pub(crate) export: Option<String>,
    pub(crate) inherit: Inherit,
}

/// What any dependency may import, as the start of an import's name.
const HARMLESS: [&str; 12] = [
    "wasi:cli/environment@",
    "wasi:cli/exit@",
    "wasi:cli/stderr@",
    "wasi:cli/stdin@",
    "wasi:cli/stdout@",
    "wasi:cli/terminal-",
    "wasi:cli/types@",
    "wasi:clocks/",
    "wasi:filesystem/preopens@",
    "wasi:filesystem/types@",
    "wasi:io/",
    "wasi:random/",
];

/// What a dependency that inherits a kind of permission may import besides. `files` and `ai_models`
/// are missing, because no component has them on this host.
const INHERITED: [(&str, &[&str]); 4] = [
    (
        "allowed_outbound_hosts",
        &["spin:redis/", "wasi:http/client@", "wasi:http/types@"],
    ),
    ("key_value_stores", &["spin:key-value/"]),
    ("sqlite_databases", &["spin:sqlite/"]),
    ("variables", &["spin:variables/"]),
];

const ENVIRONMENT: &str = "wasi:cli/environment@";

/// `component` with `plugs` in its imports, as one component.
///
/// # Errors
/// Names the dependency and the import or export that does not fit.
pub(crate) fn compose(component: Vec<u8>, plugs: &[Plug]) -> anyhow::Result<Vec<u8>> {
    if plugs.is_empty() {
        return Ok(component);
    }
    let mut graph = CompositionGraph::new();
    let socket = Part::add(&mut graph, "component", component)?;
    for (number, plug) in plugs.iter().enumerate() {
        connect(&mut graph, &socket, number, plug)
            .with_context(|| format!("dependency `{}`", plug.name))?;
    }
    for name in names(&graph.types()[socket.world].exports) {
        let export = graph.alias_instance_export(socket.instance, &name)?;
        graph.export(export, name)?;
    }
    Ok(graph.encode(EncodeOptions::default())?)
}

/// One component of a composition.
struct Part {
    world: WorldId,
    instance: NodeId,
}

impl Part {
    fn add(graph: &mut CompositionGraph, name: &str, wasm: Vec<u8>) -> anyhow::Result<Part> {
        let package = Package::from_bytes(name, None, wasm, graph.types_mut())?;
        let world = package.ty();
        let package = graph.register_package(package)?;
        let instance = graph.instantiate(package);
        Ok(Part { world, instance })
    }
}

fn connect(
    graph: &mut CompositionGraph,
    socket: &Part,
    number: usize,
    plug: &Plug,
) -> anyhow::Result<()> {
    let imports = names(&graph.types()[socket.world].imports);
    let wanted: Vec<String> = imports
        .into_iter()
        .filter(|import| satisfies(&plug.name, import))
        .collect();
    if wanted.is_empty() {
        bail!("the component does not import it; remove the dependency");
    }
    let file = plug.source.display();
    let wasm = std::fs::read(&plug.source).with_context(|| format!("cannot read {file}"))?;
    let part = Part::add(graph, &format!("dependency-{number}"), wasm)
        .with_context(|| format!("{file} is not a component"))?;
    check_imports(graph.types(), part.world, &plug.inherit)?;
    if !inherits(&plug.inherit, "environment") {
        hide_environment(graph, &part, number)?;
    }
    for import in wanted {
        let export = plug.export.as_ref().unwrap_or(&import);
        let exports = &graph.types()[part.world].exports;
        if !exports.contains_key(export) {
            let known = names(exports).join("`, `");
            bail!("{file} does not export `{export}`; it exports `{known}`");
        }
        let argument = graph.alias_instance_export(part.instance, export)?;
        graph
            .set_instantiation_argument(socket.instance, &import, argument)
            .with_context(|| format!("`{export}` of {file} does not fit the import `{import}`"))?;
    }
    Ok(())
}

/// Everything the dependency may call must be given to it.
fn check_imports(types: &Types, world: WorldId, inherit: &Inherit) -> anyhow::Result<()> {
    let refused: Vec<&str> = types[world]
        .imports
        .iter()
        .filter(|(name, item)| is_callable(types, **item) && !may_import(inherit, name))
        .map(|(name, _)| name.as_str())
        .collect();
    if refused.is_empty() {
        return Ok(());
    }
    bail!(
        "it imports `{}`, which is not given to a dependency; remove the import, or let it inherit the component's permissions with `inherit_configuration`",
        refused.join("`, `")
    )
}

fn may_import(inherit: &Inherit, import: &str) -> bool {
    // What the host itself does not have is named when the whole component is linked.
    if *inherit == Inherit::All {
        return true;
    }
    let inherited = INHERITED
        .iter()
        .filter(|(kind, _)| inherits(inherit, kind))
        .flat_map(|(_, prefixes)| *prefixes);
    HARMLESS
        .iter()
        .chain(inherited)
        .any(|prefix| import.starts_with(prefix))
}

fn inherits(inherit: &Inherit, kind: &str) -> bool {
    match inherit {
        Inherit::None => false,
        Inherit::All => true,
        Inherit::Only(kinds) => kinds.iter().any(|inherited| inherited == kind),
    }
}

/// Whether importing it lets a component call something; an interface of plain types does not.
fn is_callable(types: &Types, item: ItemKind) -> bool {
    match item {
        ItemKind::Type(Type::Resource(_)) => true,
        ItemKind::Type(_) => false,
        ItemKind::Instance(interface) => types[interface]
            .exports
            .values()
            .any(|item| is_callable(types, *item)),
        ItemKind::Func(_) | ItemKind::Component(_) | ItemKind::Module(_) | ItemKind::Value(_) => {
            true
        }
    }
}

/// Gives the dependency an environment in which nothing is set, in place of the component's.
fn hide_environment(
    graph: &mut CompositionGraph,
    part: &Part,
    number: usize,
) -> anyhow::Result<()> {
    let imports = names(&graph.types()[part.world].imports);
    let imports = imports
        .into_iter()
        .filter(|import| import.starts_with(ENVIRONMENT));
    for (nth, import) in imports.enumerate() {
        let empty = wat::parse_str(empty_environment(&import))?;
        let empty = Part::add(graph, &format!("environment-{number}-{nth}"), empty)?;
        let argument = graph.alias_instance_export(empty.instance, &import)?;
        graph.set_instantiation_argument(part.instance, &import, argument)?;
    }
    Ok(())
}

/// A component that exports `interface`, any version of `wasi:cli/environment`. Its memory is zero:
/// whatever is read from there is an empty list or no value.
fn empty_environment(interface: &str) -> String {
    let lift = r#"(canon lift (core func $zero "at") (memory (core memory $zero "memory")))"#;
    format!(
        r#"(component
            (core module $zero
                (memory (export "memory") 1)
                (func (export "at") (result i32) (i32.const 0)))
            (core instance $zero (instantiate $zero))
            (func $pairs (result (list (tuple string string))) {lift})
            (func $texts (result (list string)) {lift})
            (func $text (result (option string)) {lift})
            (instance (export "{interface}")
                (export "get-environment" (func $pairs))
                (export "get-arguments" (func $texts))
                (export "initial-cwd" (func $text))
                (export "get-initial-cwd" (func $text))))"#
    )
}

fn names<'a, T: 'a>(items: impl IntoIterator<Item = (&'a String, T)>) -> Vec<String> {
    items.into_iter().map(|(name, _)| name.clone()).collect()
}
