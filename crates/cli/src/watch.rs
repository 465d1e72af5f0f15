//! `innover up --watch`: builds a component when its source changes and swaps it in. What runs keeps
//! serving until the new version is loaded, and when the build fails.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Weak,
    time::{Duration, SystemTime},
};

use innover_host::Host;
use tokio::process::Command;

use crate::{app::App, print};

/// How often files are looked at: an editor's save is seen before the hand has left the keyboard,
/// and some hundred `stat` calls cost about a millisecond.
const POLL: Duration = Duration::from_millis(400);
/// Lines of a failed build that are shown.
const ERROR_LINES_MAX: usize = 40;

struct Watched {
    id: String,
    patterns: Vec<String>,
    command: Vec<String>,
    folder: PathBuf,
    /// What is loaded for it: its own file and those plugged into it. Empty for a component that is
    /// only plugged into others, which are loaded again in its place.
    wasm: Vec<PathBuf>,
}

/// Modification times of the files of each pattern.
type Seen = BTreeMap<String, BTreeMap<PathBuf, SystemTime>>;

/// Watches until the host is gone.
pub async fn run(app: App, host: Weak<Host>) {
    let watched = watched(&app);
    print::line(format!(
        "watching    {} components; a saved source file is built and swapped in",
        watched.len()
    ));
    let mut sources = look(&watched).await;
    let mut loaded: BTreeMap<String, Option<SystemTime>> = watched
        .iter()
        .map(|w| (w.id.clone(), newest(&w.wasm)))
        .collect();
    loop {
        tokio::time::sleep(POLL).await;
        let now = look(&watched).await;
        let changed: BTreeSet<&String> = now
            .iter()
            .filter(|(pattern, files)| sources.get(*pattern) != Some(files))
            .map(|(p, _)| p)
            .collect();
        let to_build: Vec<_> = watched
            .iter()
            .filter(|w| w.patterns.iter().any(|pattern| changed.contains(pattern)))
            .collect();
        for component in to_build {
            build(&app.base, component).await;
        }
        // What was saved while the build ran is built in the next round.
        sources = now;
        // Also when somebody else built it.
        for component in &watched {
            let built = newest(&component.wasm);
            if built.is_some() && loaded.get(&component.id) != Some(&built) && settled(built) {
                let Some(host) = host.upgrade() else { return };
                reload(&host, &component.id).await;
                loaded.insert(component.id.clone(), built);
            }
        }
        if host.strong_count() == 0 {
            return;
        }
    }
}

fn watched(app: &App) -> Vec<Watched> {
    let components = app.manifest.components.iter();
    let plugged = app.manifest.plugged_components();
    components
        .filter_map(|(id, component)| {
            let build = component.build.as_ref()?;
            let folder = match &build.workdir {
                Some(folder) => app.base.join(folder),
                None => app.base.clone(),
            };
            let absolute = |glob: &String| {
                let base = glob::Pattern::escape(&folder.display().to_string());
                format!("{base}/{glob}")
            };
            let dependencies = component.dependencies.values();
            let files = std::iter::once(component.source.path()?)
                .chain(dependencies.filter_map(|plug| app.manifest.dependency_file(plug)))
                .filter(|_| !plugged.contains(&id.as_str()));
            Some(Watched {
                id: id.clone(),
                patterns: build.watch.iter().map(absolute).collect(),
                command: build.command.clone(),
                wasm: files.map(|file| app.base.join(file)).collect(),
                folder,
            })
        })
        .collect()
}

/// Reads the state of every pattern once, however many components share it.
async fn look(watched: &[Watched]) -> Seen {
    let patterns: BTreeSet<String> = watched
        .iter()
        .flat_map(|w| w.patterns.iter().cloned())
        .collect();
    let read = move || {
        patterns
            .into_iter()
            .map(|p| {
                let files = files(&p);
                (p, files)
            })
            .collect()
    };
    tokio::task::spawn_blocking(read).await.unwrap_or_default()
}

fn files(pattern: &str) -> BTreeMap<PathBuf, SystemTime> {
    let paths = glob::glob(pattern).into_iter().flatten().flatten();
    paths
        .filter_map(|path| {
            let time = modified(&path)?;
            path.is_file().then_some((path, time))
        })
        .collect()
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).ok()?.modified().ok()
}

