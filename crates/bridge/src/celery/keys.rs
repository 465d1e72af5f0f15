//! Names in Redis.

use super::message::{STEPS, list_key};
use crate::config::Queue;

/// The keys of one queue. Nothing of ours is under a name of Celery's: Python workers sweep those.
pub(crate) struct Keys {
    /// leased, delayed, messages, tries, dead, deaths.
    pub(crate) own: [String; 6],
    /// Celery's lists by priority, then by alias.
    pub(crate) lists: Vec<String>,
}

/// Bumped when an id is revoked.
pub(crate) const REVOKED_VERSION: &str = "innover:revoked:version";
/// Revoked id → when it is forgotten, in ms.
pub(crate) const REVOKED: &str = "innover:revoked";

impl Keys {
    pub(crate) fn new(queue: &Queue) -> Keys {
        let own = ["leased", "delayed", "messages", "tries", "dead", "deaths"];
        let names = || std::iter::once(&queue.spec.name).chain(&queue.spec.aliases);
        let lists = STEPS
            .iter()
            .flat_map(|step| names().map(|name| list_key(name, *step)));
        Keys {
            own: own.map(|what| format!("innover:{}:{what}", queue.name)),
            lists: lists.collect(),
        }
    }

    pub(crate) fn leased(&self) -> &String {
        &self.own[0]
    }
    pub(crate) fn delayed(&self) -> &String {
        &self.own[1]
    }
    pub(crate) fn messages(&self) -> &String {
        &self.own[2]
    }
    pub(crate) fn dead(&self) -> &String {
        &self.own[4]
    }
    pub(crate) fn deaths(&self) -> &String {
        &self.own[5]
    }

    /// What `fetch.lua` works on.
    pub(crate) fn fetch(&self) -> Vec<String> {
        let revoked = REVOKED_VERSION.to_owned();
        self.own[..4]
            .iter()
            .cloned()
            .chain([revoked])
            .chain(self.lists.iter().cloned())
            .collect()
    }
}

/// Where a group's results are, and, with a suffix each, a chord's parts.
pub(crate) fn group_key(group: &str) -> String {
    format!("celery-taskset-meta-{group}")
}

/// Where a task's result is.
pub(crate) fn result_key(id: &str) -> String {
    format!("celery-task-meta-{id}")
}
