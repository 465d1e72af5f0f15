//! What was parsed, by its text: a service evaluates one set again and again, and parsing it costs a
//! hundred times its evaluation.

use std::sync::{Arc, Mutex, PoisonError};

use crate::{Error, limits::PARSED_MAX, set::RuleSet};

/// Most recently used first.
static PARSED: Mutex<Vec<(String, Arc<RuleSet>)>> = Mutex::new(Vec::new());

/// The set of this text.
pub(crate) fn parsed(text: &str) -> Result<Arc<RuleSet>, Error> {
    let mut parsed = PARSED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(at) = parsed.iter().position(|(known, _)| known == text) {
        parsed[..=at].rotate_right(1);
        return Ok(Arc::clone(&parsed[0].1));
    }
    let set = Arc::new(RuleSet::read(text, None)?);
    parsed.truncate(PARSED_MAX - 1);
    parsed.insert(0, (text.to_owned(), Arc::clone(&set)));
    Ok(set)
}
