//! What a refund takes back of a payment, and the states it passes. Pure.

use innover_money::{Currency, Money, MoneyError, Rate, Rounding, convert};
use serde::Serialize;

/// Where a refund stands. `pending` is left once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Its amount is taken off what is left; the ledger is at work.
    Pending,
    /// Booked: the payer has it back.
    Succeeded,
    /// Refused: nothing was booked, and its amount is free again.
    Failed,
}

impl State {
    /// Every state.
    pub const ALL: [State; 3] = [State::Pending, State::Succeeded, State::Failed];

    /// The name on the wire and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            State::Pending => "pending",
            State::Succeeded => "succeeded",
            State::Failed => "failed",
        }
    }

    /// The state of this name.
    pub fn parse(name: &str) -> Option<State> {
        State::ALL.into_iter().find(|s| s.as_str() == name)
    }

    /// The event that announces the state.
    pub const fn event(self) -> &'static str {
        match self {
            State::Pending => "refund.initiated",
            State::Succeeded => "refund.succeeded",
            State::Failed => "refund.failed",
        }
    }
}

/// The amounts of an entry, in minor units, none below zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Legs {
    /// The payer's, in the source currency.
    pub source: i64,
    /// The house's margin of it.
    pub margin: i64,
    /// The payee's, in the target currency.
    pub target: i64,
}

impl Legs {
    /// What was converted: the source without the margin.
    fn kept(self) -> i64 {
        self.source - self.margin
    }
}

/// Why nothing is refunded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Less than that is left of the payment.
    #[error("{left} of the payment can still be refunded, pending refunds taken off")]
    Exceeds {
        /// What is left.
        left: Money,
    },
    /// The payment's amounts are none that could have been booked.
    #[error("the payment's amounts do not fit: {0}")]
    Amount(#[from] MoneyError),
}

/// What a payment was booked at. It holds only what the ledger can have booked: the payer paid, the
/// margin is a part of that, and the payee got something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    captured: Legs,
    source: Currency,
    target: Currency,
    rate: Rate,
}

impl Terms {
    /// The terms of a payment of `captured` at `rate` (target units per source unit).
    ///
    /// # Errors
    /// [`MoneyError::OutOfRange`] for amounts no payment has, [`MoneyError::CurrencyNotPayable`].
    pub fn new(
        captured: Legs,
        source: Currency,
        target: Currency,
        rate: Rate,
    ) -> Result<Terms, MoneyError> {
        let margin_fits = (0..captured.source).contains(&captured.margin);
        if !margin_fits || captured.target <= 0 {
            return Err(MoneyError::OutOfRange);
        }
        Ok(Terms {
            captured,
            source: source.payable()?,
            target: target.payable()?,
            rate,
        })
    }

    /// The amounts of the payment.
    pub fn captured(&self) -> Legs {
        self.captured
    }

    /// The payer's currency.
    pub fn source(&self) -> Currency {
        self.source
    }

    /// The payee's currency.
    pub fn target(&self) -> Currency {
        self.target
    }

    /// Target units per source unit.
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// Whether parts of it are rounded. Their costs follow a running total, so that one which is
    /// computed on another that then fails would be short of what that one gave for both: only one may
    /// be pending at a time, or a payer and a payee in league could have the house pay cent by cent.
    pub fn is_converted(&self) -> bool {
        self.captured.source != self.captured.target || self.source != self.target
    }

    /// The legs of a refund of `amount` source minor units, greater than zero, when `refunded` is
    /// taken already.
    ///
    /// Each leg is what the running total makes less what earlier refunds took, so that parts sum to
    /// the payment whatever their sizes. The total is rounded toward the house, as conversions are:
    /// what the payee gives back up, what the house gives back of its margin down. The last part is
    /// the rest.
    ///
    /// `refunded` may be off the line the running total draws, where a refund failed on which a later
    /// one was computed (as was possible once). A part never takes more of a leg than the payment has
    /// left, so the rest still comes out exactly.
    ///
    /// # Errors
    /// [`Refusal::Exceeds`] when less is left.
    pub fn part(&self, refunded: Legs, amount: i64) -> Result<Legs, Refusal> {
        let captured = self.captured;
        let left = captured.source - refunded.source;
        if amount > left {
            let left = Money::new(left, self.source)?;
            return Err(Refusal::Exceeds { left });
        }
        let total = refunded.source + amount;
        // Between what the converted part has no room for, and what is left of the margin: the
        // first is never above the second while no leg has taken more than it has.
        let at_least = amount - (captured.kept() - refunded.kept());
        let at_most = amount.min(captured.margin - refunded.margin);
        let margin = self.margin_of(total)? - refunded.margin;
        let margin = margin.max(at_least.max(0)).min(at_most);
        let target = if amount == left {
            captured.target
        } else {
            let converted = self.target_of(refunded.kept() + amount - margin)?;
            converted.min(captured.target)
        };
        Ok(Legs {
            source: amount,
            margin,
            target: (target - refunded.target).max(0),
        })
    }

    /// The margin's share of `total` source minor units.
    fn margin_of(&self, total: i64) -> Result<i64, MoneyError> {
        if self.captured.margin == 0 {
            return Ok(0);
        }
        let [margin, source] =
            [self.captured.margin, self.captured.source].map(|minor| minor.unsigned_abs().into());
        let share = Rate::new(margin, source)?;
        let total = Money::new(total, self.source)?;
        let margin = convert(total, &share, self.source, Rounding::Down)?;
        Ok(margin.result.minor())
    }

    /// `kept` source minor units at the payment's rate.
    fn target_of(&self, kept: i64) -> Result<i64, MoneyError> {
        let kept = Money::new(kept, self.source)?;
        let target = convert(kept, &self.rate, self.target, Rounding::Up)?;
        Ok(target.result.minor())
    }
}
