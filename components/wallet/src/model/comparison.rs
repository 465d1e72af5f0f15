//! What a wallet shows against what the ledger has. Pure.

use std::collections::BTreeMap;

use innover_money::Currency;

use super::{AccountState, State, Wallet};

/// An account as the ledger lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its id and what it holds.
    pub holds: AccountState,
    /// Its currency.
    pub currency: Currency,
    /// Whether it takes no more postings.
    pub closed: bool,
    /// Whether it was opened for a wallet.
    pub of_wallet: bool,
}

/// In what a wallet and the ledger differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// The wallet has an older version of the account: events are on their way, or one was lost.
    Lagging,
    /// The same version, other amounts.
    Amounts,
    /// The wallet has a version the account never had.
    Ahead,
    /// The account is closed, the wallet is not.
    NotClosed,
    /// The wallet is closed, the account is not.
    NotClosedInLedger,
    /// The wallet has no account.
    NoAccount,
    /// An account that holds something has no wallet.
    NoWallet,
}

impl Difference {
    /// As stored and sent.
    pub fn as_str(self) -> &'static str {
        match self {
            Difference::Lagging => "lagging",
            Difference::Amounts => "amounts",
            Difference::Ahead => "ahead",
            Difference::NotClosed => "not_closed",
            Difference::NotClosedInLedger => "not_closed_in_ledger",
            Difference::NoAccount => "no_account",
            Difference::NoWallet => "no_wallet",
        }
    }
}

/// One difference, and the wallet as it should be where that can be repaired here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What differs.
    pub what: Difference,
    /// The account.
    pub account_id: String,
    /// The wallet, if there is one.
    pub wallet: Option<Wallet>,
    /// What the ledger has, if it has it.
    pub ledger: Option<AccountState>,
    /// The wallet after the repair.
    pub repaired: Option<Wallet>,
}

/// Compares a page of accounts with the wallets of the same range of account ids, which were read
/// after it.
pub fn compare(accounts: &[Account], wallets: &[Wallet]) -> Vec<Finding> {
    let mut left: BTreeMap<&str, &Wallet> =
        wallets.iter().map(|w| (w.account_id.as_str(), w)).collect();
    let mut found: Vec<Finding> = Vec::new();
    for account in accounts {
        let holds = &account.holds;
        match left.remove(holds.account_id.as_str()) {
            Some(wallet) => found.extend(differ(account, wallet)),
            None if account.of_wallet && (holds.posted_minor, holds.held_minor) != (0, 0) => {
                found.push(Finding {
                    what: Difference::NoWallet,
                    account_id: holds.account_id.clone(),
                    wallet: None,
                    ledger: Some(holds.clone()),
                    repaired: None,
                });
            }
            // The house's, or one whose wallet was never written: nobody knows its id.
            None => {}
        }
    }
    found.extend(left.into_values().map(|wallet| Finding {
        what: Difference::NoAccount,
        account_id: wallet.account_id.clone(),
        wallet: Some(wallet.clone()),
        ledger: None,
        repaired: None,
    }));
    found
}

/// The first in which they differ, and the wallet with all of it repaired.
fn differ(account: &Account, wallet: &Wallet) -> Option<Finding> {
    let holds = &account.holds;
    let amounts = (wallet.posted, wallet.held) != (holds.posted_minor, holds.held_minor);
    let what = match wallet.account_version.cmp(&holds.version) {
        std::cmp::Ordering::Less => Difference::Lagging,
        std::cmp::Ordering::Greater => Difference::Ahead,
        std::cmp::Ordering::Equal if amounts => Difference::Amounts,
        std::cmp::Ordering::Equal => match (account.closed, wallet.state == State::Closed) {
            (true, false) => Difference::NotClosed,
            (false, true) => Difference::NotClosedInLedger,
            _ => return None,
        },
    };
    let mut repaired = wallet.clone();
    repaired.posted = holds.posted_minor;
    repaired.held = holds.held_minor;
    repaired.account_version = holds.version;
    if account.closed && wallet.state != State::Closed {
        repaired.state = State::Closed;
        repaired.version += 1;
    }
    Some(Finding {
        what,
        account_id: holds.account_id.clone(),
        wallet: Some(wallet.clone()),
        ledger: Some(holds.clone()),
        repaired: (repaired != *wallet).then_some(repaired),
    })
}
