"""What watches and steers workers: `inspect`, the command line, events, Flower."""
import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from harness import ENVIRONMENTS, REFERENCE, Process, free_port, wait_until

SOON = 60


@pytest.fixture
def inspect(stage):
    return stage.inspect()


def of_profile(replies):
    """The reply of the node that works on profile-tasks."""
    assert replies, "no node replied"
    [reply] = [reply for node, reply in replies.items() if node.startswith("profile@")]
    return reply


def eventually(ask, holds, what):
    """Asks again until the reply of the profile node is as it should be; returns it."""
    def asked():
        reply = of_profile(ask())
        return (reply,) if holds(reply) else None
    return wait_until(asked, SOON, what)[0]


# --- inspect


def test_ping(stage):
    replies = stage.app.control.inspect(timeout=2).ping()
    assert of_profile(replies) == {"ok": "pong"}
    if not REFERENCE:
        assert {node.split("@")[0] for node in replies} >= {"profile", "wallet", "payment", "rules"}
    assert stage.app.control.ping(timeout=2)


def test_ping_of_one_node(stage):
    replies = stage.app.control.inspect([stage.node], timeout=2).ping()
    assert list(replies) == [stage.node]
    assert stage.app.control.inspect(["nobody@nowhere"], timeout=1).ping() is None


def test_ping_by_pattern(stage):
    replies = stage.app.control.inspect(pattern="prof*@*", matcher="glob", timeout=2).ping()
    assert replies and all(node.startswith("profile@") for node in replies)


def test_registered(inspect):
    assert {"profile.add", "profile.slow", "profile.echo"} <= set(of_profile(inspect.registered()))


def test_active(stage, inspect):
    result = stage.slow.delay(3)
    [job] = eventually(inspect.active, lambda jobs: any(j["id"] == result.id for j in jobs), "it is active")
    assert job["name"] == "profile.slow" and job["args"] == [3] and job["kwargs"] == {}
    assert job["hostname"].startswith("profile@") and job["time_start"] > 0
    assert job["delivery_info"]["routing_key"] == "profile-tasks"
    result.get(timeout=SOON)
    assert result.id not in [j["id"] for j in of_profile(inspect.active())]


def test_reserved(inspect):
    assert isinstance(of_profile(inspect.reserved()), list)


def test_scheduled(stage, inspect):
    result = stage.add.apply_async((1, 2), countdown=4)
    listed = eventually(
        inspect.scheduled, lambda jobs: any(j["request"]["id"] == result.id for j in jobs), "it is scheduled")
    [job] = [job for job in listed if job["request"]["id"] == result.id]
    assert job["eta"] and job["request"]["name"] == "profile.add"
    assert result.get(timeout=SOON) == 3
    eventually(inspect.scheduled, lambda jobs: all(j["request"]["id"] != result.id for j in jobs), "it has run")


def test_revoked(stage, inspect):
    result = stage.add.apply_async((1, 2), countdown=2)
    result.revoke()
    eventually(inspect.revoked, lambda ids: result.id in ids, "it is listed as revoked")


def test_stats(stage, inspect):
    assert stage.works()
    stats = eventually(inspect.stats, lambda s: s["total"].get("profile.add", 0) > 0, "a job is counted")
    assert stats["pid"] > 0 and isinstance(stats["pool"], dict) and stats["prefetch_count"] >= 0
    assert isinstance(stats["broker"], dict) and "rusage" in stats and "uptime" in stats
    before = stats["total"]["profile.add"]
    assert stage.works()
    eventually(inspect.stats, lambda s: s["total"]["profile.add"] == before + 1, "one more")


def test_active_queues(inspect):
    queues = {queue["name"]: queue for queue in of_profile(inspect.active_queues())}
    queue = queues["profile-tasks"]
    assert queue["routing_key"] and isinstance(queue["exchange"], dict)


def test_conf(inspect):
    assert isinstance(of_profile(inspect.conf()), dict)


def test_report(inspect):
    assert isinstance(of_profile(inspect.report())["ok"], str)


def test_query_task(stage, inspect):
    result = stage.slow.delay(3)
    reply = eventually(lambda: inspect.query_task(result.id), lambda found: result.id in found, "it is found")
    assert reply[result.id][0] in ("active", "reserved")
    result.get(timeout=SOON)


def test_an_unknown_command_is_an_error(stage):
    replies = stage.app.control.broadcast("no_such_command", reply=True, timeout=2)
    assert all("error" in reply for node in replies for reply in node.values())
    assert stage.works()


def test_replies_do_not_pile_up(stage):
    """Replies nobody takes any more would stay for ever (celery #6089)."""
    if REFERENCE:
        pytest.skip("Celery's own worker leaves them")
    stage.app.control.inspect(timeout=0.001).ping()
    time.sleep(0.5)
    keys = stage.broker.keys("*reply.celery.pidbox")
    lists = [key for key in keys if stage.broker.type(key) == b"list"]
    assert all(stage.broker.ttl(key) > 0 for key in lists), lists


# --- the command line


