//! `make train-scorer`: generates the labelled data, trains, and writes `model.json` and `report.md`.

use std::{path::Path, process::ExitCode};

mod fit;
mod generate;
mod report;
mod shape;
mod trained;

fn main() -> ExitCode {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let trained = trained::train();
    for (file, text) in [
        ("model.json", &trained.model),
        ("training/report.md", &trained.report),
    ] {
        if let Err(error) = std::fs::write(folder.join(file), text) {
            eprintln!("{file} cannot be written: {error}");
            return ExitCode::FAILURE;
        }
    }
    println!("{}", trained.report);
    ExitCode::SUCCESS
}
