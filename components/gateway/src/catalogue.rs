//! `GET /api`: what the platform offers, from the route table.

use serde_json::{Value, json};

use crate::table::{Access, Route, Table};

/// The catalogue as JSON.
pub fn render(table: &Table) -> Value {
    let services: Vec<Value> = table
        .services
        .iter()
        .map(|service| {
            let others = table
                .paths
                .iter()
                .filter(|route| table.service_of(route) == service.name);
            let own = service.common().iter().chain(&service.jobs);
            let routes = own.chain(&service.routes).chain(others);
            json!({
                "name": service.name,
                "title": service.title,
                "version": "v1",
                "base": format!("/api/{}/v1", service.name),
                "aliases": service.aliases.iter().map(|a| format!("/api/{a}")).collect::<Vec<_>>(),
                "openapi": format!("/api/{}/v1/openapi.json", service.name),
                "docs": format!("/api/{}/v1/docs", service.name),
                "routes": routes.map(view).collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({ "services": services })
}

fn view(route: &Route) -> Value {
    let methods: serde_json::Map<String, Value> = route
        .methods
        .iter()
        .map(|(method, access)| {
            let access = match access {
                Access::Public => json!({"token": false}),
                Access::Token => json!({"token": true}),
                Access::Scope(scope) => json!({"token": true, "scope": scope}),
            };
            (method.clone(), access)
        })
        .collect();
    json!({
        "path": route.public,
        "methods": methods,
        "timeout_ms": route.timeout_ms,
        "body_bytes_max": route.body_bytes_max,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_lists_every_service_with_its_scopes() {
        let text = render(Table::get()).to_string();
        for part in [
            r#""name":"forex""#,
            r#""aliases":["/api/fx"]"#,
            r#""path":"/api/wallet/v1/wallets/{id}/top-ups""#,
            r#""POST":{"scope":"ledger:write","token":true}"#,
            r#""path":"/oauth2/token""#,
            r#""path":"/api/cases/v1/jobs/{id}""#,
            r#""POST":{"scope":"jobs:write","token":true}"#,
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(
            !text.contains("_deliver"),
            "inner doors are nobody's business"
        );
    }
}
