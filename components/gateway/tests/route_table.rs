//! The table against the documents the services publish: what is documented can be reached.

use std::path::Path;

use gateway::table::{Door, Table};
use serde_json::Value;

#[test]
fn every_documented_path_is_reached_through_the_table() {
    let components = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut documents = 0;
    for service in &Table::get().services {
        let Ok(text) = std::fs::read_to_string(components.join(&service.name).join("openapi.json"))
        else {
            continue;
        };
        documents += 1;
        let document: Value = serde_json::from_str(&text).expect("JSON");
        for (path, item) in document["paths"].as_object().expect("paths") {
            for (method, operation) in item.as_object().expect("methods") {
                // A path outside `/api` says so itself.
                let base = operation["servers"][0]["url"]
                    .as_str()
                    .or(document["servers"][0]["url"].as_str())
                    .unwrap_or("/")
                    .trim_end_matches('/');
                let public = format!("{base}{path}").replace(['{', '}'], "");
                let method = method.to_ascii_uppercase();
                let target = Table::get()
                    .find(&method, &public)
                    .unwrap_or_else(|why| panic!("{method} {public}: {why:?}"));
                assert_eq!(target.service.name, service.name, "{method} {public}");
                let mut inner = path.replace(['{', '}'], "");
                if target.door == Door::Bridge {
                    inner = inner.replace("/jobs", &format!("/jobs/{}", service.name));
                }
                assert_eq!(target.upstream, inner, "{method} {public}");
            }
        }
    }
    assert!(documents > 0, "no service publishes a document");
}

#[test]
fn the_services_with_jobs_are_those_with_a_queue() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../spin.toml");
    let text = std::fs::read_to_string(file).expect("spin.toml");
    let manifest = innover_manifest::Manifest::parse(&text).expect("a manifest");
    let queued: Vec<&str> = manifest
        .components
        .iter()
        .filter(|(_, component)| component.innover.jobs.is_some())
        .map(|(id, component)| component.innover.service_name(id))
        .collect();
    let mut public: Vec<&str> = Table::get()
        .services
        .iter()
        .filter(|service| !service.jobs.is_empty())
        .map(|service| service.name.as_str())
        .collect();
    public.sort_unstable();
    assert_eq!(public, queued);
}
