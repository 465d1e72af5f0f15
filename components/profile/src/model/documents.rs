//! Documents: which there are, what they must look like, and who decides on them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{COUNTRY_FAULT, Refusal, field, is_country};

/// Bytes of a document's file. In base64 and with the other fields it fits a request body of 1 MiB.
pub const CONTENT_BYTES_MAX: usize = 720 * 1024;
/// Bytes of all files held of one person: enough for the documents of every tier, and what an export
/// can hold in memory.
pub const CONTENT_BYTES_PER_PERSON_MAX: i64 = 4 << 20;
/// Documents a person ever submits.
pub const DOCUMENTS_PER_PERSON_MAX: i64 = 100;
/// Characters of a document's number, before spaces and hyphens are taken out.
const NUMBER_CHARS_MAX: usize = 32;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// Every one.
            pub const ALL: &[$name] = &[$($name::$variant,)*];

            /// As stored and on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }

            /// As read.
            pub fn parse(text: &str) -> Option<$name> {
                $name::ALL.iter().copied().find(|known| known.as_str() == text)
            }
        }
    };
}

words! {
    /// What a document is.
    Kind {
        /// A passport.
        Passport "passport",
        /// A national identity card.
        IdCard "id_card",
        /// A driver's licence.
        DriversLicense "drivers_license",
        /// A bill or a bank's letter with name and address.
        ProofOfAddress "proof_of_address",
        /// A picture of the person.
        Selfie "selfie",
    }
}

words! {
    /// Where a document stands: `submitted → verifying → verified | rejected`; where rules decide,
    /// `verifying` is skipped. Verified ones end `expired`, and the owner may withdraw.
    Standing {
        /// Waits for its check.
        Submitted "submitted",
        /// Checked; a person has to decide.
        Verifying "verifying",
        /// Counts for the tier.
        Verified "verified",
        /// Does not count.
        Rejected "rejected",
        /// Counted until its last day.
        Expired "expired",
        /// Taken back by its owner; its file is deleted.
        Withdrawn "withdrawn",
    }
}

words! {
    /// What a check found.
    Finding {
        /// An identity document without a number.
        NumberMissing "number_missing",
        /// A number this kind of document does not have.
        NumberFormat "number_format",
        /// An identity document without its last day.
        ExpiryMissing "expiry_missing",
        /// Its last day is over.
        PastExpiry "past_expiry",
        /// No file.
        ContentMissing "content_missing",
        /// Another person has a document with this number.
        DuplicateNumber "duplicate_number",
        /// Only a person can judge this kind of document.
        NeedsPerson "needs_person",
        /// The house wants a person to look at every document.
        ReviewPolicy "review_policy",
    }
}

/// What a kind of document shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Who someone is.
    Identity,
    /// Where someone lives.
    Address,
    /// What someone looks like.
    Likeness,
}

impl Kind {
    /// What it shows.
    pub fn role(self) -> Role {
        match self {
            Kind::Passport | Kind::IdCard | Kind::DriversLicense => Role::Identity,
            Kind::ProofOfAddress => Role::Address,
            Kind::Selfie => Role::Likeness,
        }
    }

    /// How many letters and digits its number has. Passports: at most nine (ICAO 9303-4 §4.2.2);
    /// cards and licences vary by country within these bounds.
    fn number_chars(self) -> Option<std::ops::RangeInclusive<usize>> {
        match self {
            Kind::Passport => Some(6..=9),
            Kind::IdCard => Some(5..=14),
            Kind::DriversLicense => Some(5..=18),
            Kind::ProofOfAddress | Kind::Selfie => None,
        }
    }
}

impl Standing {
    /// Whether a document may go from here to there.
    fn leads_to(self, to: Standing) -> bool {
        use Standing::{Expired, Rejected, Submitted, Verified, Verifying, Withdrawn};
        matches!(
            (self, to),
            (Submitted, Verifying | Verified | Rejected | Withdrawn)
                | (Verifying, Verified | Rejected | Withdrawn)
                // Operations reject what turns out to be forged.
                | (Verified, Rejected | Expired | Withdrawn)
        )
    }

