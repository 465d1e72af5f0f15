//! What keeps a member of a consumer group from reading, for the log, readiness, and an end of it.

use std::{collections::HashSet, time::Instant};

use rdkafka::Statistics;

use crate::limits::{KAFKA_LOOK_EVERY, KAFKA_OUTSIDE_MAX, KAFKA_OUTSIDE_SAID};

/// What Kafka does not let the member read.
#[derive(Default)]
pub(super) struct Denials(Vec<Denial>);

struct Denial {
    since: Instant,
    reason: String,
    about: About,
    said: bool,
}

enum About {
    /// This topic is not there or not for us.
    Topic(String),
    /// A partition that was assigned, of one of these topics; or, without any, the whole group.
    OneOf(HashSet<String>),
}

impl Denials {
    pub(super) fn add(&mut self, reason: &str, subscribed: &[String], assigned: HashSet<String>) {
        if self.0.iter().any(|denial| denial.reason == reason) {
            return;
        }
        let names = |topic: &&String| reason.contains(&format!(": {topic}: "));
        let about = match subscribed.iter().find(names) {
            Some(topic) => About::Topic(topic.clone()),
            None => About::OneOf(assigned),
        };
        self.0.push(Denial {
            since: Instant::now(),
            reason: reason.to_owned(),
            about,
            said: false,
        });
    }

    /// A message of the topic was read, or none is to be. Of one that is gone it may have been fetched
    /// before.
    pub(super) fn read_of(&mut self, topic: &str) {
        self.0.retain_mut(|denial| match &mut denial.about {
            About::Topic(_) => true,
            About::OneOf(topics) => !topics.remove(topic) || !topics.is_empty(),
        });
    }

    pub(super) fn is_there(&mut self, topic: &str) {
        self.0
            .retain(|denial| !matches!(&denial.about, About::Topic(t) if t == topic));
    }

    /// Partitions of these topics came: what of them still cannot be read is denied anew.
    pub(super) fn assigned(&mut self, topics: &HashSet<String>) {
        self.0.retain_mut(|denial| match &mut denial.about {
            About::Topic(topic) => !topics.contains(topic),
            About::OneOf(left) => {
                left.retain(|topic| !topics.contains(topic));
                !left.is_empty()
            }
        });
    }

    pub(super) fn topics(&self) -> Vec<String> {
        let topic = |denial: &Denial| match &denial.about {
            About::Topic(topic) => Some(topic.clone()),
            About::OneOf(_) => None,
        };
        self.0.iter().filter_map(topic).collect()
    }

    /// What has stood for longer than it takes to make a topic; each is logged once.
    pub(super) fn standing(&mut self, service: &str, now: Instant) -> Option<String> {
        let mut reasons = Vec::new();
        for denial in &mut self.0 {
            if now.duration_since(denial.since) < KAFKA_LOOK_EVERY {
                continue;
            }
            if !denial.said {
                let reason = denial.reason.as_str();
                tracing::warn!(
                    subscriber = service,
                    reason,
                    "events cannot be read from Kafka"
                );
                denial.said = true;
            }
            reasons.push(denial.reason.as_str());
        }
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }
}

/// Since when a member is not in its group though Kafka can be reached, and what it does instead.
/// librdkafka may have forgotten every broker when one answered that there are none, as a broker does
/// that stood still (https://github.com/confluentinc/librdkafka/issues/5301).
#[derive(Default)]
pub(super) struct Outside(Option<(Instant, String)>);

impl Outside {
    pub(super) fn is_inside(statistics: &Statistics) -> bool {
        let group = statistics.cgrp.as_ref();
        group.is_some_and(|group| group.state == "up" && group.join_state == "steady")
    }

    pub(super) fn look(&mut self, statistics: &Statistics, reachable: bool, now: Instant) {
        self.0 = match &statistics.cgrp {
            Some(group) if reachable && !Outside::is_inside(statistics) => {
                let since = self.0.as_ref().map_or(now, |(since, _)| *since);
                Some((since, format!("{}, {}", group.state, group.join_state)))
            }
            _ => None,
        };
    }

    /// What readiness says of it.
    pub(super) fn problem(&self, now: Instant) -> Option<String> {
        let (since, state) = self.0.as_ref()?;
        let takes = now.duration_since(*since);
        (takes >= KAFKA_OUTSIDE_SAID).then(|| format!("not in its group: {state}"))
    }

    /// What it does, if that takes too long.
    pub(super) fn too_long(&self, now: Instant) -> Option<&str> {
        let (since, state) = self.0.as_ref()?;
        (now.duration_since(*since) >= KAFKA_OUTSIDE_MAX).then_some(state)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_cannot_be_read_is_said_until_it_can() {
        let gone = "Subscribed topic not available: t.a: Broker: Unknown topic or partition";
        let denied = "Fetch from broker 1 failed: Broker: Topic authorization failed";
        let set = |topics: &[&str]| topics.iter().map(|t| (*t).to_owned()).collect();
        let told = |what: &dyn Fn(&mut Denials)| {
            let mut denials = Denials::default();
            let subscribed = ["t.a".to_owned(), "t.b".to_owned()];
            for _ in 0..2 {
                denials.add(gone, &subscribed, set(&["t.b", "t.c"]));
                denials.add(denied, &subscribed, set(&["t.b", "t.c"]));
            }
            assert_eq!(denials.standing("forex", Instant::now()), None, "not yet");
            what(&mut denials);
            denials.standing("forex", Instant::now() + KAFKA_LOOK_EVERY)
        };
        let both = format!("{gone}; {denied}");
        assert_eq!(told(&|_| ()), Some(both.clone()));
        assert_eq!(told(&|d| d.is_there("t.a")).as_deref(), Some(denied));
        assert_eq!(told(&|d| d.read_of("t.a")), Some(both.clone()));
        assert_eq!(told(&|d| d.read_of("t.b")), Some(both.clone()));
        let read_both = |d: &mut Denials| ["t.b", "t.c"].iter().for_each(|t| d.read_of(t));
        assert_eq!(told(&read_both).as_deref(), Some(gone));
        assert_eq!(told(&|d| d.assigned(&set(&["t.b"]))), Some(both));
        let all = |d: &mut Denials| d.assigned(&set(&["t.a", "t.b", "t.c"]));
        assert_eq!(told(&all), None);
    }

    #[test]
    fn a_member_that_stays_outside_its_group_is_found() {
        let seen = |state: &str, join_state: &str| {
            let group = rdkafka::statistics::ConsumerGroup {
                state: state.into(),
                join_state: join_state.into(),
                ..Default::default()
            };
            Statistics {
                cgrp: Some(group),
                ..Default::default()
            }
        };
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let told = |looks: &[(u64, &Statistics, bool)], seconds| {
            let mut outside = Outside::default();
            for (second, statistics, reachable) in looks {
                outside.look(statistics, *reachable, at(*second));
            }
            outside.too_long(at(seconds)).map(str::to_owned)
        };
        let waits = &seen("up", "wait-join");
        assert_eq!(told(&[(0, waits, true)], 29), None);
        let lost = &seen("query-coord", "init");
        assert_eq!(
            told(&[(0, waits, true), (20, lost, true)], 31).as_deref(),
            Some("query-coord, init"),
            "as it is now, counted from the beginning"
        );
        for (other, reachable) in [(&seen("up", "steady"), true), (waits, false)] {
            let looks = [(0, waits, true), (20, other, reachable), (25, waits, true)];
            assert_eq!(told(&looks, 40), None);
        }
    }
}
