//! From the manifest to components that can be called.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use innover_manifest::hosts::AllowedHosts;
use innover_manifest::{Component as Definition, Dependency, Template};
use wasmtime::Engine;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, Linker};
use wasmtime_wasi_http::p3::bindings::ServicePre;

use crate::bindings::subscriber::RedisSubscriberPre;
use crate::cache::{ModuleCache, Origin};
use crate::compose::{Plug, compose};
use crate::config::HostConfig;
use crate::guest::Guest;
use crate::service::Exports;
use crate::{interfaces, limits};

/// A component as the manifest defines it, everything resolved: what its instances may do.
pub(crate) struct App {
    /// The component id.
    pub(crate) id: String,
    /// The name it has in logs and metrics.
    pub(crate) service: Arc<str>,
    pub(crate) source: PathBuf,
    pub(crate) plugs: Vec<Plug>,
    pub(crate) variables: BTreeMap<String, String>,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) databases: Vec<String>,
    /// The label its commits are announced under.
    pub(crate) database: Option<Arc<str>>,
    pub(crate) stores: Vec<String>,
    pub(crate) hosts: AllowedHosts,
    /// Components it may call in process.
    pub(crate) chain_targets: HashSet<String>,
    pub(crate) memory_bytes: usize,
    pub(crate) deadline: Duration,
    pub(crate) concurrency: u32,
    pub(crate) concurrent_max: usize,
    /// Instances that run side by side before they are full.
    pub(crate) parallelism: usize,
    pub(crate) reuse_max: usize,
}

/// Resolves the component `id`.
pub(crate) fn app(config: &HostConfig, id: &str, definition: &Definition) -> anyhow::Result<App> {
    let manifest = &config.manifest;
    let resolve = |template: &Template| {
        template
            .resolve(&|name| config.variable(name))
            .map_err(|missing| {
                anyhow!(
                    "{missing}: set SPIN_VARIABLE_{}",
                    missing.0.to_ascii_uppercase()
                )
            })
    };
    let Some(path) = definition.source.path() else {
        bail!("its source is not a file: download it first and name the file");
    };
    let hosts: Vec<String> = definition
        .allowed_outbound_hosts
        .iter()
        .map(resolve)
        .collect::<anyhow::Result<_>>()?;
    let hosts = AllowedHosts::parse(&hosts)?;
    let served: Vec<String> = manifest
        .http_triggers
        .iter()
        .filter_map(|trigger| trigger.component.clone())
        .collect();
    let tool = &definition.innover;
    Ok(App {
        id: id.to_owned(),
        service: tool.service_name(id).into(),
        source: config.base_dir.join(path),
        plugs: plugs(config, definition)?,
        variables: definition
            .variables
            .iter()
            .map(|(name, template)| Ok((name.clone(), resolve(template)?)))
            .collect::<anyhow::Result<_>>()?,
        environment: definition.environment.clone().into_iter().collect(),
        databases: definition.sqlite_databases.clone(),
        database: tool.database.as_deref().map(Arc::from),
        stores: definition.key_value_stores.clone(),
        chain_targets: hosts.chaining_targets(&served).into_iter().collect(),
        hosts,
        memory_bytes: tool
            .memory_mb
            .map_or(limits::MEMORY_BYTES_DEFAULT, |mb| (mb as usize) << 20),
        deadline: tool
            .deadline_ms
            .map_or(limits::DEADLINE_DEFAULT, Duration::from_millis),
        concurrency: tool.concurrency.unwrap_or(limits::CONCURRENCY_DEFAULT),
        concurrent_max: tool
            .instance_concurrency
            .and_then(|requests| usize::try_from(requests).ok())
            .unwrap_or(config.instances.concurrent_max),
        parallelism: tool
            .parallelism
            .and_then(|instances| usize::try_from(instances).ok())
            .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)),
        reuse_max: config.instances.reuse_max,
    })
}

fn plugs(config: &HostConfig, definition: &Definition) -> anyhow::Result<Vec<Plug>> {
    let plug = |(name, dependency): (&String, &Dependency)| {
        let Some(file) = config.manifest.dependency_file(dependency) else {
            bail!("dependency `{name}` is not a file: download it first and name the file");
        };
        Ok(Plug {
            name: name.clone(),
            source: config.base_dir.join(file),
            export: dependency.export.clone(),
            inherit: dependency.inherit.clone(),
        })
    };
    definition.dependencies.iter().map(plug).collect()
}

/// Composes and compiles (or takes from the cache) a component and checks that everything it imports is there.
pub(crate) fn exports(
    engine: &Engine,
    linker: &Linker<Guest>,
    cache: &ModuleCache,
    app: &App,
) -> anyhow::Result<(Exports, Origin)> {
    let wasm = std::fs::read(&app.source)
        .with_context(|| format!("cannot read {}", app.source.display()))?;
    let wasm = compose(wasm, &app.plugs)?;
    let (component, origin) = cache.load(engine, &wasm).with_context(|| {
        format!(
            "{} is not a component this host can compile",
            app.source.display()
        )
    })?;
    check_imports(engine, &component)?;
    let pre = linker
        .instantiate_pre(&component)
        .map_err(|error| anyhow!("{error:#}"))?;
    let exports = |prefix: &str| {
        component
            .component_type()
            .exports(engine)
            .any(|(name, _)| name.starts_with(prefix))
    };
    let http = if exports("wasi:http/handler@0.3") {
        Some(ServicePre::new(pre.clone()).map_err(|error| anyhow!("{error:#}"))?)
    } else if exports("wasi:http/") {
        bail!("it exports an HTTP handler of WASI 0.2: build it with spin-sdk 7 (WASI 0.3)");
    } else {
        None
    };
    let redis = if exports("spin:redis/inbound-redis@3") {
        Some(RedisSubscriberPre::new(pre).map_err(|error| anyhow!("{error:#}"))?)
    } else {
        None
    };
    Ok((Exports { http, redis }, origin))
}

/// Names every import that is not there, rather than the linker's first one.
fn check_imports(engine: &Engine, component: &Component) -> anyhow::Result<()> {
    let missing: Vec<String> = component
        .component_type()
        .imports(engine)
        .filter(|(_, item)| is_callable(engine, &item.ty))
        .filter_map(|(name, _)| interfaces::missing(name))
        .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        bail!("{}", missing.join("; "))
    }
}

/// An interface of plain types, which a component shares with what is plugged into it, needs nothing
/// of the host.
fn is_callable(engine: &Engine, item: &ComponentItem) -> bool {
    match item {
        ComponentItem::Type(_) => false,
        ComponentItem::ComponentInstance(instance) => instance
            .exports(engine)
            .any(|(_, item)| is_callable(engine, &item.ty)),
        _ => true,
    }
}
