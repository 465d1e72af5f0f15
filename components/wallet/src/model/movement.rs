//! What the ledger was asked to do for a wallet, and how the row follows what it did. Pure.

use innover_money::Currency;

/// What kind of movement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// From the house's cash into a wallet.
    TopUp,
    /// From one wallet into another.
    Transfer,
    /// From a wallet into the house's cash.
    Withdrawal,
    /// Reserved in a wallet, for another wallet or the house's cash.
    Hold,
}

impl Kind {
    /// As stored, sent, and named to the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::TopUp => "top_up",
            Kind::Transfer => "transfer",
            Kind::Withdrawal => "withdrawal",
            Kind::Hold => "hold",
        }
    }

    /// The kind with this name.
    pub fn parse(text: &str) -> Option<Kind> {
        [Kind::TopUp, Kind::Transfer, Kind::Withdrawal, Kind::Hold]
            .into_iter()
            .find(|k| k.as_str() == text)
    }

    /// What its ids start with.
    pub fn prefix(self) -> &'static str {
        match self {
            Kind::TopUp => "top",
            Kind::Transfer => "trf",
            Kind::Withdrawal => "wdr",
            Kind::Hold => "hol",
        }
    }
}

/// Where a movement stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The ledger is asked; what it says is not known here.
    Requested,
    /// Nothing was booked and nothing will be.
    Refused,
    /// Booked.
    Posted,
    /// A hold's amount is reserved.
    Held,
    /// A hold was booked, whole or in part; the rest is free again.
    Captured,
    /// A hold was given up.
    Released,
    /// A hold was not captured in time.
    Expired,
}

impl State {
    const ALL: [State; 7] = [
        State::Requested,
        State::Refused,
        State::Posted,
        State::Held,
        State::Captured,
        State::Released,
        State::Expired,
    ];

    /// As stored and sent.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Requested => "requested",
            State::Refused => "refused",
            State::Posted => "posted",
            State::Held => "held",
            State::Captured => "captured",
            State::Released => "released",
            State::Expired => "expired",
        }
    }

    /// The state with this name.
    pub fn parse(text: &str) -> Option<State> {
        State::ALL.into_iter().find(|s| s.as_str() == text)
    }

    /// How far along it is. A movement only ever goes forward, so late and repeated news change
    /// nothing.
    fn rank(self) -> u8 {
        match self {
            State::Requested => 0,
            State::Held => 1,
            _ => 2,
        }
    }
}

/// What is being done to a hold: one request at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settling {
    /// Booking it.
    Capture,
    /// Giving it up.
    Release,
}

impl Settling {
    /// As stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Settling::Capture => "capture",
            Settling::Release => "release",
        }
    }

    /// The name's; `None` for the empty one of a hold nobody is at.
    pub fn parse(text: &str) -> Option<Settling> {
        [Settling::Capture, Settling::Release]
            .into_iter()
            .find(|s| s.as_str() == text)
    }
}

/// The request that settles a hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// What it does.
    pub what: Settling,
    /// Which request: a digest of its caller, the hold and its key.
    pub id: String,
    /// How much is captured, in minor units; 0 for a release.
    pub minor: i64,
}

/// What the ledger has of a movement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// Its amount is reserved.
    Pending {
        /// Until then, in microseconds since the epoch.
        expires_at: Option<i64>,
    },
    /// It is booked.
    Posted {
        /// How much of it, in minor units.
        minor: i64,
        /// The journal entry.
        entry_id: Option<String>,
    },
    /// It was given up.
    Voided,
    /// It was not captured in time.
    Expired,
}

