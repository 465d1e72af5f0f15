//! The whole training: data in, the two checked-in files out. No input but the seeds below, and no
//! function whose result differs between machines, so the files are the same everywhere.

use crate::{fit, generate, report, shape};

/// Subjects the model is fitted to.
pub const TRAINING: usize = 60_000;
/// Subjects it never saw, for the report.
pub const HELD_OUT: usize = 20_000;
const TRAINING_SEED: u64 = 1;
const HELD_OUT_SEED: u64 = 2;

/// What a training makes.
pub struct Trained {
    /// `model.json`.
    pub model: String,
    /// `training/report.md`.
    pub report: String,
}

/// Generates, fits and measures.
pub fn train() -> Trained {
    let training = generate::subjects(TRAINING_SEED, TRAINING);
    let held_out = generate::subjects(HELD_OUT_SEED, HELD_OUT);
    let model = fit::fit(shape::untrained(), &training);
    Trained {
        report: report::write(&model, &training, &held_out),
        model: fit::json(&model),
    }
}
