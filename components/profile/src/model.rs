//! What a profile is and how it changes: pure.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

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
}

impl State {
    /// As stored.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Active => "active",
            State::Suspended => "suspended",
        }
    }

    /// As read.
    pub fn parse(text: &str) -> Option<State> {
        [State::Active, State::Suspended]
            .into_iter()
            .find(|state| state.as_str() == text)
    }
}

/// A profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// The subject.
    pub id: String,
    /// As its last token said.
    pub username: String,
    /// As its last token said.
    pub email: String,
    /// What it calls itself.
    pub display_name: String,
    /// ISO 3166-1 alpha-2.
    pub country: Option<String>,
    /// 0 (unknown) to 3.
    pub kyc_tier: i64,
    /// Whether it may act.
    pub state: State,
    /// 1 and up, by one per change.
    pub version: i64,
    /// Microseconds.
    pub created_at: i64,
    /// Microseconds.
    pub updated_at: i64,
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
}

/// What people say about themselves.
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
            return Err(Refusal::Field {
                param: "/display_name",
                fault: format!(
                    "a display name is 1 to {DISPLAY_NAME_CHARS_MAX} characters, without control characters or spaces around it"
                ),
            });
        }
        let is_code =
            |code: &String| code.len() == 2 && code.bytes().all(|b| b.is_ascii_uppercase());
        if !self.country.as_ref().is_none_or(is_code) {
            let fault = "a country is a code of ISO 3166-1, two capital letters, e.g. DE".into();
            return Err(Refusal::Field {
                param: "/country",
                fault,
            });
        }
        Ok(self)
    }
}

/// What operations decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// How far the subject is known.
    Tier(i64),
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

/// The profile of `id` after its owner wrote `details`; the same profile when nothing differs.
///
/// # Errors
/// [`Refusal::Suspended`].
pub fn write(
    before: Option<&Profile>,
    id: &str,
    details: Details,
    now_us: i64,
) -> Result<Profile, Refusal> {
    let Details {
        username,
        email,
        display_name,
        country,
    } = details;
    let Some(before) = before else {
        return Ok(Profile {
            id: id.into(),
            username,
            email,
            display_name,
            country,
            kyc_tier: 0,
            state: State::Active,
            version: 1,
            created_at: now_us,
            updated_at: now_us,
        });
    };
    if before.state == State::Suspended {
        return Err(Refusal::Suspended);
    }
    let after = Profile {
        username,
        email,
        display_name,
        country,
        ..before.clone()
    };
    if after == *before {
        return Ok(after);
    }
    Ok(Profile {
        version: before.version + 1,
        updated_at: now_us,
        ..after
    })
}

/// The profile after a decision of operations, and the field's values before and after it.
///
/// # Errors
/// [`Refusal::Field`] for a tier that does not exist.
pub fn decide(
    before: &Profile,
    change: Change,
    now_us: i64,
) -> Result<(Profile, String, String), Refusal> {
    let mut after = before.clone();
    let (was, is) = match change {
        Change::Tier(tier) if !(0..=TIER_MAX).contains(&tier) => {
            return Err(Refusal::Field {
                param: "/tier",
                fault: format!("a tier is 0 to {TIER_MAX}"),
            });
        }
        Change::Tier(tier) => {
            after.kyc_tier = tier;
            (before.kyc_tier.to_string(), tier.to_string())
        }
        Change::State(state) => {
            after.state = state;
            (before.state.as_str().to_owned(), state.as_str().to_owned())
        }
    };
    if after != *before {
        after.version += 1;
        after.updated_at = now_us;
    }
    Ok((after, was, is))
}