/// A movement as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Movement {
    /// `top_…`, `trf_…`, `wdr_…` or `hol_…`: the ledger knows it by this id.
    pub id: String,
    /// Its place in lists.
    pub place: String,
    /// What it is.
    pub kind: Kind,
    /// Where it stands.
    pub state: State,
    /// How often it changed.
    pub version: i64,
    /// The wallet it was asked of: a top-up's payee, everything else's payer.
    pub wallet_id: String,
    /// The payee's wallet; `None` is the house.
    pub other_wallet: Option<String>,
    /// Whose limit it takes from.
    pub owner: String,
    /// Minor units.
    pub amount: i64,
    /// How much of it was booked, in minor units.
    pub moved: i64,
    /// Of both wallets.
    pub currency: Currency,
    /// What it is for.
    pub reference: String,
    /// The journal entry, once booked.
    pub entry_id: Option<String>,
    /// Why it was refused; empty when it was not.
    pub code: String,
    /// The same in words.
    pub detail: String,
    /// What it takes of its owner's limit of `day`, in euro cents.
    pub allowance: i64,
    /// Days since 1970, UTC.
    pub day: i64,
    /// How long the ledger is to hold it.
    pub expires_in_s: Option<i64>,
    /// Until when it is held, in microseconds since the epoch.
    pub expires_at: Option<i64>,
    /// Who is settling it.
    pub claim: Option<Claim>,
    /// Who asked for it.
    pub created_by: String,
    /// Microseconds since the epoch.
    pub created_at: i64,
    /// When it last changed or the ledger was last about to be asked.
    pub updated_at: i64,
}

/// The code of a movement that was given up because the ledger never got it.
pub const TIMED_OUT: &str = "timed_out";
/// What is said of it.
pub const GIVEN_UP: &str = "the ledger did not get it in time, so it was given up and nothing moved; ask again with a new key";

impl Movement {
    /// Follows what the ledger has of it; whether that was news. The ledger is the judge: a movement
    /// that was given up here although it was booked in the end is booked.
    pub fn follow(&mut self, told: &Told) -> bool {
        let state = match told {
            Told::Pending { .. } => State::Held,
            Told::Posted { .. } if self.kind == Kind::Hold => State::Captured,
            Told::Posted { .. } => State::Posted,
            Told::Voided => State::Released,
            Told::Expired => State::Expired,
        };
        let given_up = self.state == State::Refused && self.code == TIMED_OUT;
        if !given_up && state.rank() <= self.state.rank() {
            return false;
        }
        if let Told::Pending { expires_at } = told {
            self.expires_at = *expires_at;
        }
        if let Told::Posted { minor, entry_id } = told {
            self.moved = *minor;
            self.entry_id.clone_from(entry_id);
        }
        if given_up {
            self.code.clear();
            self.detail.clear();
        }
        self.allowance = match state {
            State::Held => self.allowance,
            _ => self.allowance_of(self.moved),
        };
        self.state = state;
        // The claim stays: who settled it is told so again when it asks again.
        true
    }

    /// Nothing was booked and nothing will be; whether that was news.
    pub fn refuse(&mut self, code: &str, detail: &str) -> bool {
        if self.state != State::Requested {
            return false;
        }
        self.state = State::Refused;
        self.code = code.into();
        self.detail = detail.into();
        self.allowance = 0;
        true
    }

    /// The share of its allowance that `minor` of its amount takes, rounded up so that parts never
    /// slip under a limit.
    fn allowance_of(&self, minor: i64) -> i64 {
        if minor >= self.amount {
            return self.allowance;
        }
        let share = i128::from(self.allowance) * i128::from(minor);
        let amount = i128::from(self.amount).max(1);
        // Not above the allowance, since the part is not above the amount.
        i64::try_from((share + amount - 1) / amount).unwrap_or(self.allowance)
    }

    /// The fields in which a repeated request differs from this movement, by their names in it.
    pub fn differing(&self, other: &Movement) -> Vec<&'static str> {
        [
            ("/amount", self.amount != other.amount),
            ("/currency", self.currency != other.currency),
            (
                match self.kind {
                    Kind::Hold => "/payee_wallet",
                    _ => "/to_wallet",
                },
                self.other_wallet != other.other_wallet,
            ),
            ("/reference", self.reference != other.reference),
            ("/expires_in_s", self.expires_in_s != other.expires_in_s),
        ]
        .into_iter()
        .filter_map(|(name, differs)| differs.then_some(name))
        .collect()
    }

    /// Whether the ledger may still move money for it.
    pub fn is_open(&self) -> bool {
        self.state.rank() < 2
    }
}
