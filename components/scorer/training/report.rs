//! `report.md`: what the data looks like and how the model does on data it never saw.

use std::fmt::Write;

use scorer::{Value, model::Model};

use crate::generate::{Kind, Subject};

/// Scores at which the report cuts.
const CUTS: [u16; 6] = [200, 300, 400, 500, 600, 700];

struct Judged {
    score: u16,
    fraud: bool,
}

/// The report's text.
pub fn write(model: &Model, training: &[Subject], held_out: &[Subject]) -> String {
    let judged: Vec<Judged> = held_out
        .iter()
        .filter_map(|subject| {
            Some(Judged {
                score: model.score(&subject.features).ok()?.score,
                fraud: subject.is_fraud(),
            })
        })
        .collect();
    let mut text = format!(
        "# Training of the shipped scorer\n\n\
         Written by `make train-scorer`; do not edit. All data is generated \
         (`generate.rs`): these numbers say how well the model finds what the generator \
         makes, nothing about real payments.\n\n\
         Model `{}`: base {}, {} effects, {} bins.\n\n\
         ## Data\n\n\
         | who pays | label | training | held out | median amount, EUR | median account age, days |\n\
         |---|---|---|---|---|---|\n",
        model.name,
        model.base,
        model.effects.len(),
        model.effects.iter().map(|e| e.points.len()).sum::<usize>(),
    );
    for (kind, _) in Kind::ALL {
        let of = |all: &[Subject]| all.iter().filter(|s| s.kind == kind).count();
        let fraud = training.iter().any(|s| s.kind == kind && s.is_fraud());
        row(
            &mut text,
            &[
                format!("{kind:?}").to_lowercase(),
                (if fraud { "fraud" } else { "honest" }).into(),
                of(training).to_string(),
                of(held_out).to_string(),
                (median(training, kind, "amount_eur_minor") / 100).to_string(),
                median(training, kind, "payer_account_age_days").to_string(),
            ],
        );
    }
    let frauds = |all: &[Subject]| all.iter().filter(|s| s.is_fraud()).count();
    row(
        &mut text,
        &[
            "all".into(),
            format!("{} fraud", percent(frauds(training), training.len())),
            training.len().to_string(),
            held_out.len().to_string(),
            String::new(),
            String::new(),
        ],
    );
    let _ = write!(
        text,
        "\n## On held-out data\n\n\
         AUC {}: the share of pairs, one fraud and one honest, in which the fraud has the higher \
         score.\n\n\
         | score at least | flagged | precision | recall | honest flagged |\n|---|---|---|---|---|\n",
        auc(&judged)
    );
    for cut in CUTS {
        let flagged = judged.iter().filter(|j| j.score >= cut);
        let (count, found) = flagged.fold((0, 0), |(count, found), j| {
            (count + 1, found + usize::from(j.fraud))
        });
        let all = judged.iter().filter(|j| j.fraud).count();
        row(
            &mut text,
            &[
                cut.to_string(),
                count.to_string(),
                percent(found, count),
                percent(found, all),
                percent(count - found, judged.len() - all),
            ],
        );
    }
    text.push_str(
        "\nWhat a score says: 500 is an even chance, and 50 points double the odds. Held against it, \
         the share of fraud that each band really had:\n\n\
         | score | subjects | share by the score | share seen |\n|---|---|---|---|\n",
    );
    for low in (0..1_000).step_by(100) {
        let band: Vec<&Judged> = judged
            .iter()
            .filter(|j| (low..low + 100).contains(&j.score) || (low == 900 && j.score == 1_000))
            .collect();
        if band.is_empty() {
            continue;
        }
        let expected: f64 = band.iter().map(|j| expected(j.score)).sum::<f64>();
        let seen = band.iter().filter(|j| j.fraud).count();
        row(
            &mut text,
            &[
                format!("{low} to {}", if low == 900 { 1_000 } else { low + 99 }),
                band.len().to_string(),
                format!("{:.1} %", 100.0 * expected / band.len() as f64),
                percent(seen, band.len()),
            ],
        );
    }
    text
}

fn row(text: &mut String, cells: &[String]) {
    let _ = writeln!(text, "| {} |", cells.join(" | "));
}

fn percent(part: usize, whole: usize) -> String {
    match whole {
        0 => "none".into(),
        _ => format!("{:.1} %", 100.0 * part as f64 / whole as f64),
    }
}

fn expected(score: u16) -> f64 {
    1.0 / (1.0 + libm::exp2((500.0 - f64::from(score)) / 50.0))
}

fn median(all: &[Subject], kind: Kind, feature: &str) -> i64 {
    let mut values: Vec<i64> = all
        .iter()
        .filter(|subject| subject.kind == kind)
        .flat_map(|subject| &subject.features)
        .filter(|fact| fact.name == feature)
        .filter_map(|fact| match fact.value {
            Value::Integer(n) => Some(n),
            _ => None,
        })
        .collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Three digits; equal scores count half.
fn auc(judged: &[Judged]) -> String {
    let (mut honest, mut fraud) = ([0_u64; 1_001], [0_u64; 1_001]);
    for j in judged {
        let counts = if j.fraud { &mut fraud } else { &mut honest };
        counts[usize::from(j.score)] += 1;
    }
    let (mut below, mut twice) = (0, 0);
    for (honest, fraud) in honest.iter().zip(&fraud) {
        twice += fraud * (2 * below + honest);
        below += honest;
    }
    let pairs = below * fraud.iter().sum::<u64>();
    format!("{:.3}", twice as f64 / (2 * pairs).max(1) as f64)
}
