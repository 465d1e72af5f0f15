//! Ids that must not run. They are kept in Redis, so that a bridge that starts later knows them; here
//! is the copy that is looked at.

use std::{
    collections::HashSet,
    sync::{PoisonError, RwLock},
};

#[derive(Default)]
struct Copy {
    version: String,
    ids: HashSet<String>,
}

/// The copy.
pub(crate) struct Revoked(RwLock<Copy>);

impl Revoked {
    /// A copy of nothing, which the first fetch finds outdated.
    pub(crate) fn new() -> Revoked {
        Revoked(RwLock::default())
    }

    pub(crate) fn contains(&self, id: &str) -> bool {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .ids
            .contains(id)
    }

    pub(crate) fn ids(&self) -> Vec<String> {
        let copy = self.0.read().unwrap_or_else(PoisonError::into_inner);
        copy.ids.iter().cloned().collect()
    }

    pub(crate) fn version(&self) -> String {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .version
            .clone()
    }

    pub(crate) fn replace(&self, version: String, ids: HashSet<String>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Copy { version, ids };
    }
}
