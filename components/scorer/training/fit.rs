//! Logistic regression on bins: one weight per bin, found by Newton steps over one effect at a time.
//! Weights are drawn towards zero, so a bin that few subjects fall into says little.

use scorer::model::Model;

use crate::generate::Subject;

/// Points that double the odds.
const DOUBLING: f64 = 50.0;
/// The score at even odds.
const EVEN: f64 = 500.0;
/// As if each bin had been seen with this much evidence of no effect.
const TOWARDS_ZERO: f64 = 4.0;
/// After so many rounds no weight moves by a point any more.
const ROUNDS: usize = 60;

fn probability(log_odds: f64) -> f64 {
    // `libm` is the same code on every machine; the platform's `exp` is not.
    1.0 / (1.0 + libm::exp(-log_odds))
}

/// `model` with the points that fit the subjects best.
pub fn fit(mut model: Model, subjects: &[Subject]) -> Model {
    let bins: Vec<Vec<Option<usize>>> = model
        .effects
        .iter()
        .map(|effect| {
            let bin = |subject: &Subject| effect.bin(&subject.features).unwrap_or_default();
            subjects.iter().map(bin).collect()
        })
        .collect();
    let labels: Vec<f64> = subjects
        .iter()
        .map(|subject| f64::from(u8::from(subject.is_fraud())))
        .collect();
    let mut weights: Vec<Vec<f64>> = model
        .effects
        .iter()
        .map(|effect| vec![0.0; effect.bins()])
        .collect();
    // The base is not fitted: of whom nothing is known, the share of fraud is all there is to say.
    let frauds = labels.iter().sum::<f64>();
    let base = libm::log(frauds / (labels.len() as f64 - frauds));
    let mut log_odds = vec![base; subjects.len()];
    for _ in 0..ROUNDS {
        for (weights, bins) in weights.iter_mut().zip(&bins) {
            step(weights, bins, &labels, &mut log_odds);
        }
    }
    let points = |weight: f64| (weight * DOUBLING / std::f64::consts::LN_2).round() as i32;
    model.base = EVEN as i32 + points(base);
    for (effect, weights) in model.effects.iter_mut().zip(weights) {
        effect.points = weights.into_iter().map(points).collect();
    }
    model
}

/// One Newton step for all bins of one effect; no subject is in two of them, so they do not meet.
fn step(weights: &mut [f64], bins: &[Option<usize>], labels: &[f64], log_odds: &mut [f64]) {
    let mut slope: Vec<f64> = weights.iter().map(|w| -TOWARDS_ZERO * w).collect();
    let mut curve = vec![TOWARDS_ZERO; weights.len()];
    for ((bin, label), log_odds) in bins.iter().zip(labels).zip(log_odds.iter()) {
        if let Some(bin) = *bin {
            let p = probability(*log_odds);
            slope[bin] += label - p;
            curve[bin] += p * (1.0 - p);
        }
    }
    // A bound on the step: from zero, the first one of a rare bin would overshoot.
    let change = |(slope, curve): (&f64, &f64)| (slope / curve).clamp(-1.0, 1.0);
    let changes: Vec<f64> = slope.iter().zip(&curve).map(change).collect();
    for (weight, change) in weights.iter_mut().zip(&changes) {
        *weight += change;
    }
    for (bin, log_odds) in bins.iter().zip(log_odds) {
        if let Some(bin) = *bin {
            *log_odds += changes[bin];
        }
    }
}

/// The model as it is checked in: one effect per line, to be read and compared.
pub fn json(model: &Model) -> String {
    let effects: Vec<String> = model
        .effects
        .iter()
        .filter_map(|effect| serde_json::to_string(effect).ok())
        .collect();
    format!(
        "{{\n\"name\": \"{}\",\n\"base\": {},\n\"effects\": [\n{}\n]\n}}\n",
        model.name,
        model.base,
        effects.join(",\n")
    )
}
