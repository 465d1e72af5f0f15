//! Changes of documents and of the tiers that follow from them, any number in one batch, each with
//! its decision and its event.

use std::collections::BTreeMap;

use innover_kit::{Batch, Cause, Db, Emit, Expect, Value, db::DbError, ids, params};
use serde_json::json;

use super::documents::{self, Document};
use crate::{
    model::{
        self, Profile, Refusal,
        documents::{Finding, Standing},
    },
    seal::{DataKey, Fault, Place},
};

/// Who decides when nobody does.
const RULES: &str = "rules";

/// A decision, or a look that is on record.
pub struct Decision {
    id: String,
    field: &'static str,
    before: String,
    after: String,
    reason: String,
    sealed: bool,
    by: String,
}

/// A decision that someone reads.
pub struct Decided {
    /// A profile or a document.
    pub target: String,
    /// What was decided on.
    pub field: String,
    /// The value before.
    pub before: String,
    /// The value after.
    pub after: String,
    /// Why.
    pub reason: String,
    /// Who: a subject, or `rules`.
    pub by: String,
    /// Microseconds.
    pub at: i64,
}

fn reason_place(id: &str) -> Place<'_> {
    Place {
        table: "decisions",
        column: "reason",
        row: id,
    }
}

impl Decision {
    /// Of someone, whose reason is sealed with the person's key: it may say anything about them.
    ///
    /// # Errors
    /// No randomness.
    pub fn sealed(
        key: &DataKey,
        field: &'static str,
        [before, after]: [&str; 2],
        reason: &str,
        by: &str,
    ) -> Result<Decision, Fault> {
        let id = ids::new_id("dec");
        let reason = key.seal(reason_place(&id), reason)?;
        Ok(Decision {
            id,
            field,
            before: before.to_owned(),
            after: after.to_owned(),
            reason,
            sealed: true,
            by: by.to_owned(),
        })
    }

    /// With a reason that says nothing personal and outlives the key.
    pub fn plain(
        field: &'static str,
        [before, after]: [&str; 2],
        reason: &str,
        by: &str,
    ) -> Decision {
        Decision {
            id: ids::new_id("dec"),
            field,
            before: before.to_owned(),
            after: after.to_owned(),
            reason: reason.to_owned(),
            sealed: false,
            by: by.to_owned(),
        }
    }
}

/// All decisions on a person, oldest first.
///
/// # Errors
/// The database; a reason that was changed or moved.
pub async fn decisions(
    db: &Db,
    key: &DataKey,
    profile_id: &str,
) -> innover_kit::Result<Vec<Decided>> {
    let rows = db
        .query(
            "SELECT id, target, field, before_value, after_value, reason, sealed, decided_by, decided_at
             FROM decisions WHERE profile_id = $1 ORDER BY id",
            params![profile_id],
        )
        .await?;
    let mut all = Vec::with_capacity(rows.len());
    for row in &rows {
        let text = |i| -> Result<String, DbError> { Ok(row.text(i)?.to_owned()) };
        let reason = match row.int(6)? {
            0 => text(5)?,
            _ => key.open(reason_place(row.text(0)?), row.text(5)?)?,
        };
        all.push(Decided {
            target: text(1)?,
            field: text(2)?,
            before: text(3)?,
            after: text(4)?,
            reason,
            by: text(7)?,
            at: row.int(8)?,
        });
    }
    Ok(all)
}

/// `profile.updated`: what changed, without personal data, since events are kept for good.
pub fn emit_updated(batch: &mut Batch, profile: &Profile, cause: &Cause) {
    batch.emit(Emit {
        kind: "profile.updated",
        key: profile.id.clone(),
        key_version: profile.version,
        data: json!({
            "profile_id": profile.id,
            "version": profile.version,
            "kyc_tier": profile.kyc_tier,
            "state": profile.state,
        }),
        cause: cause.clone(),
    });
}

fn event(standing: Standing) -> &'static str {
    match standing {
        Standing::Submitted => "document.submitted",
        Standing::Verifying => "document.verifying",
        Standing::Verified => "document.verified",
        Standing::Rejected => "document.rejected",
        Standing::Expired => "document.expired",
        Standing::Withdrawn => "document.withdrawn",
    }
}

struct Change {
    version_read: i64,
    tier_read: i64,
    profile: Profile,
    freed: i64,
    cause: Cause,
}

/// Collects changes; every table gets one step.
pub struct Writer {
    now_us: i64,
    batch: Batch,
    documents: Vec<Vec<Value>>,
    profiles: BTreeMap<String, Change>,
    decisions: Vec<Vec<Value>>,
}

impl Default for Writer {
    /// Changes that happen now.
    fn default() -> Writer {
        Writer::after(Batch::new())
    }
}

impl Writer {
    /// Changes beside the steps of `batch`, which modify none of the writer's tables.
    pub fn after(batch: Batch) -> Writer {
        Writer {
            now_us: ids::now_us(),
            batch,
            documents: Vec::new(),
            profiles: BTreeMap::new(),
            decisions: Vec::new(),
        }
    }

    /// The time of the changes.
    pub fn now_us(&self) -> i64 {
        self.now_us
    }

    /// Announces where a document stands.
    pub fn announce(&mut self, document: &Document, cause: &Cause) {
        self.batch.emit(Emit {
            kind: event(document.standing),
            key: document.id.clone(),
            key_version: document.version,
            data: json!({
                "document_id": document.id,
                "profile_id": document.profile_id,
                "type": document.kind,
                "state": document.standing,
                "version": document.version,
            }),
            cause: cause.clone(),
        });
    }

