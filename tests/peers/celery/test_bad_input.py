"""Messages no client of good will sends: the sender hears of it where an id can be read, the message
is a dead letter, and the worker goes on.

Not for Celery's own worker: it drops most of them without a word, and ends at a body that is no base64.
"""
import base64
import json
import time
from uuid import uuid4

import pytest

from harness import wait_until

pytestmark = pytest.mark.ours_alone
SOON = 60


def encoded(body):
    return base64.b64encode(body if isinstance(body, bytes) else json.dumps(body).encode()).decode()


def envelope(task_id, args=(1, 2), task="profile.add", body=None, headers=None, **changes):
    """A message as a client sends it, with some of it replaced; `None` removes a field."""
    message = {
        "body": encoded([list(args), {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])
        if body is None else body,
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py", "task": task, "id": task_id, "root_id": task_id, "parent_id": None, "retries": 0,
            "eta": None, "expires": None, "group": None, "timelimit": [None, None], "argsrepr": "", "kwargsrepr": "",
            "origin": "test", "ignore_result": False, **(headers or {}),
        },
        "properties": {
            "correlation_id": task_id, "reply_to": str(uuid4()), "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "profile-tasks"}, "priority": 0,
            "body_encoding": "base64", "delivery_tag": str(uuid4()),
        },
        **changes,
    }
    return {name: value for name, value in message.items() if value is not None}


def push(stage, message):
    stage.broker.lpush("profile-tasks", message if isinstance(message, bytes) else json.dumps(message))


def state(stage, task_id):
    stored = stage.backend.get(f"celery-task-meta-{task_id}")
    return json.loads(stored)["status"] if stored else None


# Messages whose id can be read, though not what is to be done.
TOLD = {
    "a pickled body": lambda i: envelope(i, body=encoded(b"\x80\x04\x95\x0b\x00\x00\x00."), **{
        "content-type": "application/x-python-serialize", "content-encoding": "binary"}),
    "yaml": lambda i: envelope(i, body=encoded(b"- [1, 2]\n"), **{"content-type": "application/x-yaml"}),
    "a body that is no base64": lambda i: envelope(i, body="%%% not base64 %%%"),
    "a body cut short": lambda i: envelope(i, body=encoded(b'[[1, 2], {}, {"callbacks": nu')),
    "an empty body": lambda i: envelope(i, body=""),
    "a body that is no UTF-8": lambda i: envelope(i, body=encoded(b'[["\xff\xfe", 2], {}, {}]')),
    "a body that is an object": lambda i: envelope(i, body=encoded({"args": [1, 2]})),
    "a body of one element": lambda i: envelope(i, body=encoded([[1, 2]])),
    "arguments that are no list": lambda i: envelope(i, body=encoded(["12", {}, {}])),
    "keyword arguments that are no object": lambda i: envelope(i, body=encoded([[1, 2], [3], {}])),
    "deep nesting": lambda i: envelope(i, body=encoded(
        b"[[" + b"[" * 50_000 + b"]" * 50_000 + b', 2], {}, {"callbacks": null}]')),
    "a body of 10 MB": lambda i: envelope(i, ("x" * 10_000_000,), task="profile.echo"),
    "compressed in an unknown way": lambda i: envelope(i, headers={"compression": "application/x-rar"}),
    "compressed, but it is not": lambda i: envelope(i, headers={"compression": "application/x-gzip"}),
    "an unknown task": lambda i: envelope(i, task="profile.nothing"),
    "the task of another service": lambda i: envelope(i, task="payment.no_such_task"),
    "wrong arguments": lambda i: envelope(i, (1, 2, 3)),
    "an unknown type of value": lambda i: envelope(i, body=encoded(
        [[{"__type__": "rocket", "__value__": 1}, 2], {}, {}])),
    "a time that is none": lambda i: envelope(i, headers={"eta": "tomorrow"}),
    "callbacks that are none": lambda i: envelope(i, body=encoded([[1, 2], {}, {"callbacks": [{"nonsense": 1}, 7]}])),
}

