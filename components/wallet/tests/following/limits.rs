//! The table of limits, and what it allows.

use proptest::prelude::*;
use wallet::model::limits::{Exceeded, Limits, NONE, Table, day};

const DEFAULT: &str = "0=250.00/500.00, 1=2000.00/5000.00, 2=15000.00/30000.00, 3=none";

#[test]
fn the_default_of_spin_toml_is_a_table() {
    let manifest = include_str!("../../../../spin.toml");
    let line = manifest
        .lines()
        .find(|line| line.starts_with("wallet_limits"))
        .expect("configured");
    assert!(line.contains(DEFAULT), "docs and tests state it: {line}");
    let table = Table::parse(DEFAULT).expect("a table");
    let tier = |n| (table.of(n).per_transaction, table.of(n).per_day);
    assert_eq!(tier(0), (Some(25_000), Some(50_000)));
    assert_eq!(tier(2), (Some(1_500_000), Some(3_000_000)));
    assert_eq!(tier(3), (None, None));
    for unknown in [-1, 4, i64::MAX] {
        assert_eq!(tier(unknown), tier(0), "{unknown}");
    }
}

#[test]
fn a_table_that_does_not_fit_says_what_is_wrong() {
    for (text, said) in [
        ("", "is not `<tier>=<limits>`"),
        ("0=1/2", "tier 1 is missing"),
        ("0=1/2,1=1/2,2=1/2,3=none,3=none", "tier 3 is there twice"),
        ("4=none", "tier 4 does not exist"),
        ("a=none", "`a` is no tier"),
        ("0=1", "neither `none` nor"),
        ("0=1/x", "`x` is no amount"),
        ("0=-1/1", "`-1` is no amount"),
        ("0=1.001/2", "`1.001` is no amount"),
        ("0=3/2", "more at once than in a day"),
    ] {
        let error = Table::parse(text).expect_err(text);
        assert!(error.contains(said), "{text}: {error}");
    }
}

#[test]
fn a_limit_is_reached_to_the_cent_and_not_passed() {
    let limits = Limits {
        per_transaction: Some(250),
        per_day: Some(500),
    };
    let none = Limits {
        per_transaction: None,
        per_day: None,
    };
    for (limits, used, cents, expected) in [
        (limits, 0, 250, Ok(())),
        (limits, 0, 251, Err(Exceeded::Transaction { limit: 250 })),
        (limits, 250, 250, Ok(())),
        (
            limits,
            251,
            250,
            Err(Exceeded::Day {
                limit: 500,
                used: 251,
            }),
        ),
        (
            limits,
            900,
            1,
            Err(Exceeded::Day {
                limit: 500,
                used: 900,
            }),
        ),
        (none, 0, NONE, Ok(())),
        (
            none,
            1,
            NONE,
            Err(Exceeded::Day {
                limit: NONE,
                used: 1,
            }),
        ),
        (
            none,
            0,
            i64::MAX,
            Err(Exceeded::Transaction { limit: NONE }),
        ),
    ] {
        assert_eq!(limits.check(used, cents), expected, "{used} {cents}");
    }
    assert_eq!(
        (limits.remaining(100), limits.remaining(900)),
        (Some(400), Some(0))
    );
    assert_eq!(none.remaining(7), None);
}

#[test]
fn a_day_begins_at_midnight_utc() {
    const DAY: i64 = 86_400_000_000;
    for (at, expected) in [(0, 0), (DAY - 1, 0), (DAY, 1), (-1, -1)] {
        assert_eq!(day(at), expected);
    }
}

proptest! {
    #[test]
    fn whatever_is_allowed_in_any_order_never_passes_the_day(
        amounts in prop::collection::vec(0i64..400, 0..50),
    ) {
        let limits = Limits { per_transaction: Some(250), per_day: Some(1_000) };
        let mut used = 0;
        for cents in amounts {
            match limits.check(used, cents) {
                Ok(()) => used += cents,
                Err(Exceeded::Transaction { .. }) => prop_assert!(cents > 250),
                Err(Exceeded::Day { .. }) => prop_assert!(used + cents > 1_000),
            }
            prop_assert!(used <= limits.ceiling());
        }
    }
}
