//! What a case is and how it changes. Pure: each function takes a case and returns the one after.

use innover_money::{Currency, Money};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::limits::{
    COMMENT_CHARS_MAX, OWNER_BYTES_MAX, REASON_CHARS_MAX, SCORE_BACKOFF_MAX_US, SCORE_BACKOFF_US,
    SCORE_JITTER_PERCENT, TITLE_CHARS_MAX,
};

macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($(#[$about:meta])* $variant:ident $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
        pub enum $name { $($(#[$about])* #[serde(rename = $text)] $variant,)* }

        impl $name {
            /// Every one.
            pub const ALL: &[$name] = &[$($name::$variant,)*];

            /// The name on the wire and in the database.
            pub const fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }

            /// The one of this name.
            pub fn parse(name: &str) -> Option<$name> {
                $name::ALL.iter().copied().find(|one| one.as_str() == name)
            }
        }
    };
}

named! {
    /// Where a case stands.
    State {
        /// Nobody works on it yet.
        Open "open",
        /// Its owner does.
        InProgress "in_progress",
        /// Decided.
        Approved "approved",
        /// Decided.
        Rejected "rejected",
    }
}

named! {
    /// What the scoring service said of it.
    ScoreState {
        /// It was not asked, or has not answered yet.
        None "none",
        /// It was asked and failed; it will be asked again.
        Pending "PENDING_SCORE",
        /// There is a score.
        Scored "scored",
    }
}

named! {
    /// How urgent a case is.
    Priority {
        /// When there is time.
        Low "low",
        /// In its turn.
        Normal "normal",
        /// Before others.
        High "high",
        /// Now.
        Urgent "urgent",
    }
}

named! {
    /// Whether the payment of a case has done what was decided.
    PaymentFollows {
        /// Nothing was decided, or the case has no payment.
        Nothing "nothing",
        /// The payment service is being asked to.
        Asked "asked",
        /// The payment and the case agree.
        Followed "followed",
        /// The payment was decided otherwise elsewhere, and the case took that over.
        Overruled "overruled",
    }
}

impl State {
    /// Whether it is decided.
    pub const fn is_final(self) -> bool {
        matches!(self, State::Approved | State::Rejected)
    }
}

/// A decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Approve,
    Reject,
}

impl Verdict {
    /// The state it leads to.
    pub const fn state(self) -> State {
        match self {
            Verdict::Approve => State::Approved,
            Verdict::Reject => State::Rejected,
        }
    }

    /// What the state of a payment says of its review: `None` while it lasts. A payment that failed
    /// later was approved before.
    pub fn of_payment(state: &str) -> Option<Verdict> {
        match state {
            "declined" | "cancelled" => Some(Verdict::Reject),
            "initiated" | "converting" | "posting" | "processing" | "completed" | "failed" => {
                Some(Verdict::Approve)
            }
            _ => None,
        }
    }
}

/// A case.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    pub id: String,
    pub title: String,
    /// Whose desk it is on.
    pub owner_id: Option<String>,
    pub priority: Priority,
    pub state: State,
    /// The payment that waits for the decision.
    pub payment_id: Option<String>,
    pub payment_follows: PaymentFollows,
    pub score_state: ScoreState,
    pub score: Option<i64>,
    /// As the scoring service gave them: JSON.
    pub score_reasons: String,
    pub score_model: Option<String>,
    /// RFC 3339, as the scoring service gave it.
    pub scored_at: Option<String>,
    /// Attempts that failed since it was last scored.
    pub score_attempts: i64,
    /// When the next attempt is due, in microseconds.
    pub score_at: Option<i64>,
    pub decision_reason: String,
    pub decided_by: Option<String>,
    /// The decider's identity, as the payment service is told: JSON.
    pub asked_as: Option<String>,
    pub decided_at: Option<i64>,
    pub version: i64,
    pub traceparent: String,
    pub correlation_id: String,
    pub created_by: Option<String>,
    pub created_at: i64,
    pub updated_at: i64,
}

/// Why something is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("{fault}")]
    Field { param: &'static str, fault: String },
    #[error("the case is {}", .0.as_str())]
    Decided(State),
    #[error("the case is {}; only an open case is started", .0.as_str())]
    Started(State),
}

/// A text of a person, of 1 to `max` characters. Line breaks are allowed where `lines` says so.
fn text(param: &'static str, text: &str, max: usize, lines: bool) -> Result<(), Refusal> {
    let control = |c: char| c.is_control() && !(lines && matches!(c, '\n' | '\r' | '\t'));
    let fits = !text.trim().is_empty() && text.chars().count() <= max;
    if fits && !text.chars().any(control) {
        return Ok(());
    }
    let fault = format!("1 to {max} characters, no control characters");
    Err(Refusal::Field { param, fault })
}