    /// Records a decision on `target`, a profile or a document of `profile_id`.
    pub fn record(&mut self, profile_id: &str, target: &str, decision: Decision) {
        self.decisions.push(params![
            decision.id,
            profile_id,
            target,
            decision.field,
            decision.before,
            decision.after,
            decision.reason,
            i64::from(decision.sealed),
            decision.by,
            self.now_us
        ]);
    }

    /// Moves a document of `owner` on, and the owner's tier with it; returns the document after.
    /// Withdrawing forgets what it said. Two documents of one person that are decided at the same
    /// moment meet at the owner's version, so that neither is left out of the tier.
    ///
    /// # Errors
    /// [`Refusal::Transition`].
    pub fn go(
        &mut self,
        document: &Document,
        owner: &Profile,
        to: Standing,
        findings: &[Finding],
        cause: &Cause,
    ) -> Result<Document, Refusal> {
        let from = document.standing;
        from.go(to)?;
        let forget = to == Standing::Withdrawn;
        self.documents.push(documents::change(
            document,
            to,
            findings,
            forget,
            self.now_us,
        ));
        let by = from.counts(to);
        if by != 0 || forget {
            let change = self
                .profiles
                .entry(owner.id.clone())
                .or_insert_with(|| Change {
                    version_read: owner.version,
                    tier_read: owner.kyc_tier,
                    profile: owner.clone(),
                    freed: 0,
                    cause: cause.clone(),
                });
            if by != 0 {
                change.profile = model::verified(&change.profile, document.kind, by, self.now_us);
            }
            if forget {
                change.freed += document.content_bytes;
            }
        }
        if forget {
            documents::delete_content(&mut self.batch, document);
        }
        let mut after = Document {
            standing: to,
            findings: findings.to_vec(),
            version: document.version + 1,
            updated_at: self.now_us,
            ..document.clone()
        };
        if forget {
            after.expires_on = None;
            after.media_type = None;
            after.content_bytes = 0;
        }
        self.announce(&after, cause);
        Ok(after)
    }

    /// Records that rules moved a document on.
    pub fn record_rules(&mut self, document: &Document, to: Standing, findings: &[Finding]) {
        let words: Vec<&str> = findings.iter().map(|f| f.as_str()).collect();
        let states = [document.standing.as_str(), to.as_str()];
        let decision = Decision::plain("document", states, &words.join(","), RULES);
        self.record(&document.profile_id, &document.id, decision);
    }

    /// Replaces a profile's tier and state by those of `after`.
    pub fn replace(&mut self, before: &Profile, after: Profile, cause: &Cause) {
        let change = Change {
            version_read: before.version,
            // What operations decide is on record by itself.
            tier_read: after.kyc_tier,
            profile: after,
            freed: 0,
            cause: cause.clone(),
        };
        self.profiles.insert(before.id.clone(), change);
    }

    /// The batch with everything collected.
    pub fn finish(mut self) -> Batch {
        if !self.documents.is_empty() {
            documents::apply(&mut self.batch, std::mem::take(&mut self.documents));
        }
        let mut rows = Vec::new();
        for change in std::mem::take(&mut self.profiles).into_values() {
            let p = &change.profile;
            rows.push(params![
                &p.id,
                change.version_read,
                p.version,
                p.kyc_tier,
                p.tier_override,
                p.evidence.identity_documents,
                p.evidence.address_documents,
                p.state.as_str(),
                change.freed,
                p.updated_at
            ]);
            if p.version != change.version_read {
                emit_updated(&mut self.batch, p, &change.cause);
            }
            if p.kyc_tier != change.tier_read {
                let tiers = [change.tier_read.to_string(), p.kyc_tier.to_string()];
                let tiers = [tiers[0].as_str(), tiers[1].as_str()];
                let decision = Decision::plain("kyc_tier", tiers, "documents", RULES);
                self.record(&p.id, &p.id, decision);
            }
        }
        if !rows.is_empty() {
            let expected = rows.len() as u64;
            self.batch.step(
                "profiles",
                "UPDATE profiles SET version = r.version, kyc_tier = r.tier, tier_override = r.decided,
                     identity_documents = r.identity, address_documents = r.address, state = r.state,
                     content_bytes = profiles.content_bytes - r.freed, updated_at = r.at
                 FROM rows($1: id TEXT, version_read BIGINT, version BIGINT, tier BIGINT,
                           decided BIGINT, identity BIGINT, address BIGINT, state TEXT, freed BIGINT,
                           at BIGINT) r
                 WHERE profiles.id = r.id AND profiles.version = r.version_read",
                vec![Value::Rows(rows)],
                Expect::Rows(expected),
            );
        }
        if !self.decisions.is_empty() {
            let expected = self.decisions.len() as u64;
            self.batch.step(
                "decisions",
                "INSERT INTO decisions (id, profile_id, target, field, before_value, after_value, reason,
                     sealed, decided_by, decided_at)
                 SELECT r.id, r.profile_id, r.target, r.field, r.before_value, r.after_value, r.reason,
                     r.sealed, r.decided_by, r.decided_at
                 FROM rows($1: id TEXT, profile_id TEXT, target TEXT, field TEXT, before_value TEXT,
                           after_value TEXT, reason TEXT, sealed BIGINT, decided_by TEXT,
                           decided_at BIGINT) r WHERE true
                 ON CONFLICT (id) DO NOTHING",
                vec![Value::Rows(self.decisions)],
                Expect::Rows(expected),
            );
        }
        self.batch
    }
}