# Messages nobody can be told about.
UNTOLD = {
    "nothing": b"",
    "null": b"null",
    "a list": b"[]",
    "no JSON": b"hello",
    "JSON cut short": json.dumps(envelope("cut"))[:200].encode(),
    "no UTF-8": b'{"headers": "\xff\xfe"}',
    "an object without anything": b"{}",
    "headers that are no object": json.dumps(envelope("x") | {"headers": [1]}).encode(),
    "no id": json.dumps(envelope(None)).encode(),
    "an id that is no text": json.dumps(envelope({"a": 1})).encode(),
    "nesting without end": b"[" * 200_000,
}


@pytest.mark.parametrize("what", TOLD)
def test_the_sender_hears_of_it_and_it_is_a_dead_letter(stage, what):
    task_id = str(uuid4())
    push(stage, TOLD[what](task_id))
    wait_until(lambda: state(stage, task_id) in ("SUCCESS", "FAILURE"), SOON, f"{what}: a result")
    assert state(stage, task_id) == "FAILURE"
    wait_until(lambda: task_id in stage.platform.dead_letters(), SOON, f"{what}: a dead letter")
    assert stage.works()


@pytest.mark.parametrize("what", UNTOLD)
def test_what_cannot_be_read_is_a_dead_letter(stage, what):
    before = stage.platform.dead_letters().count("\n")
    push(stage, UNTOLD[what])
    assert stage.works()
    wait_until(lambda: stage.platform.dead_letters().count("\n") > before, SOON, f"{what}: one dead letter more")


# What a newer or another client may add, without harm.
TOLERATED = {
    "unknown headers": lambda i: envelope(i, headers={"x-new": {"deep": [1]}, "protocol": 3, "lang": "rust"}),
    "unknown fields": lambda i: envelope(i, future={"a": 1}),
    "unknown embedded fields": lambda i: envelope(i, body=encoded([[1, 2], {}, {"callbacks": None, "new": 1}])),
    "only the headers that are needed": lambda i: envelope(i) | {"headers": {"task": "profile.add", "id": i}},
    "no priority": lambda i: (lambda m: m | {"properties": {
        k: v for k, v in m["properties"].items() if k != "priority"}})(envelope(i)),
}


@pytest.mark.parametrize("what", TOLERATED)
def test_what_is_new_does_no_harm(stage, what):
    task_id = str(uuid4())
    push(stage, TOLERATED[what](task_id))
    assert stage.result(task_id).get(timeout=SOON) == 3
    assert stage.works()


def test_a_plain_body_without_base64(stage):
    """The transport option body_encoding may be set to nothing."""
    task_id = str(uuid4())
    message = envelope(task_id, body=json.dumps([[1, 2], {}, {}]))
    message["properties"]["body_encoding"] = None
    push(stage, message)
    assert stage.result(task_id).get(timeout=SOON) == 3


def test_the_same_message_twice(stage):
    """At least once is what Redis gives; the effect and the result are once."""
    task_id = str(uuid4())
    message = envelope(task_id)
    push(stage, message)
    push(stage, message)
    assert stage.result(task_id).get(timeout=SOON) == 3
    assert stage.works()
    assert state(stage, task_id) == "SUCCESS"


# What a client can make of keys it should leave alone. None of it may cost another client its job.

def test_a_result_under_a_key_of_another_type(stage):
    task_id = str(uuid4())
    stage.backend.rpush(f"celery-task-meta-{task_id}", "mine")
    push(stage, envelope(task_id))
    assert stage.works()
    wait_until(lambda: stage.backend.type(f"celery-task-meta-{task_id}") == b"string", SOON,
               "the result replaces it")
    assert state(stage, task_id) == "SUCCESS"


