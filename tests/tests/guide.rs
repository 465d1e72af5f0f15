//! docs/adding-a-service.md against the service it builds: a guide that is not the code misleads.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::Path;

use innover_tests::repository;

/// The fenced blocks of a language, each with the line it begins in.
fn blocks<'a>(text: &'a str, languages: &[&str]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut open: Option<(usize, Vec<&'a str>, bool)> = None;
    for (number, line) in text.lines().enumerate() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(language)) => {
                open = Some((number + 1, Vec::new(), languages.contains(&language)));
            }
            (Some((at, lines, wanted)), Some(_)) => {
                if *wanted {
                    found.push((*at, lines.join("\n")));
                }
                open = None;
            }
            (Some((_, lines, _)), None) => lines.push(line),
            (None, None) => {}
        }
    }
    found
}

fn files(folder: &Path, into: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files(&path, into),
            false => into.push(std::fs::read_to_string(&path).unwrap()),
        }
    }
}

#[test]
fn every_block_of_the_guide_is_the_real_code_of_items() {
    let root = repository();
    let guide = std::fs::read_to_string(root.join("docs/adding-a-service.md")).unwrap();
    let mut code = Vec::new();
    files(&root.join("components/items"), &mut code);
    for file in [
        "spin.toml",
        "components/gateway/src/routes.json",
        "schemas/item.created/v1.json",
    ] {
        code.push(std::fs::read_to_string(root.join(file)).unwrap());
    }
    let blocks = blocks(&guide, &["rust", "sql", "toml", "json"]);
    assert!(blocks.len() > 10, "the guide has lost its code");
    for (line, block) in blocks {
        assert!(
            code.iter().any(|file| file.contains(&block)),
            "line {line} of the guide: this is not in the code any more:\n{block}"
        );
    }
}
