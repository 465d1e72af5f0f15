//! What follows from the end of a task: tasks that are sent, results that are stored, parts of
//! chords that are handed in. Pure; the worker carries it out in one script.
//!
//! A chain travels with its first task, the next step last; a group is its tasks; a chord is a group
//! each of whose tasks carries the body. `celery.chain`, `celery.group` and `celery.chord` are no
//! tasks: whoever finishes the task before them takes them apart (celery/canvas.py).
//!
//! How deeply they lie in each other is bounded by the nesting of a message's body.

use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    message::{Message, Outgoing},
    outcome::{Exception, State, Stored},
    signature::{Kind, Raw, Signature, raw, to_raw},
};

/// Everything that happens because a task ended.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    pub(crate) messages: Vec<Outgoing>,
    /// Chords whose tasks are among the messages; known before those are sent.
    pub(crate) chords: Vec<Begun>,
    pub(crate) results: Vec<Stored>,
    pub(crate) joins: Vec<Join>,
}

/// A chord that is begun.
#[derive(Debug, PartialEq)]
pub(crate) struct Begun {
    pub(crate) group: String,
    /// How many parts it has.
    pub(crate) size: usize,
    /// The shape of its results, when groups are among them, as Celery saves it.
    pub(crate) structure: Option<String>,
}

/// A part of a chord that is done.
#[derive(Clone, Debug)]
pub(crate) struct Join {
    pub(crate) group: String,
    /// Its place in the header; a part without one is last.
    pub(crate) index: Option<i64>,
    pub(crate) task_id: String,
    pub(crate) state: State,
    pub(crate) result: Raw,
    pub(crate) body: Signature,
}

impl Join {
    /// As it is kept with the chord's other parts.
    pub(crate) fn member(&self) -> String {
        format!(
            r#"[1, {}, "{}", {}]"#,
            json!(self.task_id),
            self.state.as_str(),
            self.result.get()
        )
    }
}

/// A finished chord: its parts in order, and its saved structure when its header had groups in it.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    pub(crate) members: Vec<String>,
    pub(crate) structure: Option<String>,
}

/// Knows queues by the tasks they have.
pub(crate) trait Route: Sync {
    /// The queue of a task by its name's prefix, when it is one of ours.
    fn queue(&self, task: &str) -> Option<String>;
}

/// Where tasks are sent from.
#[derive(Clone, Copy)]
pub(crate) struct Sender<'a> {
    pub(crate) route: &'a dyn Route,
    /// Where everything else goes: the queue the ended task came by.
    pub(crate) queue: &'a str,
    pub(crate) root: &'a str,
    pub(crate) parent: &'a str,
    pub(crate) traceparent: Option<&'a str>,
}

/// A task succeeded.
pub(crate) fn succeeded(message: &Message, result: &Raw, sender: &Sender<'_>) -> Effects {
    let mut effects = Effects::default();
    let mut children = Vec::new();
    let argument = std::slice::from_ref(result);
    for callback in message.embed.callbacks.iter().flatten() {
        children.push(effects.send(callback.clone(), argument, Vec::new(), sender));
    }
    let mut chain = message.embed.chain.clone().unwrap_or_default();
    if let Some(next) = chain.pop() {
        children.push(effects.send(next, argument, chain, sender));
    }
    effects.store(message, State::Success, result.clone(), None, children);
    effects.hand_in(message, State::Success, result);
    effects
}

/// A task failed for good, or was revoked: whoever waits for what should have come after it learns
/// so.
pub(crate) fn failed(
    message: &Message,
    state: State,
    exception: &Exception,
    sender: &Sender<'_>,
) -> Effects {
    let mut effects = Effects::default();
    let result = exception.raw();
    let (task, id) = (&message.headers.task, &message.headers.id);
    let traceback = (state == State::Failure).then(|| exception.traceback(task, id));
    effects.store(message, state, result.clone(), traceback, Vec::new());
    effects.hand_in(message, state, &result);
    for step in message.embed.chain.iter().flatten() {
        effects.fail(step, state, &result);
    }
    if state == State::Failure {
        for errback in message.embed.errbacks.iter().flatten() {
            effects.send(errback.clone(), &[to_raw(id)], Vec::new(), sender);
        }
    }
    effects
}