def test_a_link_to_a_queue_that_is_no_list(stage):
    stage.broker.set("no-list-tasks", "mine")
    link = {"task": "profile.add", "args": [1], "kwargs": {}, "options": {"queue": "no-list-tasks"}, "immutable": False}
    embed = {"callbacks": [link], "errbacks": None, "chain": None, "chord": None}
    chains = [str(uuid4()) for _ in range(20)]
    for n, last in enumerate(chains):
        step = {"task": "profile.add", "args": [1], "kwargs": {}, "options": {"task_id": last}, "immutable": False}
        chained = {"callbacks": None, "errbacks": None, "chain": [step], "chord": None}
        push(stage, envelope(str(uuid4()), body=encoded([[n, 2], {}, chained])))
        push(stage, envelope(str(uuid4()), body=encoded([[n, 2], {}, embed])))
    assert [stage.result(last).get(timeout=SOON) for last in chains] == [n + 3 for n in range(20)]
    stage.broker.delete("no-list-tasks")


def test_a_priority_that_is_no_list(stage):
    stage.broker.set("profile-tasks\x06\x163", "mine")
    try:
        assert stage.works()
        task_id = str(uuid4())
        push(stage, envelope(task_id))
        assert stage.result(task_id).get(timeout=SOON) == 3
    finally:
        stage.broker.delete("profile-tasks\x06\x163")
    assert stage.works()


@pytest.mark.parametrize("limit", [0, -1, 1e19, 1e300, "long"])
def test_a_time_limit_that_is_none(stage, limit):
    task_id = str(uuid4())
    push(stage, envelope(task_id, headers={"timelimit": [limit, None]}))
    assert stage.result(task_id).get(timeout=SOON) == 3
    assert stage.works()


def test_chords_whose_keys_are_of_another_type(stage):
    """More of them than deliveries run at once: none may keep its place."""
    bodies = []
    for _ in range(3):
        group, body = str(uuid4()), str(uuid4())
        bodies.append(body)
        stage.backend.rpush(f"celery-taskset-meta-{group}.c", "mine")
        chord = {"task": "profile.echo", "args": [], "kwargs": {}, "options": {"task_id": body}, "immutable": False}
        embed = {"callbacks": None, "errbacks": None, "chain": None, "chord": chord}
        push(stage, envelope(str(uuid4()), body=encoded([[1, 2], {}, embed]), headers={"group": group, "group_index": 0}))
    assert stage.works()
    for body in bodies:
        wait_until(lambda: state(stage, body) == "FAILURE", SOON, "the body of a chord that cannot end fails")


@pytest.mark.parametrize("refused", ["expired", "unknown"])
def test_a_chord_with_a_part_that_never_runs(stage, refused):
    """Its body fails; Celery's own does so for the first and waits for ever for the second."""
    group, body = str(uuid4()), str(uuid4())
    chord = {"task": "profile.echo", "args": [], "kwargs": {}, "options": {"task_id": body}, "immutable": False}
    embed = {"callbacks": None, "errbacks": None, "chain": None, "chord": chord}
    stage.backend.set(f"celery-taskset-meta-{group}.s", 2)
    parts = [{}, {"expires": "2020-01-01T00:00:00+00:00"} if refused == "expired" else {"task": "profile.nothing"}]
    for index, part in enumerate(parts):
        headers = {"group": group, "group_index": index, **part}
        push(stage, envelope(str(uuid4()), body=encoded([[1, 2], {}, embed]), headers=headers))
    wait_until(lambda: state(stage, body) == "FAILURE", SOON, "the chord's body fails")


def test_a_delayed_message_that_comes_too_early_still_runs_on_time(stage):
    # As after a look with another clock: the delayed ones name a time before the message's own eta.
    # Whoever puts it back must remember when to look again.
    eta = time.time() + 7
    result = stage.add.apply_async((1, 2), countdown=7)
    delayed = "innover:profile-tasks:delayed"
    [lease] = wait_until(lambda: stage.broker.zrange(delayed, 0, -1), SOON, "the job is delayed")
    stage.broker.zadd(delayed, {lease: 0})
    assert result.get(timeout=SOON) == 3
    assert 0 <= time.time() - eta < 10