    /// Goes on, or says why not.
    ///
    /// # Errors
    /// [`Refusal::Transition`].
    pub fn go(self, to: Standing) -> Result<Standing, Refusal> {
        if self.leads_to(to) {
            return Ok(to);
        }
        Err(Refusal::Transition {
            from: self.as_str(),
            to: to.as_str(),
        })
    }

    /// How many verified documents more or fewer there are after going from here to there.
    pub fn counts(self, to: Standing) -> i64 {
        i64::from(to == Standing::Verified) - i64::from(self == Standing::Verified)
    }
}

impl Finding {
    /// Whether it settles the matter; the others ask for a person.
    fn rejects(self) -> bool {
        use Finding::{ExpiryMissing, NumberFormat, NumberMissing, PastExpiry};
        matches!(
            self,
            NumberMissing | NumberFormat | ExpiryMissing | PastExpiry
        )
    }

    /// Whether the owner is told. A duplicate says something about someone else.
    pub fn is_told(self) -> bool {
        self != Finding::DuplicateNumber
    }
}

/// What a file is, by its first bytes; whatever its sender calls it.
pub fn media_type(content: &[u8]) -> Option<&'static str> {
    const MAGIC: [(&[u8], &str); 3] = [
        (b"\xff\xd8\xff", "image/jpeg"),
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (b"%PDF-", "application/pdf"),
    ];
    let found = MAGIC.iter().find(|(magic, _)| content.starts_with(magic));
    found.map(|(_, media)| *media)
}

/// A document as its owner submits it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission {
    /// What it is.
    pub kind: Kind,
    /// Who issued it.
    pub country: String,
    /// Its number, as printed.
    pub number: Option<String>,
    /// Its last day, `YYYY-MM-DD`.
    pub expires_on: Option<String>,
    /// The file.
    pub content: Option<Vec<u8>>,
}

impl Submission {
    /// Checks what no document can look like; whether a number fits its kind is for the check.
    ///
    /// # Errors
    /// [`Refusal::Field`].
    pub fn check(mut self) -> Result<Submission, Refusal> {
        if !is_country(&self.country) {
            return Err(field("/country", COUNTRY_FAULT));
        }
        if let Some(number) = self.number {
            let fits = (1..=NUMBER_CHARS_MAX).contains(&number.chars().count());
            if !fits || number.chars().any(char::is_control) {
                return Err(field(
                    "/number",
                    format!("a number is 1 to {NUMBER_CHARS_MAX} characters"),
                ));
            }
            self.number = Some(normalised(&number));
        }
        let size = self.content.as_ref().map_or(0, Vec::len);
        if size > CONTENT_BYTES_MAX {
            return Err(field(
                "/content_base64",
                format!("a file has at most {CONTENT_BYTES_MAX} bytes, this one has {size}"),
            ));
        }
        if self
            .content
            .as_deref()
            .is_some_and(|c| media_type(c).is_none())
        {
            return Err(field(
                "/content_base64",
                "a file is a JPEG, a PNG or a PDF; the first bytes are of none of them",
            ));
        }
        if self.content.is_none() && self.kind.role() != Role::Identity {
            return Err(field(
                "/content_base64",
                "send the file: there is nothing else to check",
            ));
        }
        Ok(self)
    }
}

/// A number as it is compared: without spaces and hyphens, in capitals.
fn normalised(number: &str) -> String {
    number
        .chars()
        .filter(|c| !matches!(c, ' ' | '-'))
        .flat_map(char::to_uppercase)
        .collect()
}

/// What a check looks at.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// What it is.
    pub kind: Kind,
    /// Its number.
    pub number: Option<&'a str>,
    /// Its last day.
    pub expires_on: Option<&'a str>,
    /// Whether there is a file.
    pub has_content: bool,
    /// Whether another person has a document with the same number.
    pub number_taken: bool,
    /// The day of the check, UTC.
    pub today: &'a str,
    /// Whether the house wants a person to look at every document.
    pub review_all: bool,
}