/// All parts of a chord are there.
pub(crate) fn joined(join: &Join, parts: &Parts, sender: &Sender<'_>) -> Effects {
    match results_of(parts) {
        Ok(list) => {
            let mut effects = Effects::default();
            effects.send(join.body.clone(), &[list], Vec::new(), sender);
            effects
        }
        Err(exception) => failed_body(join, &exception, sender),
    }
}

/// A chord whose parts cannot be kept: its body fails.
pub(crate) fn broken(join: &Join, why: &str, sender: &Sender<'_>) -> Effects {
    let raised = json!({"exc_type": "RedisError", "exc_message": [why]});
    failed_body(join, &Exception::chord(&join.task_id, &raised), sender)
}

fn failed_body(join: &Join, exception: &Exception, sender: &Sender<'_>) -> Effects {
    let mut effects = Effects::default();
    effects.fail(&join.body, State::Failure, &exception.raw());
    let id = join.body.id().unwrap_or_default();
    for errback in join.body.listed("link_error") {
        effects.send(errback, &[to_raw(&id)], Vec::new(), sender);
    }
    effects
}

/// The list the body is called with, or the failure of the first part that has one.
fn results_of(parts: &Parts) -> Result<Raw, Exception> {
    let mut by_id: Vec<(String, Raw)> = Vec::with_capacity(parts.members.len());
    for member in &parts.members {
        let (_, id, state, result): (Value, String, String, Raw) = serde_json::from_str(member)
            .map_err(|e| {
                let raised = json!({"exc_type": "DecodeError", "exc_message": [e.to_string()]});
                Exception::chord("of another worker", &raised)
            })?;
        if State::propagates(&state) {
            let raised = serde_json::from_str(result.get()).unwrap_or(Value::Null);
            return Err(Exception::chord(&id, &raised));
        }
        by_id.push((id, result));
    }
    let structure = parts.structure.as_deref().and_then(|text| {
        let saved: Value = serde_json::from_str(text).ok()?;
        nested(saved.get("result")?, &by_id)
    });
    Ok(structure.unwrap_or_else(|| {
        let results: Vec<&str> = by_id.iter().map(|(_, result)| result.get()).collect();
        raw(format!("[{}]", results.join(", ")))
    }))
}

/// Results in the shape of a saved group: `[[id, parent], [children…]]` is a group, `[[id, parent],
/// null]` a task (celery/result.py, `as_tuple`).
fn nested(tuple: &Value, results: &[(String, Raw)]) -> Option<Raw> {
    match tuple.get(1)? {
        Value::Array(children) => {
            let inner: Option<Vec<Raw>> = children.iter().map(|c| nested(c, results)).collect();
            let inner: Vec<String> = inner?.iter().map(|r| r.get().to_owned()).collect();
            Some(raw(format!("[{}]", inner.join(", "))))
        }
        _ => {
            let id = tuple.get(0)?.get(0)?.as_str()?;
            results
                .iter()
                .find(|(i, _)| i == id)
                .map(|(_, result)| result.clone())
        }
    }
}

impl Effects {
    pub(crate) fn extend(&mut self, more: Effects) {
        self.messages.extend(more.messages);
        self.chords.extend(more.chords);
        self.results.extend(more.results);
        self.joins.extend(more.joins);
    }

    fn store(
        &mut self,
        message: &Message,
        state: State,
        result: Raw,
        traceback: Option<String>,
        children: Vec<Value>,
    ) {
        let headers = &message.headers;
        if headers.ignore_result == Some(true) {
            return;
        }
        self.results.push(Stored {
            id: headers.id.clone(),
            state,
            result,
            traceback,
            children,
            group: headers.group.clone(),
            parent: headers.parent_id.clone(),
        });
    }

    fn hand_in(&mut self, message: &Message, state: State, result: &Raw) {
        let headers = &message.headers;
        if let (Some(body), Some(group)) = (&message.embed.chord, &headers.group) {
            self.joins.push(Join {
                group: group.clone(),
                index: headers.group_index,
                task_id: headers.id.clone(),
                state,
                result: result.clone(),
                body: body.clone(),
            });
        }
    }

