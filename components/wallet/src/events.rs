//! What the wallet reacts to (the ledger's postings and reservations, profiles' tiers) and what it
//! tells.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use innover_kit::{
    Cause, Cx, Db, Emit, Event, Result,
    contract::time::parse_rfc3339,
    events::{Handled, Handling, data},
    ids, log,
};
use serde::Deserialize;
use serde_json::json;

use crate::{
    model::{
        AccountState, Projection, Wallet,
        movement::{Kind, Movement, State, Told},
    },
    store::{
        self,
        decisions::Decision,
        movements::{self, Changes},
        rebuilds::Rebuild,
    },
};

/// The only service that knows what accounts hold.
const LEDGER: &str = "ledger";
/// The only service that knows who is known how well.
const PROFILE: &str = "profile";

/// What the ledger tells of a posting, a reservation or its end.
#[derive(Debug, Deserialize)]
struct LedgerData {
    entry_id: Option<String>,
    payment_id: Option<String>,
    /// The reservation it makes or ends.
    transfer_id: Option<String>,
    /// Of a reservation that was booked: how much of it.
    transfer_minor: Option<i64>,
    /// Of `ledger.released`: `voided` or `expired`.
    reason: Option<String>,
    /// Of `ledger.reserved`.
    expires_at: Option<String>,
    accounts: Vec<AccountState>,
}

impl LedgerData {
    /// The id of the movement it is of, if it is of one: a transfer that was booked at once is the
    /// entry of its id.
    fn movement_id(&self) -> Option<&str> {
        self.transfer_id.as_deref().or(self.entry_id.as_deref())
    }

    /// What it says of the movement it names.
    fn told(&self, kind: &str, movement: &Movement) -> Option<Told> {
        match kind {
            "ledger.posted" => Some(Told::Posted {
                minor: self.posted(movement)?,
                entry_id: self.entry_id.clone(),
            }),
            "ledger.reserved" => Some(Told::Pending {
                expires_at: self
                    .expires_at
                    .as_deref()
                    .and_then(|at| parse_rfc3339(at).ok()),
            }),
            "ledger.released" if self.reason.as_deref() == Some("expired") => Some(Told::Expired),
            "ledger.released" => Some(Told::Voided),
            _ => None,
        }
    }

    /// How much of the movement was booked. Of a hold it may be another part than is being captured here:
    /// its transfer can be posted in the ledger itself. Events of earlier releases do not tell.
    fn posted(&self, movement: &Movement) -> Option<i64> {
        match movement.kind {
            Kind::Hold => self.transfer_minor,
            _ => Some(movement.amount),
        }
    }
}

/// Whether `event` came from `service`. One that did not is acknowledged and changes nothing:
/// whoever can write to a topic must not move a balance or a tier.
fn is_from(cx: &Cx, event: &Event, service: &str) -> bool {
    let trusted = event.service() == Some(service);
    if !trusted {
        log::warn(
            cx,
            "an event of another source was ignored",
            &[
                ("event_id", event.id.as_str().into()),
                ("source", event.source.as_str().into()),
            ],
        );
    }
    trusted
}

/// Follows the ledger, up to 100 events in one commit: balances of wallets, and the movements the
/// events name. `wallet.updated` comes of every payment's entry, also of one the projection had
/// overtaken: the payment waits for it. Of everything else it comes only when it was news, because
/// who asked for it has said so already.
pub fn ledger<'a>(cx: &'a Cx, db: &'a Db, events: &'a [Event]) -> Handling<'a> {
    Box::pin(async move {
        let mut handled = Handled::default();
        let mut told: Vec<(&Event, LedgerData)> = Vec::with_capacity(events.len());
        for event in events.iter().filter(|event| is_from(cx, event, LEDGER)) {
            match data::<LedgerData>(event) {
                Ok(entry) => told.push((event, entry)),
                Err(failure) => drop(handled.refused.insert(event.id.clone(), failure)),
            }
        }
        if told.is_empty() {
            return Ok(handled);
        }
        let accounts: BTreeSet<&str> = told
            .iter()
            .flat_map(|(_, d)| d.accounts.iter().map(|a| a.account_id.as_str()))
            .collect();
        let mut changes = follow_movements(db, &told).await?.finish();
        let mut projection = Projection::new(store::of_accounts(db, accounts).await?);
        for (event, entry) in &told {
            let touched = projection.follow(&entry.accounts);
            if entry.payment_id.is_some() || touched.moved {
                let of = Of {
                    entry_id: entry.entry_id.as_deref(),
                    transfer_id: entry.transfer_id.as_deref(),
                    payment_id: entry.payment_id.as_deref(),
                };
                changes.emit(updated(of, &touched.wallets, Cause::from(*event)));
            }
        }
        store::follow(&mut changes, projection.moved());
        handled.batch = changes;
        Ok(handled)
    })
}

