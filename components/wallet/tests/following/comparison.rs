//! What a wallet shows against what the ledger has.

use innover_money::Currency;
use wallet::model::{
    AccountState, State, Wallet,
    comparison::{Account, Difference, compare},
};

use crate::support::wallet;

fn account(name: &str, posted: i64, version: i64) -> Account {
    Account {
        holds: AccountState {
            account_id: format!("acc_{name}"),
            posted_minor: posted,
            held_minor: 0,
            version,
        },
        currency: Currency::EUR,
        closed: false,
        of_wallet: true,
    }
}

fn shown(name: &str, posted: i64, version: i64) -> Wallet {
    Wallet {
        posted,
        account_version: version,
        ..wallet(name)
    }
}

#[test]
fn each_difference_is_named_and_repaired_where_the_ledger_says_how() {
    use Difference::*;
    let closed = |mut account: Account| {
        account.closed = true;
        account
    };
    let closed_wallet = |wallet: Wallet| Wallet {
        state: State::Closed,
        ..wallet
    };
    for (account, wallet, what, repaired) in [
        (account("a", 5, 3), shown("a", 5, 3), None, false),
        (account("a", 5, 3), shown("a", 4, 2), Some(Lagging), true),
        (account("a", 5, 3), shown("a", 5, 2), Some(Lagging), true),
        (account("a", 5, 3), shown("a", 4, 3), Some(Amounts), true),
        (account("a", 5, 3), shown("a", 9, 4), Some(Ahead), true),
        (
            closed(account("a", 0, 3)),
            shown("a", 0, 3),
            Some(NotClosed),
            true,
        ),
        (
            closed(account("a", 0, 3)),
            closed_wallet(shown("a", 0, 3)),
            None,
            false,
        ),
        (
            account("a", 0, 3),
            closed_wallet(shown("a", 0, 3)),
            Some(NotClosedInLedger),
            false,
        ),
    ] {
        let found = compare(
            std::slice::from_ref(&account),
            std::slice::from_ref(&wallet),
        );
        assert_eq!(
            found.first().map(|f| f.what),
            what,
            "{account:?} {wallet:?}"
        );
        let after = found.first().and_then(|f| f.repaired.clone());
        assert_eq!(after.is_some(), repaired, "{account:?} {wallet:?}");
        if let Some(after) = after {
            assert!(
                compare(&[account], &[after]).is_empty(),
                "the repair is whole"
            );
        }
    }
}

#[test]
fn what_only_one_side_has_is_told() {
    let house = Account {
        of_wallet: false,
        ..account("house", 7, 1)
    };
    let found = compare(
        &[house, account("empty", 0, 0), account("full", 7, 1)],
        &[shown("lone", 0, 0)],
    );
    let found: Vec<_> = found
        .iter()
        .map(|f| (f.what, f.account_id.as_str()))
        .collect();
    assert_eq!(
        found,
        [
            (Difference::NoWallet, "acc_full"),
            (Difference::NoAccount, "acc_lone")
        ]
    );
}