/// The findings of the rules, and where they lead: rejected when one settles it, a person when one
/// asks for it, else verified. Rules see the form of a document only, never that it is genuine.
pub fn check(facts: &Facts) -> (Standing, Vec<Finding>) {
    let mut findings = Vec::new();
    if facts.kind.role() == Role::Identity {
        match (facts.number, facts.kind.number_chars()) {
            (None | Some(""), _) => findings.push(Finding::NumberMissing),
            (Some(number), Some(chars)) => {
                let plain = number
                    .bytes()
                    .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
                if !plain || !chars.contains(&number.len()) {
                    findings.push(Finding::NumberFormat);
                }
            }
            (Some(_), None) => {}
        }
        if facts.expires_on.is_none() {
            findings.push(Finding::ExpiryMissing);
        }
        if !facts.has_content {
            findings.push(Finding::ContentMissing);
        }
        if facts.number_taken {
            findings.push(Finding::DuplicateNumber);
        }
    } else {
        findings.push(Finding::NeedsPerson);
    }
    if is_past(facts.expires_on, facts.today) {
        findings.push(Finding::PastExpiry);
    }
    if facts.review_all {
        findings.push(Finding::ReviewPolicy);
    }
    let standing = if findings.iter().any(|f| f.rejects()) {
        Standing::Rejected
    } else if findings.is_empty() {
        Standing::Verified
    } else {
        Standing::Verifying
    };
    (standing, findings)
}

