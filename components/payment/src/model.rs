//! The life of a payment: states, what moves it on, and what each move does. Pure.

use serde::{Deserialize, Serialize};

/// Where a payment stands. Each state is left at most once, towards the states below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Waits for a person's decision.
    Review,
    /// Accepted; the event is on its way to forex.
    Initiated,
    /// Forex is at work.
    Converting,
    /// Converted; the ledger is at work.
    Posting,
    /// Booked; wallets are being updated and the confirmation runs.
    Processing,
    /// Done.
    Completed,
    /// Refused by a rule or a person; nothing was booked.
    Declined,
    /// Could not be done; nothing was booked.
    Failed,
    /// Withdrawn before it was booked.
    Cancelled,
}

impl State {
    /// Every state.
    pub const ALL: [State; 9] = [
        State::Review,
        State::Initiated,
        State::Converting,
        State::Posting,
        State::Processing,
        State::Completed,
        State::Declined,
        State::Failed,
        State::Cancelled,
    ];

    /// The name on the wire and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            State::Review => "review",
            State::Initiated => "initiated",
            State::Converting => "converting",
            State::Posting => "posting",
            State::Processing => "processing",
            State::Completed => "completed",
            State::Declined => "declined",
            State::Failed => "failed",
            State::Cancelled => "cancelled",
        }
    }

    /// The state of this name.
    pub fn parse(name: &str) -> Option<State> {
        State::ALL.into_iter().find(|s| s.as_str() == name)
    }

    /// The event that announces the state.
    pub const fn event(self) -> &'static str {
        match self {
            State::Review => "payment.review",
            State::Initiated => "payment.initiated",
            State::Converting => "payment.converting",
            State::Posting => "payment.posting",
            State::Processing => "payment.processing",
            State::Completed => "payment.completed",
            State::Declined => "payment.declined",
            State::Failed => "payment.failed",
            State::Cancelled => "payment.cancelled",
        }
    }

    /// Whether nothing moves the payment any more.
    pub const fn is_final(self) -> bool {
        matches!(
            self,
            State::Completed | State::Declined | State::Failed | State::Cancelled
        )
    }
}

/// What reached a payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Its own `payment.initiated` went out.
    Announced,
    /// Forex locked a rate.
    Converted,
    /// Forex or the ledger refused.
    Refused,
    /// The ledger booked it.
    Posted,
    /// Both wallets show it.
    WalletsUpdated,
    /// The confirmation job ran.
    Confirmed,
    /// A payment under review was approved: by a person, or by the rules that could not be asked before.
    Approved,
    /// A payment under review was declined, as it may be approved.
    Declined,
    /// Its owner or the house withdrew it, and the ledger will not book it.
    Cancelled,
}

/// Where `signal` takes a payment in `state`; `None` when it changes nothing, as a late or repeated
/// event must. A booked payment can only be completed: no signal leads from `processing` to a
/// failure, so money that moved is never reported as not moved.
pub fn next(state: State, signal: Signal) -> Option<State> {
    use State::*;
    match (state, signal) {
        (Initiated, Signal::Announced) => Some(Converting),
        (Initiated | Converting, Signal::Converted) => Some(Posting),
        (Initiated | Converting | Posting, Signal::Refused) => Some(Failed),
        (Initiated | Converting | Posting, Signal::Posted | Signal::WalletsUpdated) => {
            Some(Processing)
        }
        (Processing, Signal::Confirmed) => Some(Completed),
        (Review, Signal::Approved) => Some(Initiated),
        (Review, Signal::Declined) => Some(Declined),
        // Past `review` only once the ledger has refused it for good: see `api::cancel`.
        (Review | Initiated | Converting | Posting, Signal::Cancelled) => Some(Cancelled),
        _ => None,
    }
}

/// Whether a payment that was booked still lacks what it was converted to. Events of two services
/// overtake each other where they come over two topics: what the ledger says may be here first.
pub fn misses_conversion(state: State, target_minor: Option<i64>) -> bool {
    matches!(state, State::Processing | State::Completed) && target_minor.is_none()
}

