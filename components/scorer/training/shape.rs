//! What the model looks at, by hand: effects, bins and reason codes. The training finds the points.

use scorer::model::{Axis, Bins, Effect, Model};

/// Raised with every change of the shape, the generator or the fit.
const NAME: &str = "shipped/1";

fn texts(values: &[&str]) -> Vec<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

fn axis(feature: &str, bins: Bins) -> Axis {
    Axis {
        feature: feature.into(),
        bins,
    }
}

fn effect(raises: &str, lowers: &str, axes: Vec<Axis>) -> Effect {
    let mut effect = Effect {
        raises: raises.into(),
        lowers: lowers.into(),
        axes,
        points: Vec::new(),
    };
    effect.points = vec![0; effect.bins()];
    effect
}

/// The model with no points.
pub fn untrained() -> Model {
    // Euro cents: 5, 50, 200, 500, 2 000, 10 000, 50 000 euro.
    let amounts = || {
        Bins::Integer(vec![
            500, 5_000, 20_000, 50_000, 200_000, 1_000_000, 5_000_000,
        ])
    };
    let currencies = || Bins::Text(texts(&["EUR", "USD", "GBP"]));
    let new_payee = || axis("new_payee", Bins::Boolean);
    let amount = || axis("amount_eur_minor", amounts());
    let one =
        |raises, lowers, feature: &str, bins| effect(raises, lowers, vec![axis(feature, bins)]);
    Model {
        name: NAME.into(),
        base: 0,
        effects: vec![
            one(
                "amount_unusual",
                "amount_usual",
                "amount_eur_minor",
                amounts(),
            ),
            one(
                "amount_24h_high",
                "amount_24h_low",
                "amount_24h_minor",
                amounts(),
            ),
            one(
                "payments_24h_many",
                "payments_24h_few",
                "payments_24h",
                Bins::Integer(vec![1, 2, 4, 8, 16, 32]),
            ),
            one(
                "account_young",
                "account_established",
                "payer_account_age_days",
                Bins::Integer(vec![1, 7, 30, 90, 365, 1_095]),
            ),
            one(
                "payer_unverified",
                "payer_verified",
                "payer_tier",
                Bins::Integer(vec![1, 2, 3]),
            ),
            one("payee_new", "payee_known", "new_payee", Bins::Boolean),
            one(
                "hour_unusual",
                "hour_usual",
                "hour_utc",
                Bins::Integer(vec![6, 9, 18, 22]),
            ),
            one(
                "currencies_differ",
                "currencies_same",
                "cross_currency",
                Bins::Boolean,
            ),
            effect(
                "currencies_unusual",
                "currencies_usual",
                vec![
                    axis("currency", currencies()),
                    axis("target_currency", currencies()),
                ],
            ),
            one(
                "rules_matched",
                "rules_clear",
                "reason_codes",
                Bins::Texts(texts(&[
                    "amount_over_limit",
                    "amount_over_review_limit",
                    "no_eur_equivalent",
                    "rules_unavailable",
                ])),
            ),
            one(
                "priority_raised",
                "priority_low",
                "priority",
                Bins::Text(texts(&["low", "normal", "high", "urgent"])),
            ),
            // Neither alone says it: a large payment, or a small one of many, to someone new.
            effect(
                "amount_to_new_payee",
                "amount_to_known_payee",
                vec![amount(), new_payee()],
            ),
            effect(
                "small_amounts_repeated",
                "amounts_not_repeated",
                vec![
                    axis("payments_24h", Bins::Integer(vec![8])),
                    axis("amount_eur_minor", Bins::Integer(vec![2_000])),
                ],
            ),
        ],
    }
}
