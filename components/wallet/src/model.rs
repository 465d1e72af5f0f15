//! What a wallet is and how it follows the ledger. Pure: no I/O, no clock, no randomness.

pub mod comparison;
pub mod limits;
pub mod movement;

use std::collections::{BTreeMap, BTreeSet};

use innover_money::{Currency, Money};
use serde::Deserialize;

/// Whether a wallet takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Pays and is paid.
    Active,
    /// Neither, for now. What is held in it is released or expires as ever.
    Frozen,
    /// Neither, for good.
    Closed,
}

impl State {
    /// As stored and sent.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Active => "active",
            State::Frozen => "frozen",
            State::Closed => "closed",
        }
    }

    /// The state with this name.
    pub fn parse(text: &str) -> Option<State> {
        [State::Active, State::Frozen, State::Closed]
            .into_iter()
            .find(|s| s.as_str() == text)
    }
}

/// A wallet: one owner, one currency, one ledger account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wallet {
    /// `wal_…`
    pub id: String,
    /// Subject of its owner.
    pub owner: String,
    /// Its one currency.
    pub currency: Currency,
    /// Whether it takes part.
    pub state: State,
    /// Its account in the ledger.
    pub account_id: String,
    /// What the account had posted at `account_version`, in minor units.
    pub posted: i64,
    /// What was reserved of it then, in minor units.
    pub held: i64,
    /// The account's version this balance is of.
    pub account_version: i64,
    /// How often the wallet itself changed.
    pub version: i64,
    /// Microseconds since the epoch.
    pub created_at: i64,
}

/// What the ledger says an account holds after an entry.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct AccountState {
    /// The account.
    pub account_id: String,
    /// Minor units.
    pub posted_minor: i64,
    /// Minor units.
    pub held_minor: i64,
    /// The account's version.
    pub version: i64,
}

/// Why money does not move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OrderError {
    /// A wallet is frozen or closed.
    NotActive {
        /// Which.
        wallet_id: String,
        /// What it is.
        state: State,
    },
    /// The amount is in another currency than the wallet.
    CurrencyMismatch(Currency),
    /// The wallets are in different currencies.
    Conversion {
        /// The payer's.
        from: Currency,
        /// The payee's.
        to: Currency,
    },
    /// Payer and payee are one.
    SameWallet,
}

/// Whether the two sides of a movement fit each other and the amount, whatever their state is.
///
/// # Errors
/// The rule that says no.
pub fn fit(wallet: &Wallet, other: Option<&Wallet>, money: Money) -> Result<(), OrderError> {
    if let Some(other) = other {
        if other.id == wallet.id {
            return Err(OrderError::SameWallet);
        }
        if other.currency != wallet.currency {
            return Err(OrderError::Conversion {
                from: wallet.currency,
                to: other.currency,
            });
        }
    }
    if wallet.currency != money.currency() {
        return Err(OrderError::CurrencyMismatch(wallet.currency));
    }
    Ok(())
}

impl Wallet {
    /// What its owner may use, in minor units.
    pub fn available(&self) -> i64 {
        // Both come from the ledger, whose available balance of a wallet is never below zero.
        self.posted.saturating_sub(self.held)
    }

    /// Whether it takes part: a frozen wallet neither gives nor takes.
    ///
    /// # Errors
    /// [`OrderError::NotActive`].
    pub fn active(&self) -> Result<(), OrderError> {
        if self.state == State::Active {
            return Ok(());
        }
        Err(OrderError::NotActive {
            wallet_id: self.id.clone(),
            state: self.state,
        })
    }

    /// Takes over what the ledger says, unless it is older than what is known; whether it was newer.
    pub fn follow(&mut self, account: &AccountState) -> bool {
        let newer = account.version > self.account_version;
        if newer {
            self.posted = account.posted_minor;
            self.held = account.held_minor;
            self.account_version = account.version;
        }
        newer
    }
}

/// The wallets that a batch of ledger events touches.
#[derive(Clone, Debug, Default)]
pub struct Projection {
    by_account: BTreeMap<String, Wallet>,
    moved: BTreeSet<String>,
}

/// What one event did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Touched {
    /// The wallets whose accounts it names, as they stand after it.
    pub wallets: Vec<Wallet>,
    /// Whether it was news for any of them.
    pub moved: bool,
}

impl Projection {
    /// A projection of these wallets as read.
    pub fn new(wallets: impl IntoIterator<Item = Wallet>) -> Projection {
        let by_account = wallets
            .into_iter()
            .map(|w| (w.account_id.clone(), w))
            .collect();
        Projection {
            by_account,
            moved: BTreeSet::new(),
        }
    }

    /// Applies what one event says of accounts. Accounts that belong to no wallet are the house's.
    pub fn follow(&mut self, accounts: &[AccountState]) -> Touched {
        let mut named: BTreeSet<&str> = BTreeSet::new();
        let mut moved = false;
        for account in accounts {
            let Some(wallet) = self.by_account.get_mut(&account.account_id) else {
                continue;
            };
            if wallet.follow(account) {
                moved = true;
                self.moved.insert(account.account_id.clone());
            }
            named.insert(&account.account_id);
        }
        let wallets = named
            .iter()
            .filter_map(|account| self.by_account.get(*account));
        Touched {
            wallets: wallets.cloned().collect(),
            moved,
        }
    }

    /// The wallets that moved.
    pub fn moved(&self) -> impl Iterator<Item = &Wallet> {
        self.moved
            .iter()
            .filter_map(|account| self.by_account.get(account))
    }
}