/// A document counts on its last day and no longer. Days as `YYYY-MM-DD` sort as text.
pub fn is_past(expires_on: Option<&str>, today: &str) -> bool {
    expires_on.is_some_and(|last| last < today)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
    use proptest::prelude::*;

    use super::*;

    const PASSPORT: Facts = Facts {
        kind: Kind::Passport,
        number: Some("C01X00T47"),
        expires_on: Some("2030-01-01"),
        has_content: true,
        number_taken: false,
        today: "2026-11-20",
        review_all: false,
    };

    #[test]
    fn rules_decide_where_they_can_and_a_person_where_not() {
        use Finding::*;
        use Standing::*;
        let with = |change: fn(&mut Facts)| {
            let mut facts = PASSPORT;
            change(&mut facts);
            check(&facts)
        };
        for (change, standing, findings) in [
            ((|_| {}) as fn(&mut Facts), Verified, vec![]),
            (|f| f.expires_on = Some("2026-11-20"), Verified, vec![]),
            (
                |f| f.expires_on = Some("2026-11-19"),
                Rejected,
                vec![PastExpiry],
            ),
            (|f| f.expires_on = None, Rejected, vec![ExpiryMissing]),
            (|f| f.number = None, Rejected, vec![NumberMissing]),
            (|f| f.number = Some(""), Rejected, vec![NumberMissing]),
            (|f| f.number = Some("12345"), Rejected, vec![NumberFormat]),
            (
                |f| f.number = Some("1234567890"),
                Rejected,
                vec![NumberFormat],
            ),
            (|f| f.number = Some("12345Ü"), Rejected, vec![NumberFormat]),
            (|f| f.has_content = false, Verifying, vec![ContentMissing]),
            (|f| f.number_taken = true, Verifying, vec![DuplicateNumber]),
            (|f| f.review_all = true, Verifying, vec![ReviewPolicy]),
            (
                |f| {
                    f.number_taken = true;
                    f.number = Some("1");
                },
                Rejected,
                vec![NumberFormat, DuplicateNumber],
            ),
            (
                |f| {
                    f.kind = Kind::IdCard;
                    f.number = Some("1234567890");
                },
                Verified,
                vec![],
            ),
            (
                |f| {
                    f.kind = Kind::ProofOfAddress;
                    f.number = None;
                    f.expires_on = None;
                },
                Verifying,
                vec![NeedsPerson],
            ),
            (
                |f| {
                    f.kind = Kind::Selfie;
                    f.expires_on = Some("2020-01-01");
                },
                Rejected,
                vec![NeedsPerson, PastExpiry],
            ),
        ] {
            assert_eq!(with(change), (standing, findings));
        }
    }

    #[test]
    fn documents_go_only_where_the_states_lead() {
        use Standing::*;
        let allowed: Vec<(Standing, Standing)> = Standing::ALL
            .iter()
            .flat_map(|from| Standing::ALL.iter().map(|to| (*from, *to)))
            .filter(|(from, to)| from.go(*to).is_ok())
            .collect();
        assert_eq!(
            allowed,
            [
                (Submitted, Verifying),
                (Submitted, Verified),
                (Submitted, Rejected),
                (Submitted, Withdrawn),
                (Verifying, Verified),
                (Verifying, Rejected),
                (Verifying, Withdrawn),
                (Verified, Rejected),
                (Verified, Expired),
                (Verified, Withdrawn),
            ]
        );
        assert_eq!(Submitted.counts(Verified), 1);
        assert_eq!(Verified.counts(Expired), -1);
        assert_eq!(Submitted.counts(Rejected), 0);
    }

    #[test]
    fn a_file_is_what_its_first_bytes_say() {
        for (content, media) in [
            (&b"\xff\xd8\xff\xe0rest"[..], Some("image/jpeg")),
            (b"\x89PNG\r\n\x1a\nrest", Some("image/png")),
            (b"%PDF-1.7", Some("application/pdf")),
            (b"<html>", None),
            (b"\xff\xd8", None),
            (b"", None),
            (b" %PDF-1.7", None),
        ] {
            assert_eq!(media_type(content), media);
        }
    }

    #[test]
    fn what_no_document_looks_like_is_refused_by_field() {
        let good = Submission {
            kind: Kind::Passport,
            country: "DE".into(),
            number: Some(" c01x-00t47".into()),
            expires_on: None,
            content: Some(b"%PDF-1.7".to_vec()),
        };
        let checked = good.clone().check().unwrap();
        assert_eq!(checked.number.as_deref(), Some("C01X00T47"));
        let mut huge = b"%PDF-".to_vec();
        huge.resize(CONTENT_BYTES_MAX, 0);
        let full = Submission {
            content: Some(huge.clone()),
            ..good.clone()
        };
        assert!(full.check().is_ok());
        huge.push(0);
        for (bad, at) in [
            (
                Submission {
                    country: "GER".into(),
                    ..good.clone()
                },
                "/country",
            ),
            (
                Submission {
                    number: Some("1".repeat(33)),
                    ..good.clone()
                },
                "/number",
            ),
            (
                Submission {
                    number: Some(String::new()),
                    ..good.clone()
                },
                "/number",
            ),
            (
                Submission {
                    number: Some("1\u{7}".into()),
                    ..good.clone()
                },
                "/number",
            ),
            (
                Submission {
                    content: Some(huge),
                    ..good.clone()
                },
                "/content_base64",
            ),
            (
                Submission {
                    content: Some(b"GIF89a".to_vec()),
                    ..good.clone()
                },
                "/content_base64",
            ),
            (
                Submission {
                    content: None,
                    kind: Kind::Selfie,
                    ..good.clone()
                },
                "/content_base64",
            ),
        ] {
            match bad.check() {
                Err(Refusal::Field { param, .. }) => assert_eq!(param, at),
                other => panic!("{other:?}"),
            }
        }
    }

    proptest! {
        #[test]
        fn nothing_is_verified_with_a_finding(
            kind in prop::sample::select(Kind::ALL),
            number in prop::option::of("[A-Z0-9Ü ]{0,20}"),
            expires in prop::option::of("20[0-9]{2}-0[1-9]-[12][0-9]"),
            has_content: bool, number_taken: bool, review_all: bool,
        ) {
            let facts = Facts {
                kind, number: number.as_deref(), expires_on: expires.as_deref(), has_content,
                number_taken, today: "2026-11-20", review_all,
            };
            let (standing, findings) = check(&facts);
            prop_assert_eq!(standing == Standing::Verified, findings.is_empty());
            prop_assert!(standing != Standing::Verified || (kind.role() == Role::Identity && has_content && !number_taken));
        }
    }
}