/// What the ledger's final refusal means for a payment: a failure, unless it was asked for because
/// someone withdrew the payment. `code` is why the ledger refused; a refusal for a reason of its own
/// stays a failure.
pub fn refused(withdrawn: bool, code: &str) -> Signal {
    if withdrawn && code == LEDGER_GAVE_UP {
        Signal::Cancelled
    } else {
        Signal::Refused
    }
}

/// The ledger's reason when it was asked to refuse a payment from now on.
pub const LEDGER_GAVE_UP: &str = "timed_out";

/// Whether a payment in this state may be withdrawn: until forex takes it.
pub const fn may_be_withdrawn(state: State) -> bool {
    matches!(state, State::Review | State::Initiated)
}

/// What the rules said.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Decision {
    /// approve, review or decline.
    pub outcome: Outcome,
    /// Why.
    #[serde(default)]
    pub reason_codes: Vec<String>,
    /// The rule set that decided.
    #[serde(default)]
    pub version: Option<i64>,
    /// What they were told the amount is in euro cents, where there is a rate.
    #[serde(skip)]
    pub amount_eur_minor: Option<i64>,
}

/// The reason of a payment that is under review only because the rules could not be asked.
pub const RULES_UNAVAILABLE: &str = "rules_unavailable";

/// The rules' outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Go on.
    Approve,
    /// A person decides.
    Review,
    /// Refuse.
    Decline,
}

impl Decision {
    /// The state a new payment starts in.
    pub fn first_state(&self) -> State {
        match self.outcome {
            Outcome::Approve => State::Initiated,
            Outcome::Review => State::Review,
            Outcome::Decline => State::Declined,
        }
    }

    /// Where it takes a payment under review; `None` when that is where it stays.
    pub fn signal(&self) -> Option<Signal> {
        match self.outcome {
            Outcome::Approve => Some(Signal::Approved),
            Outcome::Review => None,
            Outcome::Decline => Some(Signal::Declined),
        }
    }

    /// Its name on a timeline.
    pub fn name(&self) -> &'static str {
        match self.outcome {
            Outcome::Approve => "rules.approve",
            Outcome::Review => "rules.review",
            Outcome::Decline => "rules.decline",
        }
    }

    /// What stands in for the rules when they cannot be asked: a person decides.
    pub fn fallback() -> Decision {
        Decision {
            outcome: Outcome::Review,
            reason_codes: vec![RULES_UNAVAILABLE.into()],
            version: None,
            amount_eur_minor: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNALS: [Signal; 9] = [
        Signal::Announced,
        Signal::Converted,
        Signal::Refused,
        Signal::Posted,
        Signal::WalletsUpdated,
        Signal::Confirmed,
        Signal::Approved,
        Signal::Declined,
        Signal::Cancelled,
    ];

    #[test]
    fn every_name_is_found_again() {
        for state in State::ALL {
            assert_eq!(State::parse(state.as_str()), Some(state));
            assert_eq!(state.event(), format!("payment.{}", state.as_str()));
        }
    }

    #[test]
    fn final_states_are_never_left_and_a_booked_payment_never_fails() {
        for signal in SIGNALS {
            for state in State::ALL {
                let to = next(state, signal);
                if state.is_final() {
                    assert_eq!(to, None, "{state:?} {signal:?}");
                }
                if state == State::Processing {
                    assert!(
                        matches!(to, None | Some(State::Completed)),
                        "{signal:?} → {to:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn no_sequence_of_signals_visits_a_state_twice() {
        // Depth-first over all signals from the three first states: a cycle would not end.
        fn walk(state: State, seen: &mut Vec<State>) {
            assert!(!seen.contains(&state), "{seen:?} then {state:?} again");
            seen.push(state);
            for signal in SIGNALS {
                if let Some(to) = next(state, signal) {
                    walk(to, &mut seen.clone());
                }
            }
        }
        for first in [State::Initiated, State::Review, State::Declined] {
            walk(first, &mut Vec::new());
        }
    }
}