    /// A step that will never run fails as the one before it did.
    fn fail(&mut self, step: &Signature, state: State, result: &Raw) {
        match step.kind() {
            Kind::Chain | Kind::Group => {
                for member in step.members("tasks") {
                    self.fail(&member, state, result);
                }
            }
            Kind::Chord => {
                if let Some(body) = step.member("body") {
                    self.fail(&body, state, result);
                }
            }
            Kind::Task => {}
        }
        if let Some(id) = step.id().filter(|_| step.kind() != Kind::Group) {
            self.results.push(Stored {
                id: id.clone(),
                state,
                result: result.clone(),
                traceback: None,
                children: Vec::new(),
                group: step.option("group_id"),
                parent: None,
            });
            if let (Some(body), Some(group)) = (step.option("chord"), step.option("group_id")) {
                self.joins.push(Join {
                    group,
                    index: step.option("group_index"),
                    task_id: id,
                    state,
                    result: result.clone(),
                    body,
                });
            }
        }
        for later in step.listed("chain") {
            self.fail(&later, state, result);
        }
    }

    /// Sends a signature with `prefix` before its own arguments; `rest` are the steps after it, the
    /// next one last. Returns its result tuple.
    fn send(
        &mut self,
        mut signature: Signature,
        prefix: &[Raw],
        rest: Vec<Signature>,
        sender: &Sender<'_>,
    ) -> Value {
        let rest = match rest.is_empty() {
            true => signature.listed("chain"),
            false => rest,
        };
        let args: Vec<Raw> = match signature.immutable {
            true => signature.args.clone(),
            false => prefix.iter().chain(&signature.args).cloned().collect(),
        };
        match signature.kind() {
            Kind::Task => {
                let id = signature.ensure_id();
                self.messages
                    .push(outgoing(&signature, id.clone(), args, rest, sender));
                json!([[id, null], null])
            }
            Kind::Chain => {
                let mut steps = rest;
                steps.extend(steps_of(&signature));
                match steps.pop() {
                    Some(first) => self.send(first, &args, steps, sender),
                    None => Value::Null,
                }
            }
            Kind::Group if !rest.is_empty() => {
                let mut rest = rest;
                let chord = chord_of(signature, rest.pop().unwrap_or_default());
                self.send(chord, &args, rest, sender)
            }
            Kind::Group => {
                let group = signature.ensure_id();
                let chord: Option<Signature> = signature.option("chord");
                let outer: Option<String> = signature.option("group_id");
                // Parts of one chord are numbered through.
                let first: usize = match &chord {
                    Some(_) => signature.option("group_index").unwrap_or(0),
                    None => 0,
                };
                let mut tuples = Vec::new();
                for (index, mut task) in flat(signature.members("tasks")).into_iter().enumerate() {
                    let of = outer.as_ref().filter(|_| chord.is_some()).unwrap_or(&group);
                    assign(&mut task, of, first + index, chord.as_ref());
                    tuples.push(self.send(task, &args, Vec::new(), sender));
                }
                json!([[group, null], tuples])
            }
            Kind::Chord => self.send_chord(&mut signature, &args, rest, sender),
        }
    }

    fn send_chord(
        &mut self,
        chord: &mut Signature,
        args: &[Raw],
        rest: Vec<Signature>,
        sender: &Sender<'_>,
    ) -> Value {
        let Some(mut body) = chord.member("body") else {
            return Value::Null;
        };
        let header_group = chord.member("header").and_then(|g| g.id());
        let group = header_group.unwrap_or_else(|| Uuid::now_v7().to_string());
        for name in ["task_id", "group_id", "group_index", "chord", "root_id"] {
            if let Some(value) = chord.options.get(name)
                && !body.options.contains_key(name)
            {
                body.options.insert(name.to_owned(), value.clone());
            }
        }
        for name in ["link", "link_error"] {
            body.add_listed(name, &chord.listed(name));
        }
        if !rest.is_empty() {
            body.set("chain", &rest);
        }
        let body_id = body.ensure_id();
        let header = flat(chord.members("header"));
        if header.is_empty() {
            return self.send(body, &[raw("[]".into())], Vec::new(), sender);
        }
        let mut header = header;
        let shapes: Vec<Value> = header.iter_mut().map(freeze).collect();
        let grouped = shapes.iter().any(|shape| shape[1].is_array());
        self.chords.push(Begun {
            group: group.clone(),
            size: header.iter().map(parts).sum(),
            structure: grouped.then(|| json!({"result": [[group, null], shapes]}).to_string()),
        });
        let mut index = 0;
        for mut task in header {
            let many = parts(&task);
            assign(&mut task, &group, index, Some(&body));
            index += many;
            self.send(task, args, Vec::new(), sender);
        }
        json!([[body_id, null], null])
    }
}

