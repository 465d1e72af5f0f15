"""Celery's own workers, of two versions, and the platform share one queue."""
import threading

import pytest
from celery import chord, group

from harness import ENVIRONMENTS, Workers, wait_until

VERSIONS = ("5.7.0", "5.4.0")

pytestmark = [
    pytest.mark.ours_alone,
    pytest.mark.skipif(
        not all((ENVIRONMENTS / f"celery-{version}/.ready").exists() for version in VERSIONS),
        reason=f"needs the environments of {' and '.join(VERSIONS)}",
    ),
]


@pytest.fixture(scope="module")
def fleet(stage):
    workers = []
    try:
        for version in VERSIONS:
            workers.append(Workers(
                stage.folder, stage.broker_url, stage.backend_url, version,
                name=f"python{version.replace('.', '')}", options=("-c", "2", "-E"),
            ))
        yield stage
    finally:
        for worker in workers:
            worker.stop()


def done_by(stage):
    """How many jobs each kind of worker has run."""
    def told():
        stats = stage.app.control.inspect(timeout=2).stats() or {}
        done = {
            node.split("@")[0]: sum(count for task, count in reply["total"].items() if task.startswith("profile."))
            for node, reply in stats.items()
            if node.split("@")[0] in ("profile", "python570", "python540")
        }
        return done if len(done) == 3 else None
    return wait_until(told, 60, "all three say what they have done")


def shares(stage, before):
    now = done_by(stage)
    return {node: now[node] - before[node] for node in now}


@pytest.fixture
def successes(fleet):
    """The ids of jobs that were done, once for each time."""
    ids = []
    connection = fleet.app.connection()
    receiver = fleet.app.events.Receiver(
        connection, handlers={"task-succeeded": lambda event: ids.append(event["uuid"])})
    thread = threading.Thread(target=receiver.capture, kwargs={"wakeup": False}, daemon=True)
    thread.start()
    fleet.app.control.enable_events(reply=True, timeout=1)
    yield ids
    receiver.should_stop = True
    thread.join(10)
    connection.close()


def test_500_jobs(fleet):
    before = done_by(fleet)
    results = [fleet.add.delay(n, n) for n in range(500)]
    assert [result.get(timeout=60) for result in results] == [2 * n for n in range(500)]
    assert sum(shares(fleet, before).values()) == 500


def test_groups(fleet):
    results = [group(fleet.add.s(n, m) for m in range(20))() for n in range(10)]
    for n, result in enumerate(results):
        assert result.get(timeout=60) == [n + m for m in range(20)]


def test_chains(fleet):
    results = [(fleet.add.s(n, 1) | fleet.add.s(2) | fleet.add.s(3) | fleet.add.s(4))() for n in range(50)]
    assert [result.get(timeout=60) for result in results] == [n + 10 for n in range(50)]


def test_chords_of_fifty_whose_parts_all_three_run(fleet, successes):
    """Who takes which part is chance, so there are chords until each has had some."""
    before, bodies = done_by(fleet), []
    while len(bodies) < 5 or min(shares(fleet, before).values()) == 0:
        assert len(bodies) < 60, shares(fleet, before)
        result = chord([fleet.add.s(n, n) for n in range(50)])(fleet.echo.s())
        assert result.get(timeout=60) == [2 * n for n in range(50)]
        bodies.append(result.id)
    assert sum(shares(fleet, before).values()) == 51 * len(bodies)
    wait_until(lambda: set(bodies) <= set(successes), 60, "each body says that it is done")
    assert sorted(id for id in successes if id in bodies) == sorted(bodies), "a body ran more than once"


def test_failures_in_a_chord(fleet):
    for _ in range(10):
        result = chord([fleet.add.s(n if n != 7 else "x", n) for n in range(10)])(fleet.echo.s())
        with pytest.raises(Exception):
            result.get(timeout=60)
        # The client raises what the part raised, perhaps before the last part has reported.
        wait_until(lambda: fleet.result(result.id).state == "FAILURE", 60, "the body has failed")
