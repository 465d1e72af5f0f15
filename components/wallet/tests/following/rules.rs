//! A wallet takes the newest balance, in whatever order they come.

use innover_money::{Currency, Money};
use proptest::prelude::*;
use wallet::model::{AccountState, Projection, State, TopUpError, Wallet};

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
fn only_an_active_wallet_takes_money_and_only_in_its_currency() {
    let eur = Money::parse("1.00", Currency::EUR).expect("an amount");
    let usd = Money::parse("1.00", Currency::parse("USD").expect("USD")).expect("an amount");
    let with = |state| Wallet {
        state,
        ..wallet("a")
    };
    for (wallet, money, expected) in [
        (with(State::Active), eur, Ok(())),
        (
            with(State::Active),
            usd,
            Err(TopUpError::CurrencyMismatch(Currency::EUR)),
        ),
        (
            with(State::Frozen),
            eur,
            Err(TopUpError::NotActive(State::Frozen)),
        ),
        (
            with(State::Closed),
            eur,
            Err(TopUpError::NotActive(State::Closed)),
        ),
    ] {
        assert_eq!(wallet.may_take(money), expected);
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