/// The steps of a chain, the first one last, each with an id, the chain's own options given to those
/// they are meant for.
fn steps_of(chain: &Signature) -> Vec<Signature> {
    let mut steps: Vec<Signature> = Vec::new();
    for member in chain.members("tasks") {
        match member.kind() {
            // Its steps are steps of this one.
            Kind::Chain => steps.extend(steps_of(&member).into_iter().rev()),
            _ => steps.push(member),
        }
    }
    // What comes after a group waits for all of it.
    let mut joined: Vec<Signature> = Vec::new();
    for step in steps {
        match joined.pop() {
            Some(before) if before.kind() == Kind::Group => joined.push(chord_of(before, step)),
            Some(before) => joined.extend([before, step]),
            None => joined.push(step),
        }
    }
    for errback in chain.listed("link_error") {
        for step in &mut joined {
            step.add_listed("link_error", std::slice::from_ref(&errback));
        }
    }
    if let Some(last) = joined.last_mut() {
        for name in ["task_id", "group_id", "group_index", "chord"] {
            if let Some(value) = chain.options.get(name)
                && !last.options.contains_key(name)
            {
                last.options.insert(name.to_owned(), value.clone());
            }
        }
        last.add_listed("link", &chain.listed("link"));
    }
    for step in &mut joined {
        if step.kind() == Kind::Task {
            step.ensure_id();
        }
    }
    joined.reverse();
    joined
}

fn chord_of(group: Signature, body: Signature) -> Signature {
    let mut chord = Signature {
        task: "celery.chord".into(),
        subtask_type: Some("chord".into()),
        ..Signature::default()
    };
    chord.kwargs.insert("header".into(), to_raw(&group));
    chord.kwargs.insert("body".into(), to_raw(&body));
    chord
}

/// Groups within a group are part of it.
fn flat(tasks: Vec<Signature>) -> Vec<Signature> {
    let mut all = Vec::new();
    let mut waiting: Vec<Signature> = tasks.into_iter().rev().collect();
    while let Some(task) = waiting.pop() {
        match task.kind() {
            Kind::Group => waiting.extend(task.members("tasks").into_iter().rev()),
            Kind::Chain if task.members("tasks").is_empty() => {}
            _ => all.push(task),
        }
    }
    all
}

/// Gives ids to what a header's task ends with, and returns the shape of its result: `[[id, null],
/// null]` for a task, `[[id, null], [shapes…]]` for a group (celery/result.py, `as_tuple`).
fn freeze(task: &mut Signature) -> Value {
    match task.kind() {
        Kind::Task => json!([[task.ensure_id(), null], null]),
        Kind::Group => {
            let id = task.ensure_id();
            let mut members = flat(task.members("tasks"));
            let shapes: Vec<Value> = members.iter_mut().map(freeze).collect();
            task.kwargs.insert("tasks".into(), to_raw(&members));
            json!([[id, null], shapes])
        }
        Kind::Chain => {
            let mut members = task.members("tasks");
            let Some(last) = members.last_mut() else {
                return json!([[task.ensure_id(), null], null]);
            };
            if let (Some(id), None) = (task.id(), last.id()) {
                last.set("task_id", &id);
            }
            let shape = freeze(last);
            task.kwargs.insert("tasks".into(), to_raw(&members));
            shape
        }
        Kind::Chord => {
            let Some(mut body) = task.member("body") else {
                return json!([[task.ensure_id(), null], null]);
            };
            if let (Some(id), None) = (task.id(), body.id()) {
                body.set("task_id", &id);
            }
            let shape = freeze(&mut body);
            task.kwargs.insert("body".into(), to_raw(&body));
            shape
        }
    }
}

