//! What a profile is, how it changes, and which KYC tier it has: pure.

pub mod documents;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use documents::{Kind, Role};

/// Characters of a display name: what fits a statement's line.
pub const DISPLAY_NAME_CHARS_MAX: usize = 100;

/// Bytes of a decision's reason: two or three sentences.
pub const REASON_BYTES_MAX: usize = 500;

/// The best known tier.
pub const TIER_MAX: i64 = 3;

/// Whether a subject may act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It may.
    Active,
    /// Operations stopped it.
    Suspended,
    /// Its personal data is destroyed; the id is never used again.
    Erased,
}

impl State {
    /// As stored.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Active => "active",
            State::Suspended => "suspended",
            State::Erased => "erased",
        }
    }

    /// As read.
    pub fn parse(text: &str) -> Option<State> {
        [State::Active, State::Suspended, State::Erased]
            .into_iter()
            .find(|state| state.as_str() == text)
    }
}

/// What is known to be true of a person; the tier follows from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// The token carried an address.
    pub email: bool,
    /// Verified documents that show who someone is.
    pub identity_documents: i64,
    /// Verified documents that show where someone lives.
    pub address_documents: i64,
}

/// What a tier asks for, beside what the tier below it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Need {
    /// An address in the access token.
    Email,
    /// A verified passport, identity card or driver's licence.
    IdentityDocument,
    /// A verified proof of address.
    ProofOfAddress,
}

/// The table: tier 1 asks for the first, tier 2 for the first two, tier 3 for all.
pub const TIERS: [Need; TIER_MAX as usize] =
    [Need::Email, Need::IdentityDocument, Need::ProofOfAddress];

impl Evidence {
    fn meets(&self, need: Need) -> bool {
        match need {
            Need::Email => self.email,
            Need::IdentityDocument => self.identity_documents > 0,
            Need::ProofOfAddress => self.address_documents > 0,
        }
    }

    /// The highest tier whose needs are met, and those of all below it.
    pub fn tier(&self) -> i64 {
        TIERS.iter().take_while(|need| self.meets(**need)).count() as i64
    }

    /// What is missing for the tier above; `None` at the top.
    pub fn next(&self) -> Option<Need> {
        TIERS.iter().copied().find(|need| !self.meets(*need))
    }

    /// One document more (`by` = 1) or fewer (−1).
    fn count(&mut self, kind: Kind, by: i64) {
        match kind.role() {
            Role::Identity => self.identity_documents += by,
            Role::Address => self.address_documents += by,
            Role::Likeness => {}
        }
    }
}

/// A profile, without what is personal: that is [`Details`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// The subject.
    pub id: String,
    /// 0 (unknown) to 3: of the evidence, or what operations decided.
    pub kyc_tier: i64,
    /// What operations decided, until they decide otherwise.
    pub tier_override: Option<i64>,
    /// What the tier follows from.
    pub evidence: Evidence,
    /// Whether it may act.
    pub state: State,
    /// 1 and up, by one per change.
    pub version: i64,
    /// Microseconds.
    pub created_at: i64,
    /// Microseconds.
    pub updated_at: i64,
}

impl Profile {
    /// Whether its owner may change it.
    ///
    /// # Errors
    /// [`Refusal::Suspended`], [`Refusal::Erased`].
    pub fn may_act(&self) -> Result<(), Refusal> {
        match self.state {
            State::Active => Ok(()),
            State::Suspended => Err(Refusal::Suspended),
            State::Erased => Err(Refusal::Erased),
        }
    }

    fn follow_evidence(&mut self) {
        self.kyc_tier = self.tier_override.unwrap_or(self.evidence.tier());
    }

    /// The version after `before`, if anything differs.
    fn changed_from(mut self, before: &Profile, now_us: i64) -> Profile {
        if self != *before {
            self.version += 1;
            self.updated_at = now_us;
        }
        self
    }
}

/// Why a change is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A field does not fit.
    #[error("{fault}")]
    Field {
        /// JSON pointer.
        param: &'static str,
        /// What is wrong.
        fault: String,
    },
    /// Operations stopped it.
    #[error("the profile is suspended; operations can make it active again")]
    Suspended,
    /// It is no more.
    #[error("the profile was erased; what it held is destroyed for good")]
    Erased,
    /// A document's state does not lead there.
    #[error("a document that is {from} does not become {to}")]
    Transition {
        /// The state it has.
        from: &'static str,
        /// The state it was to have.
        to: &'static str,
    },
}

