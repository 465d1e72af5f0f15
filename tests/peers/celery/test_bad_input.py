"""Messages no client of good will sends: the sender hears of it where an id can be read, the message
is a dead letter, and the worker goes on.

Not for Celery's own worker: it drops most of them without a word, and ends at a body that is no base64.
"""
import base64
import json
from uuid import uuid4

import pytest

from harness import wait_until

pytestmark = pytest.mark.ours_alone
SOON = 20


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
