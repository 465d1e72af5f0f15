//! The checked-in model is what the training makes.

#[path = "../training/fit.rs"]
mod fit;
#[path = "../training/generate.rs"]
mod generate;
#[path = "../training/report.rs"]
mod report;
#[path = "../training/shape.rs"]
mod shape;
#[path = "../training/trained.rs"]
mod trained;

#[test]
fn the_checked_in_model_and_report_are_what_the_training_makes() {
    let made = trained::train();
    for (file, made, checked_in) in [
        ("model.json", made.model, scorer::MODEL_JSON),
        (
            "training/report.md",
            made.report,
            include_str!("../training/report.md"),
        ),
    ] {
        assert!(
            made == checked_in,
            "{file} differs: run `make train-scorer`"
        );
    }
}

#[test]
fn the_documented_numbers_are_those_of_the_report() {
    let documented = include_str!("../../../docs/risk-plugins.md");
    let report = include_str!("../training/report.md");
    // | score at least | flagged | precision | recall | honest flagged |
    for cut in [300, 400, 500, 600] {
        let row = report
            .lines()
            .find(|line| line.starts_with(&format!("| {cut} |")))
            .unwrap_or_default();
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 5, "{row}");
        let row = format!("| {cut} | {} | {} | {} |", cells[2], cells[3], cells[4]);
        assert!(documented.contains(&row), "{row}");
    }
    let auc = report
        .split("AUC ")
        .nth(1)
        .and_then(|rest| rest.split(':').next());
    assert!(documented.contains(&format!("AUC is {}:", auc.unwrap_or_default())));
}