async fn follow_movements(db: &Db, told: &[(&Event, LedgerData)]) -> Result<Changes> {
    let mut changes = Changes::default();
    let read = movements::by_ids(db, told.iter().filter_map(|(_, d)| d.movement_id())).await?;
    // No two events of one delivery have the same key, so each movement is named once.
    let read: HashMap<&str, &Movement> = read.iter().map(|m| (m.id.as_str(), m)).collect();
    for (event, entry) in told {
        let Some(before) = entry.movement_id().and_then(|id| read.get(id)) else {
            continue;
        };
        let mut after = (*before).clone();
        match entry.told(&event.kind, before) {
            Some(told) => drop(after.follow(&told)),
            // It is over, and the sweep asks how much it was.
            None if before.state == State::Held => after.expires_at = Some(ids::now_us()),
            None => {}
        }
        if after != **before {
            changes.change(before, &after, &Cause::from(*event));
        }
    }
    Ok(changes)
}

#[derive(Debug, Deserialize)]
struct ProfileData {
    profile_id: String,
    version: i64,
    kyc_tier: i64,
}

/// `profile.updated`: keeps the owner's KYC tier, which decides its limits.
pub fn profile_updated<'a>(cx: &'a Cx, _: &'a Db, events: &'a [Event]) -> Handling<'a> {
    Box::pin(async move {
        let mut handled = Handled::default();
        let mut tiers: BTreeMap<String, (i64, i64)> = BTreeMap::new();
        for event in events.iter().filter(|event| is_from(cx, event, PROFILE)) {
            match data::<ProfileData>(event) {
                Ok(p) => {
                    let known = tiers.entry(p.profile_id).or_insert((p.kyc_tier, p.version));
                    if known.1 < p.version {
                        *known = (p.kyc_tier, p.version);
                    }
                }
                Err(failure) => drop(handled.refused.insert(event.id.clone(), failure)),
            }
        }
        store::follow_tiers(&mut handled.batch, tiers);
        Ok(handled)
    })
}

/// What changed balances.
#[derive(Clone, Copy, Debug, Default)]
pub struct Of<'a> {
    /// The journal entry; none of a reservation or of a batch of transfers.
    pub entry_id: Option<&'a str>,
    /// The ledger's transfer.
    pub transfer_id: Option<&'a str>,
    /// The payment.
    pub payment_id: Option<&'a str>,
}

/// `wallet.updated`: wallets as the ledger has them after an entry or a reservation. `version` is
/// that of the account, so that whoever shows balances can tell newer from older.
pub fn updated(of: Of<'_>, wallets: &[Wallet], cause: Cause) -> Emit {
    let key = of.payment_id.or(of.entry_id).or(of.transfer_id);
    // A batch of transfers has no id of its own; its events stand for themselves.
    let key = key.map_or_else(ids::new_uuid, str::to_owned);
    let wallets: Vec<_> = wallets
        .iter()
        .map(|w| {
            json!({
                "wallet_id": w.id,
                "currency": w.currency,
                "posted_minor": w.posted,
                "held_minor": w.held,
                "available_minor": w.available(),
                "version": w.account_version,
            })
        })
        .collect();
    let mut data = json!({"payment_id": of.payment_id, "wallets": wallets});
    // Absent, not null, where there is none: a payment reads it as text.
    for (name, id) in [("entry_id", of.entry_id), ("transfer_id", of.transfer_id)] {
        if let Some(id) = id {
            data[name] = id.into();
        }
    }
    Emit {
        kind: "wallet.updated",
        key,
        key_version: 1,
        data,
        cause,
    }
}

/// `wallet.hold_changed`: a hold was placed, captured, released, or has expired.
pub fn hold_changed(hold: &Movement, version: i64, cause: Cause) -> Emit {
    Emit {
        kind: "wallet.hold_changed",
        key: hold.id.clone(),
        key_version: version,
        data: json!({
            "hold_id": hold.id,
            "state": hold.state.as_str(),
            "version": version,
            "wallet_id": hold.wallet_id,
            "payee_wallet": hold.other_wallet,
            "currency": hold.currency,
            "amount_minor": hold.amount,
            "captured_minor": hold.moved,
            "entry_id": hold.entry_id,
            "expires_at_us": hold.expires_at,
        }),
        cause,
    }
}

/// `wallet.frozen`, `wallet.unfrozen`, `wallet.closed`: who decided it, and why.
pub fn decided(kind: &'static str, wallet: &Wallet, decision: &Decision, cause: Cause) -> Emit {
    Emit {
        kind,
        key: wallet.id.clone(),
        key_version: wallet.version,
        data: json!({
            "wallet_id": wallet.id,
            "owner": wallet.owner,
            "state": wallet.state.as_str(),
            "version": wallet.version,
            "decision_id": decision.id,
            "reason": decision.reason,
            "decided_by": decision.decided_by,
        }),
        cause,
    }
}

/// `wallet.rebuilt`: every wallet was compared with the ledger.
pub fn rebuilt(rebuild: &Rebuild, cause: Cause) -> Emit {
    Emit {
        kind: "wallet.rebuilt",
        key: rebuild.id.clone(),
        key_version: 1,
        data: json!({
            "rebuild_id": rebuild.id,
            "requested_by": rebuild.requested_by,
            "checked": rebuild.checked,
            "differing": rebuild.differing,
            "repaired": rebuild.repaired,
        }),
        cause,
    }
}