fn field(param: &'static str, fault: impl Into<String>) -> Refusal {
    Refusal::Field {
        param,
        fault: fault.into(),
    }
}

/// Whether a text is shaped like a code of ISO 3166-1 alpha-2.
fn is_country(code: &str) -> bool {
    code.len() == 2 && code.bytes().all(|b| b.is_ascii_uppercase())
}

const COUNTRY_FAULT: &str = "a country is a code of ISO 3166-1, two capital letters, e.g. DE";

/// What is personal of a profile: what its owner and the owner's token say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Details {
    /// The token's user name.
    pub username: String,
    /// The token's address.
    pub email: String,
    /// 1–100 characters.
    pub display_name: String,
    /// Two capital letters.
    pub country: Option<String>,
}

impl Details {
    /// Checks the fields a person chooses.
    ///
    /// # Errors
    /// [`Refusal::Field`].
    pub fn check(self) -> Result<Details, Refusal> {
        let name = &self.display_name;
        let fits = (1..=DISPLAY_NAME_CHARS_MAX).contains(&name.chars().count());
        if !fits || name.trim() != name || name.chars().any(char::is_control) {
            return Err(field(
                "/display_name",
                format!(
                    "a display name is 1 to {DISPLAY_NAME_CHARS_MAX} characters, without control characters or spaces around it"
                ),
            ));
        }
        if !self.country.as_deref().is_none_or(is_country) {
            return Err(field("/country", COUNTRY_FAULT));
        }
        Ok(self)
    }
}

/// What operations decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// How far the subject is known; `None` lets the tier follow the documents again.
    Tier(Option<i64>),
    /// Whether it may act.
    State(State),
}

impl Change {
    /// The field it changes.
    pub fn field(self) -> &'static str {
        match self {
            Change::Tier(_) => "kyc_tier",
            Change::State(_) => "state",
        }
    }
}

/// The profile of `id` after its owner wrote `details` over those of before; the same profile when
/// nothing differs.
///
/// # Errors
/// [`Refusal::Suspended`], [`Refusal::Erased`].
pub fn write(
    before: Option<(&Profile, &Details)>,
    id: &str,
    details: &Details,
    now_us: i64,
) -> Result<Profile, Refusal> {
    let mut after = match before {
        Some((profile, _)) => profile.clone(),
        None => Profile {
            id: id.into(),
            kyc_tier: 0,
            tier_override: None,
            evidence: Evidence::default(),
            state: State::Active,
            version: 0,
            created_at: now_us,
            updated_at: now_us,
        },
    };
    after.may_act()?;
    if before.is_none_or(|(_, said)| said != details) {
        after.evidence.email = !details.email.is_empty();
        after.follow_evidence();
        after.version += 1;
        after.updated_at = now_us;
    }
    Ok(after)
}

/// The profile after a decision of operations, and the field's values before and after it.
///
/// # Errors
/// [`Refusal::Field`] for a tier that does not exist or a state nobody decides, [`Refusal::Erased`].
pub fn decide(
    before: &Profile,
    change: Change,
    now_us: i64,
) -> Result<(Profile, String, String), Refusal> {
    if before.state == State::Erased {
        return Err(Refusal::Erased);
    }
    let mut after = before.clone();
    let (was, is) = match change {
        Change::Tier(Some(tier)) if !(0..=TIER_MAX).contains(&tier) => {
            return Err(field("/tier", format!("a tier is 0 to {TIER_MAX}")));
        }
        Change::Tier(tier) => {
            after.tier_override = tier;
            after.follow_evidence();
            (before.kyc_tier.to_string(), after.kyc_tier.to_string())
        }
        Change::State(State::Erased) => {
            return Err(field("/state", "a profile is erased by POST …/erase"));
        }
        Change::State(state) => {
            after.state = state;
            (before.state.as_str().to_owned(), state.as_str().to_owned())
        }
    };
    Ok((after.changed_from(before, now_us), was, is))
}

