//! A movement follows the ledger: forward, once, and its allowance with it.

use innover_money::Currency;
use proptest::prelude::*;
use wallet::model::movement::{Kind, Movement, State, TIMED_OUT, Told};

fn movement(kind: Kind, state: State, amount: i64, allowance: i64) -> Movement {
    Movement {
        id: "m".into(),
        place: "p".into(),
        kind,
        state,
        version: 1,
        wallet_id: "wal_a".into(),
        other_wallet: None,
        owner: "usr_anna".into(),
        amount,
        moved: 0,
        currency: Currency::EUR,
        reference: String::new(),
        entry_id: None,
        code: String::new(),
        detail: String::new(),
        allowance,
        day: 0,
        expires_in_s: None,
        expires_at: None,
        claim: None,
        created_by: "usr_anna".into(),
        created_at: 0,
        updated_at: 0,
    }
}

fn posted(minor: i64) -> Told {
    Told::Posted {
        minor,
        entry_id: Some("ent_1".into()),
    }
}

const PENDING: Told = Told::Pending {
    expires_at: Some(9),
};

#[test]
fn every_state_follows_the_ledger_forward_only() {
    use State::*;
    let hold = |state| movement(Kind::Hold, state, 100, 100);
    for (before, told, after) in [
        (hold(Requested), PENDING, Some(Held)),
        (hold(Requested), posted(40), Some(Captured)),
        (hold(Held), posted(40), Some(Captured)),
        (hold(Held), Told::Voided, Some(Released)),
        (hold(Held), Told::Expired, Some(Expired)),
        (hold(Held), PENDING, None),
        (hold(Captured), PENDING, None),
        (hold(Captured), Told::Expired, None),
        (hold(Released), posted(40), None),
        (hold(Expired), posted(40), None),
        (hold(Refused), PENDING, None),
        (
            movement(Kind::Transfer, Requested, 100, 100),
            posted(100),
            Some(Posted),
        ),
        (
            movement(Kind::Transfer, Posted, 100, 100),
            posted(100),
            None,
        ),
        (movement(Kind::TopUp, Refused, 100, 0), posted(100), None),
    ] {
        let mut now = before.clone();
        assert_eq!(now.follow(&told), after.is_some(), "{before:?} {told:?}");
        assert_eq!(now.state, after.unwrap_or(before.state));
        if after.is_none() {
            assert_eq!(now, before);
        }
    }
}

#[test]
fn only_a_request_is_refused_and_what_was_given_up_may_still_turn_out_booked() {
    let mut requested = movement(Kind::Transfer, State::Requested, 100, 70);
    assert!(requested.refuse(TIMED_OUT, "given up"));
    assert_eq!((requested.state, requested.allowance), (State::Refused, 0));
    assert!(!requested.refuse("other", "again"));
    assert!(requested.follow(&posted(100)));
    assert_eq!((requested.state, requested.moved), (State::Posted, 100));
    assert!(requested.code.is_empty());
    let mut posted = movement(Kind::Transfer, State::Posted, 100, 70);
    assert!(!posted.refuse(TIMED_OUT, "given up"));
}

proptest! {
    #[test]
    fn a_capture_keeps_its_share_of_the_allowance_rounded_up(
        amount in 1i64..1_000_000_000_000,
        allowance in 0i64..1_000_000_000_000,
        part in 0.0f64..=1.0,
    ) {
        let captured = ((amount as f64 * part) as i64).clamp(0, amount);
        let mut hold = movement(Kind::Hold, State::Held, amount, allowance);
        hold.follow(&posted(captured));
        let (kept, exact) = (i128::from(hold.allowance), i128::from(allowance) * i128::from(captured));
        prop_assert!(kept * i128::from(amount) >= exact);
        prop_assert!((kept - 1) * i128::from(amount) < exact || kept == 0);
        prop_assert!(hold.allowance <= allowance);
    }

    #[test]
    fn whatever_is_told_in_any_order_a_hold_ends_once(
        told in prop::collection::vec(0usize..4, 0..12),
    ) {
        let mut hold = movement(Kind::Hold, State::Requested, 100, 100);
        let mut ends = 0;
        for n in told {
            let was_open = hold.is_open();
            let news = hold.follow(&[PENDING, posted(30), Told::Voided, Told::Expired][n]);
            if was_open && !hold.is_open() {
                prop_assert!(news);
                ends += 1;
            }
        }
        prop_assert!(ends <= 1);
        prop_assert_eq!(ends == 1, !hold.is_open());
    }
}
