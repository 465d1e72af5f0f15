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