def celery(stage, *arguments):
    environment = {
        **os.environ, "BROKER_URL": stage.broker_url, "RESULT_BACKEND": stage.backend_url,
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return subprocess.run(
        [str(Path(sys.executable).with_name("celery")), "-A", "app", *arguments],
        cwd=Path(__file__).parent, env=environment, text=True, timeout=60,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )


@pytest.mark.parametrize("command", ["ping", "active", "registered", "reserved", "scheduled", "revoked",
                                     "stats", "active_queues", "conf", "report", "clock"])
def test_celery_inspect(stage, command):
    done = celery(stage, "inspect", "-t", "3", command)
    assert done.returncode == 0 and "profile@" in done.stdout, done.stdout


def test_celery_status(stage):
    done = celery(stage, "status", "-t", "3")
    assert done.returncode == 0 and "online" in done.stdout, done.stdout


def test_celery_call_and_result(stage):
    task_id = celery(stage, "call", "profile.add", "--args", "[3, 4]", "--queue", "profile-tasks").stdout.strip()
    assert stage.result(task_id).get(timeout=SOON) == 7
    assert "7" in celery(stage, "result", task_id).stdout


# --- events


@pytest.fixture
def events(stage):
    """Events as they come, with those of tasks switched on as Flower does."""
    seen = []
    connection = stage.app.connection()
    receiver = stage.app.events.Receiver(connection, handlers={"*": seen.append})
    thread = threading.Thread(target=receiver.capture, kwargs={"wakeup": False}, daemon=True)
    thread.start()

    def told():
        stage.app.control.enable_events()
        stage.add.delay(0, 0).get(timeout=SOON)
        return any(event["type"].startswith("task-") for event in list(seen))

    wait_until(told, SOON, "events of tasks come")
    yield seen
    receiver.should_stop = True
    thread.join(10)
    connection.close()


def of_task(events, task_id, *types):
    """The task's events, when all of `types` are among them."""
    found = {event["type"]: event for event in list(events) if event.get("uuid") == task_id}
    return found if set(types) <= set(found) else None


def test_heartbeats(events):
    wait_until(lambda: len([e for e in list(events) if e["type"] == "worker-heartbeat"
                            and e["hostname"].startswith("profile@")]) >= 2, SOON, "two heartbeats")
    beat = [e for e in events if e["type"] == "worker-heartbeat"][-1]
    assert {"freq", "active", "processed", "clock", "timestamp", "pid", "sw_ident", "sw_ver", "sw_sys"} <= set(beat)


def test_events_of_a_job(stage, events):
    result = stage.add.apply_async((1, 2), retries=3)
    result.get(timeout=SOON)
    found = wait_until(lambda: of_task(events, result.id, "task-received", "task-started", "task-succeeded"),
                       SOON, "its events")
    assert found["task-received"]["name"] == "profile.add" and found["task-received"]["retries"] == 3
    assert found["task-succeeded"]["result"] == "3" and found["task-succeeded"]["runtime"] >= 0
    assert all({"uuid", "hostname", "timestamp", "clock"} <= set(event) for event in found.values())
    assert found["task-received"]["timestamp"] <= found["task-succeeded"]["timestamp"]


def test_events_of_a_failure(stage, events):
    result = stage.send("profile.add", "x", 1)
    result.get(timeout=SOON, propagate=False)
    found = wait_until(lambda: of_task(events, result.id, "task-failed"), SOON, "its events")
    assert "TypeError" in found["task-failed"]["exception"]


def test_events_of_a_revoked_job(stage, events):
    result = stage.add.apply_async((1, 2), countdown=2)
    time.sleep(0.3)
    result.revoke()
    found = wait_until(lambda: of_task(events, result.id, "task-revoked"), SOON, "its events")
    assert found["task-revoked"]["terminated"] is False and found["task-revoked"]["expired"] is False


# --- Flower


@pytest.fixture(scope="module")
def flower(stage):
    """Flower on the shared servers; returns a function that asks it."""
    command = ENVIRONMENTS / "flower-2.2.0/bin/celery"
    if not command.exists():
        pytest.skip("there is no environment with Flower")
    port = free_port()
    process = Process(
        [str(command), "-A", "app", "flower", "--address=127.0.0.1", f"--port={port}"],
        stage.folder, "flower",
        {"BROKER_URL": stage.broker_url, "RESULT_BACKEND": stage.backend_url, "FLOWER_UNAUTHENTICATED_API": "true"},
    )
    process.start()

    def ask(path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def answers():
        try:
            return ask("/api/workers")[0] == 200
        except OSError:
            return False

    try:
        wait_until(answers, 60, "Flower answers")
        yield ask
    finally:
        process.stop()


def test_flower_sees_the_workers(flower):
    def workers():
        seen = json.loads(flower("/api/workers?refresh=true")[1])
        return {node: info for node, info in seen.items() if node.startswith("profile@")}
    [(node, info)] = wait_until(workers, SOON, "Flower lists the worker").items()
    assert "profile.add" in info["registered"] and "profile-tasks" in [q["name"] for q in info["active_queues"]]
    wait_until(lambda: json.loads(flower("/api/workers?status=true")[1]).get(node), SOON, "it is online")
    for page in ("/", "/workers", f"/worker/{node}", "/broker"):
        status, text = flower(page)
        assert status == 200, (page, text[-2000:])
        assert page == "/broker" or node in text, page


def test_flower_sees_a_job(flower, stage):
    time.sleep(6)  # It asks for events every five seconds.
    result = stage.add.delay(20, 22)
    assert result.get(timeout=SOON) == 42

    def info():
        status, text = flower(f"/api/task/info/{result.id}")
        job = json.loads(text) if status == 200 else {}
        return job if job.get("state") == "SUCCESS" else None

    job = wait_until(info, SOON, "Flower knows the job")
    assert job["name"] == "profile.add" and job["result"] == "42"
    assert result.id in json.loads(flower("/api/tasks?limit=1000")[1])
    assert flower(f"/task/{result.id}")[0] == 200
