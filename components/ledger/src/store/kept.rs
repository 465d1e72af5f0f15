//! Accounts as this instance has just decided on them, before and for a moment after their commit.
//!
//! Who books next need neither wait for that commit nor read what it wrote: it goes on from here, and
//! its own commit follows (kit's `follow`). Only on a server, where a commit takes its time; and only
//! for a yes: versions guard what is written against everybody else, nothing guards a refusal, so a
//! refusal is said on what the database says alone.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
};

use innover_kit::{follow::Underway, ids};

use crate::model::{Account, AccountId};

/// So long after its commit an account is gone on from; by then another host may well have moved it.
const KEPT_US: i64 = 1_000_000;
/// More accounts than this are kept only while their commits are under way: some 5 MB.
const KEPT_MAX: usize = 16_384;

/// So often a request asks whether others are at the accounts as well: two that never ask take all
/// the turns from one another (docs/decisions/0005).
const ASKED_US: i64 = 100_000;

struct Kept {
    account: Account,
    commit: Arc<Underway>,
    at: i64,
}

/// Nothing until the first account is read from a server.
static KEPT: OnceLock<Mutex<HashMap<AccountId, Kept>>> = OnceLock::new();

fn accounts() -> Option<MutexGuard<'static, HashMap<AccountId, Kept>>> {
    // No change under this lock can be left half done by a panic.
    let kept = KEPT.get()?;
    Some(kept.lock().unwrap_or_else(PoisonError::into_inner))
}

/// From now on accounts are kept.
pub fn begin() {
    KEPT.get_or_init(Mutex::default);
}

/// Keeps accounts as `commit` is about to write them.
pub fn keep(changed: Vec<Account>, commit: &Arc<Underway>) {
    let Some(mut kept) = accounts() else { return };
    let at = ids::now_us();
    if kept.len() + changed.len() > KEPT_MAX {
        kept.retain(|_, kept| kept.commit.committed().is_none());
    }
    for account in changed {
        let kept_as = Kept {
            commit: Arc::clone(commit),
            account,
            at,
        };
        kept.insert(kept_as.account.id.clone(), kept_as);
    }
}

/// Whether accounts are kept at all: their changes need not be collected otherwise.
pub fn is_on() -> bool {
    KEPT.get().is_some()
}

/// Those of `ids` that are kept, and the commits under way among theirs.
pub fn newest<'a>(
    ids: impl IntoIterator<Item = &'a str>,
) -> (BTreeMap<&'a str, Account>, Vec<Arc<Underway>>) {
    let (mut found, mut before) = (BTreeMap::new(), Vec::<Arc<Underway>>::new());
    let Some(kept) = accounts() else {
        return (found, before);
    };
    let oldest = ids::now_us() - KEPT_US;
    for id in ids {
        let Some(kept) = kept.get(id) else { continue };
        match kept.commit.committed() {
            Some(true) if kept.at >= oldest => {}
            None => {
                if !before.iter().any(|other| Arc::ptr_eq(other, &kept.commit)) {
                    before.push(Arc::clone(&kept.commit));
                }
            }
            Some(_) => continue,
        }
        found.insert(id, kept.account.clone());
    }
    (found, before)
}

/// Whether it is time to ask who else is there; then it is for whoever was told.
pub fn is_time_to_ask() -> bool {
    static ASKED: AtomicI64 = AtomicI64::new(0);
    let now = ids::now_us();
    // Clocks go back at times.
    if (0..ASKED_US).contains(&(now - ASKED.load(Relaxed))) {
        return false;
    }
    ASKED.store(now, Relaxed);
    true
}

/// Waits until what is about to be written here of `ids` is, so that the database has it; whether
/// there was something.
pub async fn settled(ids: &BTreeSet<&str>) -> bool {
    let (_, before) = newest(ids.iter().copied());
    for underway in &before {
        underway.ended().await;
    }
    !before.is_empty()
}