/// The profile after a document of this kind was verified (`by` = 1) or is no longer (−1).
pub fn verified(before: &Profile, kind: Kind, by: i64, now_us: i64) -> Profile {
    let mut after = before.clone();
    after.evidence.count(kind, by);
    after.follow_evidence();
    after.changed_from(before, now_us)
}

/// What is left of a profile: the id and its times.
pub fn erase(before: &Profile, now_us: i64) -> Profile {
    Profile {
        id: before.id.clone(),
        kyc_tier: 0,
        tier_override: None,
        evidence: Evidence::default(),
        state: State::Erased,
        version: before.version + 1,
        created_at: before.created_at,
        updated_at: now_us,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
    use proptest::prelude::*;

    use super::*;

    fn person() -> Profile {
        let details = Details {
            username: "ada".into(),
            email: "ada@example.com".into(),
            display_name: "Ada".into(),
            country: None,
        };
        write(None, "usr_1", &details, 1).unwrap()
    }

    #[test]
    fn the_tier_is_what_the_table_says() {
        for (email, identity, address, tier, next) in [
            (false, 0, 0, 0, Some(Need::Email)),
            (true, 0, 0, 1, Some(Need::IdentityDocument)),
            (true, 1, 0, 2, Some(Need::ProofOfAddress)),
            (true, 2, 0, 2, Some(Need::ProofOfAddress)),
            (true, 1, 1, 3, None),
            // A proof of address proves nothing of someone whose identity is not known.
            (true, 0, 3, 1, Some(Need::IdentityDocument)),
            (false, 1, 1, 0, Some(Need::Email)),
        ] {
            let evidence = Evidence {
                email,
                identity_documents: identity,
                address_documents: address,
            };
            assert_eq!(
                (evidence.tier(), evidence.next()),
                (tier, next),
                "{evidence:?}"
            );
        }
    }

    #[test]
    fn what_operations_decided_stands_until_they_let_the_documents_speak_again() {
        let known = verified(&person(), Kind::Passport, 1, 2);
        assert_eq!((known.kyc_tier, known.version), (2, 2));
        let (lowered, was, is) = decide(&known, Change::Tier(Some(0)), 3).unwrap();
        assert_eq!((lowered.kyc_tier, was.as_str(), is.as_str()), (0, "2", "0"));
        let more = verified(&lowered, Kind::ProofOfAddress, 1, 4);
        assert_eq!((more.kyc_tier, more.evidence.tier()), (0, 3));
        let (free, was, is) = decide(&more, Change::Tier(None), 5).unwrap();
        assert_eq!((free.kyc_tier, was.as_str(), is.as_str()), (3, "0", "3"));
    }

    #[test]
    fn an_erased_profile_holds_nothing_and_takes_nothing() {
        let erased = erase(&verified(&person(), Kind::IdCard, 1, 2), 9);
        assert_eq!((erased.id.as_str(), erased.kyc_tier), ("usr_1", 0));
        assert_eq!(
            (erased.version, erased.created_at, erased.updated_at),
            (3, 1, 9)
        );
        let refused = decide(&erased, Change::Tier(Some(1)), 10);
        assert_eq!(refused.unwrap_err(), Refusal::Erased);
        assert_eq!(erased.may_act(), Err(Refusal::Erased));
    }

    proptest! {
        #[test]
        fn a_document_more_never_lowers_the_tier_and_its_loss_undoes_it(
            email: bool, identity in 0i64..3, address in 0i64..3,
            kind in prop::sample::select(Kind::ALL), decided in prop::option::of(0i64..=3),
        ) {
            let mut before = person();
            before.evidence = Evidence { email, identity_documents: identity, address_documents: address };
            before.tier_override = decided;
            before.follow_evidence();
            let more = verified(&before, kind, 1, 2);
            prop_assert!(more.kyc_tier >= before.kyc_tier);
            if let Some(tier) = decided {
                prop_assert_eq!(more.kyc_tier, tier);
            }
            let less = verified(&more, kind, -1, 3);
            prop_assert_eq!((less.kyc_tier, less.evidence), (before.kyc_tier, before.evidence));
        }
    }
}