/// Whether a title is acceptable.
pub fn check_title(title: &str) -> Result<(), Refusal> {
    text("/title", title, TITLE_CHARS_MAX, false)
}

/// Whether a comment is acceptable.
pub fn check_comment(body: &str) -> Result<(), Refusal> {
    text("/body", body, COMMENT_CHARS_MAX, true)
}

/// Whether a reason is acceptable.
pub fn check_reason(reason: &str) -> Result<(), Refusal> {
    text("/reason", reason, REASON_CHARS_MAX, true)
}

/// Whether an owner's id is acceptable.
pub fn check_owner(id: &str) -> Result<(), Refusal> {
    let plain = |b: u8| b.is_ascii_graphic();
    if (1..=OWNER_BYTES_MAX).contains(&id.len()) && id.bytes().all(plain) {
        return Ok(());
    }
    Err(Refusal::Field {
        param: "/owner_id",
        fault: format!("the subject of a person's tokens, at most {OWNER_BYTES_MAX} bytes"),
    })
}

impl Case {
    /// A case nobody has looked at, due to be scored.
    pub fn opened(id: String, title: String, now: i64) -> Case {
        Case {
            id,
            title,
            owner_id: None,
            priority: Priority::Normal,
            state: State::Open,
            payment_id: None,
            payment_follows: PaymentFollows::Nothing,
            score_state: ScoreState::None,
            score: None,
            score_reasons: "[]".into(),
            score_model: None,
            scored_at: None,
            score_attempts: 0,
            score_at: Some(now),
            decision_reason: String::new(),
            decided_by: None,
            asked_as: None,
            decided_at: None,
            version: 1,
            traceparent: String::new(),
            correlation_id: String::new(),
            created_by: None,
            created_at: now,
            updated_at: now,
        }
    }

    fn next(&self, now: i64) -> Case {
        Case {
            version: self.version + 1,
            updated_at: now,
            ..self.clone()
        }
    }

    fn undecided(&self) -> Result<(), Refusal> {
        match self.state.is_final() {
            true => Err(Refusal::Decided(self.state)),
            false => Ok(()),
        }
    }

    /// Puts it on somebody's desk.
    pub fn assign(&self, owner: &str, now: i64) -> Result<Case, Refusal> {
        check_owner(owner)?;
        self.undecided()?;
        let mut case = self.next(now);
        case.owner_id = Some(owner.to_owned());
        Ok(case)
    }

    /// `who` begins to work on it; without an owner it is theirs from then on.
    pub fn start(&self, who: &str, now: i64) -> Result<Case, Refusal> {
        if self.state != State::Open {
            return Err(Refusal::Started(self.state));
        }
        let mut case = self.next(now);
        case.state = State::InProgress;
        case.owner_id = case.owner_id.or_else(|| Some(who.to_owned()));
        Ok(case)
    }

    /// Changes its priority.
    pub fn prioritise(&self, priority: Priority, now: i64) -> Result<Case, Refusal> {
        self.undecided()?;
        let mut case = self.next(now);
        case.priority = priority;
        Ok(case)
    }

    /// Somebody commented on it, which is possible afterwards too.
    pub fn commented(&self, now: i64) -> Case {
        self.next(now)
    }

    /// A person decides. A case of a payment asks that service to follow, as `asked_as`.
    pub fn decide(
        &self,
        verdict: Verdict,
        reason: &str,
        who: &str,
        asked_as: String,
        now: i64,
    ) -> Result<Case, Refusal> {
        check_reason(reason)?;
        self.undecided()?;
        let mut case = self.next(now);
        case.state = verdict.state();
        reason.clone_into(&mut case.decision_reason);
        case.decided_by = Some(who.to_owned());
        case.decided_at = Some(now);
        // Nobody needs a score any more.
        case.score_at = None;
        if case.payment_id.is_some() {
            case.payment_follows = PaymentFollows::Asked;
            case.asked_as = Some(asked_as);
        }
        Ok(case)
    }

