//! Every manifest in `golden/good` parses to the JSON beside it; every one in `golden/bad` is
//! refused with the text beside it. `UPDATE_GOLDEN=1 cargo test -p innover-manifest` rewrites them;
//! read the difference before committing it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::path::{Path, PathBuf};

use innover_manifest::Manifest;
use proptest::prelude::*;

fn manifests(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(folder);
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "toml"))
        .collect();
    files.sort();
    files
}

fn compare(golden: &Path, actual: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(golden, actual).unwrap();
        return;
    }
    let expected = fs::read_to_string(golden).unwrap_or_default();
    assert_eq!(actual, expected, "{} differs", golden.display());
}

#[test]
fn a_good_manifest_parses_to_its_golden_file() {
    let files = manifests("good");
    assert!(!files.is_empty());
    for file in files {
        let toml = fs::read_to_string(&file).unwrap();
        let manifest =
            Manifest::parse(&toml).unwrap_or_else(|error| panic!("{}:\n{error}", file.display()));
        let shown = serde_json::json!({
            "manifest": manifest,
            "unsupported": manifest.unsupported(),
        });
        let json = serde_json::to_string_pretty(&shown).unwrap() + "\n";
        compare(&file.with_extension("json"), &json);
    }
}

#[test]
fn a_bad_manifest_is_refused_with_its_golden_text() {
    let files = manifests("bad");
    assert!(files.len() >= 12);
    for file in files {
        let toml = fs::read_to_string(&file).unwrap();
        let error =
            Manifest::parse(&toml).expect_err(&format!("{} must be refused", file.display()));
        compare(&file.with_extension("err"), &format!("{error}\n"));
    }
}

#[test]
fn the_application_of_this_repository_parses_without_warnings() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../spin.toml");
    let manifest = Manifest::parse(&fs::read_to_string(file).unwrap())
        .unwrap_or_else(|error| panic!("spin.toml:\n{error}"));
    assert_eq!(manifest.warnings, Vec::<String>::new());
    assert_eq!(manifest.unsupported(), Vec::<String>::new());
}

proptest! {
    #[test]
    fn a_damaged_manifest_is_parsed_or_refused_with_places_in_it(
        start in 0usize..5000,
        length in 0usize..40,
        inserted in "[a-z\\[\\]{}=\"\n. 0-9]{0,6}",
    ) {
        let whole = include_str!("golden/good/maximal.toml");
        let start = start % whole.len();
        let end = (start + length).min(whole.len());
        prop_assume!(whole.is_char_boundary(start) && whole.is_char_boundary(end));
        let damaged = format!("{}{inserted}{}", &whole[..start], &whole[end..]);
        if let Err(error) = Manifest::parse(&damaged) {
            prop_assert!(!error.problems.is_empty());
            for problem in &error.problems {
                prop_assert!(problem.line >= 1 && problem.line <= damaged.split('\n').count());
            }
        }
    }
}
