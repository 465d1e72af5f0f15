//! `ledger.posted` moves the projection and becomes `wallet.updated`.

use std::collections::BTreeSet;

use innover_kit::{
    Cause, Cx, Db, Emit, Event,
    events::{Handled, Handling, data},
    log,
};
use serde::Deserialize;
use serde_json::json;

use crate::{
    model::{AccountState, Projection, Wallet},
    store,
};

/// The only service that knows what accounts hold.
const LEDGER: &str = "ledger";

#[derive(Debug, Deserialize)]
struct PostedData {
    entry_id: String,
    payment_id: Option<String>,
    accounts: Vec<AccountState>,
}

/// Follows the ledger, up to 100 entries in one commit. `wallet.updated` comes of every payment's
/// entry, also of one the projection had overtaken: the payment waits for it. Of other entries it
/// comes only when they were news, because a top-up has said so itself.
pub fn posted<'a>(cx: &'a Cx, db: &'a Db, events: &'a [Event]) -> Handling<'a> {
    Box::pin(async move {
        let mut handled = Handled::default();
        let mut entries: Vec<(&Event, PostedData)> = Vec::with_capacity(events.len());
        for event in events {
            if event.service() != Some(LEDGER) {
                log::warn(
                    cx,
                    "event from outside changes no balance",
                    &[
                        ("event_id", event.id.as_str().into()),
                        ("source", event.source.as_str().into()),
                    ],
                );
                continue;
            }
            match data::<PostedData>(event) {
                Ok(entry) => entries.push((event, entry)),
                Err(failure) => drop(handled.refused.insert(event.id.clone(), failure)),
            }
        }
        if entries.is_empty() {
            return Ok(handled);
        }
        let accounts: BTreeSet<&str> = entries
            .iter()
            .flat_map(|(_, e)| e.accounts.iter().map(|a| a.account_id.as_str()))
            .collect();
        let mut projection = Projection::new(store::of_accounts(db, accounts).await?);
        for (event, entry) in &entries {
            let touched = projection.follow(&entry.accounts);
            if entry.payment_id.is_some() || touched.moved {
                let payment_id = entry.payment_id.as_deref();
                let cause = Cause::from(*event);
                handled.batch.emit(updated(
                    &entry.entry_id,
                    payment_id,
                    &touched.wallets,
                    cause,
                ));
            }
        }
        store::follow(&mut handled.batch, projection.moved());
        Ok(handled)
    })
}

/// `wallet.updated`: the wallets an entry touched, as the ledger has them. `version` is that of the
/// account, so that whoever shows balances can tell newer from older.
pub fn updated(entry_id: &str, payment_id: Option<&str>, wallets: &[Wallet], cause: Cause) -> Emit {
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
    Emit {
        kind: "wallet.updated",
        key: payment_id.unwrap_or(entry_id).to_owned(),
        key_version: 1,
        data: json!({"entry_id": entry_id, "payment_id": payment_id, "wallets": wallets}),
        cause,
    }
}