    /// The payment's review ended with `verdict`, here or elsewhere; `None` when that is known.
    ///
    /// The payment is right: a decision taken here that came too late for it is replaced, so that a
    /// case never says of its payment what is not so.
    pub fn follow(&self, verdict: Verdict, now: i64) -> Option<Case> {
        if matches!(
            self.payment_follows,
            PaymentFollows::Followed | PaymentFollows::Overruled
        ) {
            return None;
        }
        let mut case = self.next(now);
        case.asked_as = None;
        case.score_at = None;
        case.payment_follows = PaymentFollows::Followed;
        if self.state == verdict.state() {
            return Some(case);
        }
        if self.state.is_final() {
            case.payment_follows = PaymentFollows::Overruled;
        }
        case.state = verdict.state();
        case.decided_by = None;
        case.decided_at = Some(now);
        "the payment was decided elsewhere".clone_into(&mut case.decision_reason);
        Some(case)
    }

    /// The scoring service answered.
    pub fn scored(&self, score: &Score, now: i64) -> Case {
        let mut case = self.next(now);
        case.score_state = ScoreState::Scored;
        case.score = Some(score.score);
        case.score_reasons = json!(score.reasons).to_string();
        case.score_model = Some(score.model.clone());
        case.scored_at = Some(score.scored_at.clone());
        case.score_attempts = 0;
        case.score_at = None;
        case
    }

    /// The scoring service failed; `random` spreads the next attempt.
    pub fn score_failed(&self, now: i64, random: u64) -> Case {
        let mut case = self.next(now);
        case.score_state = ScoreState::Pending;
        case.score_attempts += 1;
        case.score_at = Some(now + backoff_us(case.score_attempts, random));
        case
    }
}

/// What the scoring service answers.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Score {
    /// 0 to 1000.
    pub score: i64,
    #[serde(default)]
    pub reasons: Vec<Value>,
    pub model: String,
    pub scored_at: String,
}

/// How long to wait after `attempts` failures: doubled with each, within a bound, spread by chance.
pub fn backoff_us(attempts: i64, random: u64) -> i64 {
    let doublings = (attempts - 1).clamp(0, 20);
    let wait = (SCORE_BACKOFF_US << doublings).min(SCORE_BACKOFF_MAX_US);
    let spread = wait * SCORE_JITTER_PERCENT / 100;
    let width = u64::try_from(2 * spread).unwrap_or(0).max(1);
    wait - spread + i64::try_from(random % width).unwrap_or(0)
}

/// What is known of a case's payment.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct PaymentFacts {
    pub state: String,
    pub source: Side,
    pub target: Side,
    #[serde(default)]
    pub reason_codes: Vec<String>,
}

/// One side of a payment.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Side {
    /// Decimal; absent while it is not known.
    pub amount: Option<String>,
    pub currency: String,
}

