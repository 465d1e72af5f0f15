//! A wallet takes the newest balance, in whatever order they come.

use innover_money::{Currency, Money};
use proptest::prelude::*;
use wallet::model::{AccountState, OrderError, Projection, State, Wallet, fit};

use crate::support::wallet;

fn state(posted: i64, version: i64) -> AccountState {
    AccountState {
        account_id: "acc_a".into(),
        posted_minor: posted,
        held_minor: 0,
        version,
    }
}

#[test]
fn only_an_active_wallet_takes_part() {
    for (state, active) in [
        (State::Active, true),
        (State::Frozen, false),
        (State::Closed, false),
    ] {
        let wallet = Wallet {
            state,
            ..wallet("a")
        };
        let said = wallet.active();
        let wallet_id = wallet.id.clone();
        let expected = if active {
            Ok(())
        } else {
            Err(OrderError::NotActive { wallet_id, state })
        };
        assert_eq!(said, expected);
    }
}

#[test]
fn both_sides_and_the_amount_are_in_one_currency() {
    let usd = Currency::parse("USD").expect("USD");
    let one = |currency| Money::parse("1.00", currency).expect("an amount");
    let (a, b) = (wallet("a"), wallet("b"));
    let dollars = Wallet {
        currency: usd,
        ..wallet("c")
    };
    let eur = Currency::EUR;
    for (from, to, money, expected) in [
        (&a, Some(&b), one(eur), Ok(())),
        (&a, None, one(eur), Ok(())),
        (&a, Some(&a), one(eur), Err(OrderError::SameWallet)),
        (
            &a,
            Some(&dollars),
            one(eur),
            Err(OrderError::Conversion { from: eur, to: usd }),
        ),
        (
            &a,
            Some(&dollars),
            one(usd),
            Err(OrderError::Conversion { from: eur, to: usd }),
        ),
        (
            &a,
            Some(&b),
            one(usd),
            Err(OrderError::CurrencyMismatch(eur)),
        ),
        (&a, None, one(usd), Err(OrderError::CurrencyMismatch(eur))),
    ] {
        assert_eq!(fit(from, to, money), expected);
    }
}

#[test]
fn what_is_held_cannot_be_used() {
    let holding = Wallet {
        posted: 500,
        held: 120,
        ..wallet("a")
    };
    assert_eq!(holding.available(), 380);
}

proptest! {
    #[test]
    fn the_newest_version_wins_whatever_order_they_come_in(
        versions in Just((1..=20i64).collect::<Vec<_>>()).prop_shuffle(),
        cut in 1usize..20,
    ) {
        let seen = &versions[..cut];
        let mut projection = Projection::new([wallet("a")]);
        for version in seen {
            let touched = projection.follow(&[state(version * 10, *version)]);
            prop_assert_eq!(touched.wallets.len(), 1);
        }
        let newest = seen.iter().max().expect("at least one");
        let after: Vec<_> = projection.moved().map(|w| (w.posted, w.account_version)).collect();
        prop_assert_eq!(after, [(newest * 10, *newest)]);
    }
}