/// When the last of them was written; `None` when there are none.
fn newest(files: &[PathBuf]) -> Option<SystemTime> {
    files.iter().filter_map(|file| modified(file)).max()
}

/// A linker writes for a moment; a file younger than one poll may be half of itself.
fn settled(time: Option<SystemTime>) -> bool {
    time.and_then(|time| time.elapsed().ok())
        .is_some_and(|age| age >= POLL)
}

async fn build(base: &Path, component: &Watched) {
    print::line(format!("building    {}", component.id));
    let started = std::time::Instant::now();
    for command in &component.command {
        // The manifest's commands are shell lines, as Spin runs them. The project's script prints
        // the environment in which this machine builds for the target.
        let script = base.join("tools/wasm-env");
        let line = if script.is_file() {
            format!(
                "eval \"$('{}')\" && {command}",
                script.display().to_string().replace('\'', r"'\''")
            )
        } else {
            command.clone()
        };
        let output = Command::new("bash")
            .args(["-c", &line])
            .current_dir(&component.folder)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await;
        match output {
            Ok(output) if output.status.success() => {}
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stderr);
                let lines: Vec<_> = text.lines().take(ERROR_LINES_MAX).collect();
                print::line(format!(
                    "{}\nfailed      {}: the version before keeps serving",
                    lines.join("\n"),
                    component.id
                ));
                return;
            }
            Err(error) => {
                print::line(format!(
                    "failed      {}: cannot run bash: {error}",
                    component.id
                ));
                return;
            }
        }
    }
    print::line(format!(
        "built       {} in {:.1} s",
        component.id,
        started.elapsed().as_secs_f64()
    ));
}

async fn reload(host: &Host, id: &str) {
    let started = std::time::Instant::now();
    print::line(match host.reload(id).await {
        Ok(()) => format!("reloaded    {id} in {} ms", started.elapsed().as_millis()),
        Err(error) => format!("failed      {id}: {error:#}; the version before keeps serving"),
    });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
    use super::*;

    #[tokio::test]
    async fn a_saved_new_or_removed_file_is_seen_and_an_equal_look_is_equal() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(temp.path().join("src/deep")).unwrap();
        std::fs::write(temp.path().join("src/deep/a.rs"), "1").unwrap();
        let watched = [Watched {
            id: "a".into(),
            patterns: vec![format!("{}/src/**/*", temp.path().display())],
            command: vec![],
            folder: temp.path().into(),
            wasm: vec![temp.path().join("a.wasm")],
        }];
        let first = look(&watched).await;
        assert_eq!(first, look(&watched).await);
        std::fs::write(temp.path().join("src/b.rs"), "2").unwrap();
        let second = look(&watched).await;
        assert_ne!(first, second);
        std::fs::remove_file(temp.path().join("src/b.rs")).unwrap();
        assert_eq!(first, look(&watched).await);
    }

    #[test]
    fn a_component_is_loaded_again_when_what_is_plugged_into_it_changes() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("spin.toml");
        let text = r#"
            spin_manifest_version = 2
            application.name = "x"
            [[trigger.http]]
            route = "/..."
            component = "a"
            [component.a]
            source = "a.wasm"
            build.command = "make a"
            [component.a.dependencies]
            "acme:x/y" = { component = "b" }
            "acme:x/z" = { path = "z.wasm" }
            [component.b]
            source = "b.wasm"
            build.command = "make b"
        "#;
        std::fs::write(&file, text).unwrap();
        let watched = watched(&App::load(&file).unwrap());
        let names: Vec<Vec<_>> = watched
            .iter()
            .map(|w| w.wasm.iter().filter_map(|f| f.file_name()).collect())
            .collect();
        assert_eq!(names, [vec!["a.wasm", "b.wasm", "z.wasm"], vec![]]);
        assert_eq!(newest(&watched[0].wasm), None);
        std::fs::write(temp.path().join("z.wasm"), "1").unwrap();
        assert!(newest(&watched[0].wasm).is_some());
    }

    #[test]
    fn every_component_of_the_application_is_watched_with_files_that_exist() {
        let app = crate::app::tests::own();
        for component in watched(&app) {
            assert!(!component.command.is_empty(), "{}", component.id);
            for pattern in &component.patterns {
                assert!(
                    !files(pattern).is_empty(),
                    "{}: {pattern} matches nothing",
                    component.id
                );
            }
        }
    }
}