/// How many parts a header's task hands in (celery/canvas.py, `_descend`).
fn parts(task: &Signature) -> usize {
    match task.kind() {
        Kind::Task => 1,
        Kind::Group => task.members("tasks").iter().map(parts).sum(),
        Kind::Chain => {
            let members = task.members("tasks");
            let counts = members.iter().rev().map(parts);
            counts.into_iter().find(|n| *n > 0).unwrap_or(0)
        }
        Kind::Chord => task.member("body").map_or(0, |body| parts(&body)),
    }
}

/// Makes a task a group's, and a part of its chord.
fn assign(task: &mut Signature, group: &str, index: usize, chord: Option<&Signature>) {
    if !task.options.contains_key("group_id") {
        task.set("group_id", &group);
    }
    task.set("group_index", &index);
    if let Some(body) = chord {
        task.set("chord", body);
    }
}

/// A time as text, or as kombu tags it: `{"__type__": "datetime", "__value__": "…"}`.
fn time(signature: &Signature, name: &str) -> Option<String> {
    match signature.option::<Value>(name)? {
        Value::String(text) => Some(text),
        tagged => tagged.get("__value__")?.as_str().map(str::to_owned),
    }
}

fn outgoing(
    signature: &Signature,
    id: String,
    args: Vec<Raw>,
    rest: Vec<Signature>,
    sender: &Sender<'_>,
) -> Outgoing {
    let some = |list: Vec<Signature>| (!list.is_empty()).then_some(list);
    let named: Option<String> = signature
        .option("queue")
        .or(signature.option("routing_key"));
    let seconds = |name: &str, from: i64| -> Option<String> {
        let seconds: f64 = signature.option(name)?;
        let at = from
            .saturating_add((seconds * 1e6) as i64)
            .min(super::message::TIME_MAX);
        Some(innover_contract::time::rfc3339(at).replace('Z', "+00:00"))
    };
    let now = crate::clock::Clock::System.now();
    let stamped: Vec<String> = signature.option("stamped_headers").unwrap_or_default();
    Outgoing {
        queue: named
            .or_else(|| sender.route.queue(&signature.task))
            .unwrap_or_else(|| sender.queue.to_owned()),
        task: signature.task.clone(),
        id,
        args,
        kwargs: signature.kwargs.clone(),
        embed: super::message::Embed {
            callbacks: some(signature.listed("link")),
            errbacks: some(signature.listed("link_error")),
            chain: some(rest),
            chord: signature.option("chord"),
        },
        priority: signature.option("priority").unwrap_or(0),
        eta: time(signature, "eta").or_else(|| seconds("countdown", now)),
        expires: time(signature, "expires").or_else(|| seconds("expires", now)),
        group: signature.option("group_id"),
        group_index: signature.option("group_index"),
        root_id: signature.option("root_id").or(Some(sender.root.to_owned())),
        parent_id: Some(sender.parent.to_owned()),
        time_limit: signature.option("time_limit"),
        soft_time_limit: signature.option("soft_time_limit"),
        ignore_result: signature.option("ignore_result"),
        reply_to: signature.option("reply_to").unwrap_or_default(),
        traceparent: sender.traceparent.map(str::to_owned),
        stamps: stamped
            .into_iter()
            .filter_map(|name| Some((name.clone(), signature.options.get(&name)?.clone())))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::celery::message::Embed;

    struct NoRoute;

    impl Route for NoRoute {
        fn queue(&self, _: &str) -> Option<String> {
            None
        }
    }

    fn sender() -> Sender<'static> {
        Sender {
            route: &NoRoute,
            queue: "q",
            root: "root",
            parent: "me",
            traceparent: None,
        }
    }

    fn message(embed: Value) -> Message {
        let embed: Embed = serde_json::from_value(embed).expect("an embed");
        let sent = Outgoing {
            queue: "q".into(),
            task: "s.a".into(),
            id: "me".into(),
            embed,
            group: Some("g".into()),
            group_index: Some(1),
            ..Outgoing::default()
        };
        Message::parse(sent.encode().as_bytes()).expect("a message")
    }

    fn args(outgoing: &Outgoing) -> String {
        serde_json::to_string(&outgoing.args).expect("JSON")
    }

    fn task(id: &str) -> Value {
        json!({"task": "s.b", "args": [9], "kwargs": {}, "options": {"task_id": id}, "subtask_type": null, "immutable": false})
    }

    #[test]
    fn the_next_step_of_a_chain_gets_the_result_and_the_rest() {
        let message = message(json!({"chain": [task("third"), task("second")]}));
        let effects = succeeded(&message, &raw("7".into()), &sender());
        let [next] = &effects.messages[..] else {
            panic!("{effects:?}")
        };
        assert_eq!((next.id.as_str(), args(next).as_str()), ("second", "[7,9]"));
        assert_eq!(next.embed.chain.as_ref().map(Vec::len), Some(1));
        assert_eq!(
            (next.root_id.as_deref(), next.parent_id.as_deref()),
            (Some("root"), Some("me"))
        );
        assert_eq!(
            effects.results[0].children,
            [json!([["second", null], null])]
        );
    }

    #[test]
    fn the_steps_after_a_failure_fail_alike() {
        let message = message(
            json!({"chain": [task("third"), task("second")], "errbacks": [task("errback")]}),
        );
        let exception = Exception::of_problem("a_b", "no");
        let effects = failed(&message, State::Failure, &exception, &sender());
        let ids: Vec<&str> = effects.results.iter().map(|r| r.id.as_str()).collect();
        assert_eq!(ids, ["me", "third", "second"]);
        let [errback] = &effects.messages[..] else {
            panic!("{effects:?}")
        };
        assert_eq!(args(errback), r#"["me",9]"#);
    }

    #[test]
    fn a_group_after_a_task_is_its_tasks_and_with_a_step_after_it_a_chord() {
        let group = json!({"task": "celery.group", "kwargs": {"tasks": [task("a"), task("b")]}, "options": {"task_id": "G"}, "subtask_type": "group"});
        let effects = succeeded(
            &message(json!({"chain": [group]})),
            &raw("7".into()),
            &sender(),
        );
        let sent: Vec<_> = effects
            .messages
            .iter()
            .map(|m| (m.id.as_str(), m.group.as_deref(), m.group_index))
            .collect();
        assert_eq!(sent, [("a", Some("G"), Some(0)), ("b", Some("G"), Some(1))]);

        let group = json!({"task": "celery.group", "kwargs": {"tasks": [task("a"), task("b")]}, "options": {"task_id": "G"}, "subtask_type": "group"});
        let chord = json!({"task": "celery.chord", "kwargs": {"header": group, "body": task("body"), "kwargs": {}}, "options": {}, "subtask_type": "chord"});
        let effects = succeeded(
            &message(json!({"chain": [task("after"), chord]})),
            &raw("7".into()),
            &sender(),
        );
        let begun = Begun {
            group: "G".into(),
            size: 2,
            structure: None,
        };
        assert_eq!(effects.chords, [begun]);
        assert_eq!(effects.messages.len(), 2);
        let body = effects.messages[0].embed.chord.as_ref().expect("a body");
        assert_eq!(body.id().as_deref(), Some("body"));
        assert_eq!(body.listed("chain").len(), 1);
        assert_eq!(args(&effects.messages[1]), "[7,9]");
    }

    #[test]
    fn a_chain_as_a_body_starts_with_the_results_and_ends_under_its_id() {
        let chain = json!({"task": "celery.chain", "kwargs": {"tasks": [task("x"), {"task": "s.c"}]}, "options": {"task_id": "last"}, "subtask_type": "chain"});
        let message = message(json!({"chord": chain}));
        let effects = succeeded(&message, &raw("7".into()), &sender());
        let [join] = &effects.joins[..] else {
            panic!("{effects:?}")
        };
        assert_eq!(join.member(), r#"[1, "me", "SUCCESS", 7]"#);
        let parts = Parts {
            members: vec![r#"[1,"z","SUCCESS",1.10]"#.into(), join.member()],
            structure: None,
        };
        let effects = joined(join, &parts, &sender());
        let [first] = &effects.messages[..] else {
            panic!("{effects:?}")
        };
        assert_eq!(
            (first.id.as_str(), args(first).as_str()),
            ("x", "[[1.10, 7],9]")
        );
        let rest = first.embed.chain.as_ref().expect("a rest");
        assert_eq!(rest[0].id().as_deref(), Some("last"));
    }

    #[test]
    fn a_group_at_the_end_of_a_part_keeps_its_shape_and_its_places() {
        let group = |ids: [&str; 2]| json!({"task": "celery.group", "kwargs": {"tasks": ids.map(task)}, "subtask_type": "group"});
        let chain = json!({"task": "celery.chain", "kwargs": {"tasks": [task("first"), group(["a", "b"])]}, "subtask_type": "chain"});
        let header = json!({"task": "celery.group", "kwargs": {"tasks": [chain, task("c")]}, "options": {"task_id": "G"}, "subtask_type": "group"});
        let chord = json!({"task": "celery.chord", "kwargs": {"header": header, "body": task("body")}, "options": {}, "subtask_type": "chord"});
        let effects = succeeded(
            &message(json!({"chain": [chord]})),
            &raw("7".into()),
            &sender(),
        );
        let [begun] = &effects.chords[..] else {
            panic!("{effects:?}")
        };
        assert_eq!(begun.size, 3);
        let [first, c] = &effects.messages[..] else {
            panic!("{effects:?}")
        };
        assert_eq!((c.id.as_str(), c.group_index), ("c", Some(2)));
        // The first step ends: the group's tasks are the chord's parts 0 and 1.
        let rest = first.embed.clone();
        let first = message(serde_json::to_value(rest).expect("JSON"));
        let effects = succeeded(&first, &raw("8".into()), &sender());
        let places: Vec<_> = effects
            .messages
            .iter()
            .map(|m| (m.id.as_str(), m.group.as_deref(), m.group_index))
            .collect();
        assert_eq!(
            places,
            [("a", Some("G"), Some(0)), ("b", Some("G"), Some(1))]
        );
        let members = ["a", "b", "c"].map(|id| format!(r#"[1,"{id}","SUCCESS","{id}"]"#));
        let parts = Parts {
            members: members.into(),
            structure: begun.structure.clone(),
        };
        let results = results_of(&parts).expect("results");
        assert_eq!(results.get(), r#"[["a", "b"], "c"]"#);
    }

    #[test]
    fn one_failed_part_fails_the_body() {
        let mut body: Signature = serde_json::from_value(task("body")).expect("a body");
        body.add_listed(
            "link_error",
            &[serde_json::from_value(task("errback")).expect("one")],
        );
        let join = Join {
            group: "g".into(),
            index: Some(0),
            task_id: "me".into(),
            state: State::Success,
            result: raw("1".into()),
            body,
        };
        let bad = r#"[1,"z","FAILURE",{"exc_type":"ValueError","exc_message":["bad",42],"exc_module":"builtins"}]"#;
        let parts = Parts {
            members: vec![join.member(), bad.into()],
            structure: None,
        };
        let effects = joined(&join, &parts, &sender());
        assert_eq!(effects.results[0].id, "body");
        let text = effects.results[0].result.get();
        assert!(
            text.contains("Dependency z raised ValueError('bad', 42)"),
            "{text}"
        );
        assert_eq!(args(&effects.messages[0]), r#"["body",9]"#);
    }

    #[test]
    fn results_take_the_shape_of_a_saved_group() {
        let parts = Parts {
            members: vec![r#"[1,"a","SUCCESS",1]"#.into(), r#"[1,"b","SUCCESS",2]"#.into(), r#"[1,"c","SUCCESS",3]"#.into()],
            structure: Some(r#"{"result": [["g", null], [[["h", null], [[["a", null], null], [["b", null], null]]], [["c", null], null]]]}"#.into()),
        };
        assert_eq!(results_of(&parts).expect("results").get(), "[[1, 2], 3]");
    }
}