/// What the scoring service is told of a case. What is not known is left out.
pub fn features(case: &Case, payment: Option<&PaymentFacts>) -> Value {
    const HOUR_US: i64 = 3_600_000_000;
    let mut features = json!({
        "priority": case.priority,
        "hour_utc": case.created_at.div_euclid(HOUR_US).rem_euclid(24),
    });
    let Some(payment) = payment else {
        return features;
    };
    let (source, target) = (&payment.source.currency, &payment.target.currency);
    features["currency"] = source.as_str().into();
    features["target_currency"] = target.as_str().into();
    features["cross_currency"] = (source != target).into();
    features["reason_codes"] = payment.reason_codes.clone().into();
    let money = Currency::parse(source).ok().and_then(|currency| {
        let text = payment.source.amount.as_deref()?;
        Money::parse(text, currency).ok()
    });
    if let Some(money) = money {
        features["amount_minor"] = money.minor().into();
        if money.currency() == Currency::EUR {
            features["amount_eur_minor"] = money.minor().into();
        }
    }
    features
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: i64 = 1_795_000_000_000_000;

    fn case() -> Case {
        Case::opened("case_1".into(), "a".into(), NOW)
    }

    fn of_payment() -> Case {
        Case {
            payment_id: Some("pay_1".into()),
            ..case()
        }
    }

    fn decide(case: &Case, verdict: Verdict) -> Result<Case, Refusal> {
        case.decide(verdict, "because", "usr_1", "{}".into(), NOW)
    }

    #[test]
    fn every_name_is_found_again() {
        for state in State::ALL {
            assert_eq!(State::parse(state.as_str()), Some(*state));
            assert_eq!(json!(state), state.as_str());
        }
        assert_eq!(
            ScoreState::parse("PENDING_SCORE"),
            Some(ScoreState::Pending)
        );
        assert_eq!(Priority::parse("URGENT"), None);
    }

    #[test]
    fn the_state_of_a_payment_says_how_its_review_ended() {
        for (state, verdict) in [
            ("review", None),
            ("initiated", Some(Verdict::Approve)),
            ("converting", Some(Verdict::Approve)),
            ("posting", Some(Verdict::Approve)),
            ("processing", Some(Verdict::Approve)),
            ("completed", Some(Verdict::Approve)),
            ("failed", Some(Verdict::Approve)),
            ("declined", Some(Verdict::Reject)),
            ("cancelled", Some(Verdict::Reject)),
            ("nobody knows", None),
        ] {
            assert_eq!(Verdict::of_payment(state), verdict, "{state}");
        }
    }

    #[test]
    fn what_is_known_of_a_payment_becomes_features_and_the_rest_is_left_out() {
        let mut case = of_payment();
        case.created_at = 23 * 3_600_000_000 + 59;
        assert_eq!(
            features(&case, None),
            json!({"priority": "normal", "hour_utc": 23})
        );
        let side = |amount: Option<&str>, currency: &str| Side {
            amount: amount.map(str::to_owned),
            currency: currency.into(),
        };
        let payment = |source, target| PaymentFacts {
            state: "review".into(),
            source,
            target,
            reason_codes: vec!["large_amount".into()],
        };
        let euros = payment(side(Some("12.30"), "EUR"), side(None, "EUR"));
        assert_eq!(
            features(&case, Some(&euros)),
            json!({"priority": "normal", "hour_utc": 23, "currency": "EUR",
                   "target_currency": "EUR", "cross_currency": false,
                   "reason_codes": ["large_amount"], "amount_minor": 1230,
                   "amount_eur_minor": 1230})
        );
        let yen = payment(side(Some("500"), "JPY"), side(None, "EUR"));
        let known = features(&case, Some(&yen));
        assert_eq!(
            (&known["amount_minor"], known.get("amount_eur_minor")),
            (&json!(500), None)
        );
        let odd = payment(side(Some("1.5"), "JPY"), side(None, "EUR"));
        assert_eq!(features(&case, Some(&odd)).get("amount_minor"), None);
    }

    #[test]
    fn attempts_wait_longer_each_time_within_a_bound() {
        for (attempts, least, most) in [
            (1, 1_600_000, 2_400_000),
            (2, 3_200_000, 4_800_000),
            (5, 25_600_000, 38_400_000),
            (10, 480_000_000, 720_000_000),
            (i64::MAX, 480_000_000, 720_000_000),
        ] {
            for random in [0, 1, 799_999, u64::MAX, 123_456_789] {
                let wait = backoff_us(attempts, random);
                assert!((least..most).contains(&wait), "{attempts} {random}: {wait}");
            }
        }
    }

    #[test]
    fn a_decision_is_taken_once_and_asks_the_payment_to_follow() {
        let decided = decide(&of_payment(), Verdict::Approve).expect("undecided");
        assert_eq!(
            (decided.state, decided.payment_follows, decided.score_at),
            (State::Approved, PaymentFollows::Asked, None)
        );
        assert_eq!(
            decide(&decided, Verdict::Reject),
            Err(Refusal::Decided(State::Approved))
        );
        assert_eq!(
            decided.assign("usr_2", NOW),
            Err(Refusal::Decided(State::Approved))
        );
        let by_hand = decide(&case(), Verdict::Reject).expect("undecided");
        assert_eq!(
            (by_hand.payment_follows, by_hand.asked_as),
            (PaymentFollows::Nothing, None)
        );
    }

    proptest! {
        #[test]
        fn whatever_comes_in_whatever_order_a_settled_case_says_what_its_payment_does(
            steps in prop::collection::vec((0u8..5, any::<bool>()), 0..12),
        ) {
            let mut case = of_payment();
            let mut payment: Option<Verdict> = None;
            for (step, approve) in steps {
                let verdict = if approve { Verdict::Approve } else { Verdict::Reject };
                let after = match step {
                    0 => decide(&case, verdict).ok(),
                    1 => case.start("usr_1", NOW).ok(),
                    2 if case.score_at.is_some() => Some(case.score_failed(NOW, 0)),
                    // The payment's review ends once; it is told of that any number of times.
                    3 | 4 => case.follow(*payment.get_or_insert(verdict), NOW),
                    _ => None,
                };
                if let Some(after) = after {
                    prop_assert_eq!(after.version, case.version + 1);
                    case = after;
                }
                let settled = matches!(
                    case.payment_follows,
                    PaymentFollows::Followed | PaymentFollows::Overruled
                );
                prop_assert_eq!(settled, payment.is_some());
                if let Some(verdict) = payment {
                    prop_assert_eq!(case.state, verdict.state());
                }
                prop_assert!(!case.state.is_final() || case.score_at.is_none());
            }
        }
    }
}
