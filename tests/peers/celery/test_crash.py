"""kill -9, of the platform and of Redis, while jobs run: every effect once, every result there."""
import itertools
import json
import os
import random
import threading
import time
from uuid import uuid4

import pytest
from celery import chord

from harness import wait_until

JOBS = int(os.environ.get("INNOVER_CRASH_JOBS", "2000"))
# So that kills meet work: about as many seconds of sending as kills.
SENT_PER_SECOND = int(os.environ.get("INNOVER_CRASH_RATE", "200"))
REDIS_RESTARTS = 3
# After the last kill: leases of the dead (30 s) end, and what is left is done.
SETTLED_SECONDS_MAX = 120 + JOBS // 100


def insist(send, seconds=60):
    """Sends again while the broker is away. The job has the same id: it is one job."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return send()
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


class Sender(threading.Thread):
    """Sends `items.create` jobs at a steady pace, whoever is up."""

    def __init__(self, stage, run):
        super().__init__(daemon=True)
        self.stage, self.names = stage, {}
        self.run_name = run
        self.failed = None

    def run(self):
        try:
            started = time.monotonic()
            for n in range(JOBS):
                time.sleep(max(0, started + n / SENT_PER_SECOND - time.monotonic()))
                name, task_id = f"{self.run_name}-{n}", str(uuid4())
                insist(lambda: self.stage.app.send_task(
                    "items.create", args=[name, "crash-test"], queue="items-tasks", task_id=task_id,
                    retry=False, ignore_result=False))
                self.names[task_id] = name
        except Exception as error:
            self.failed = error


def states(stage, ids):
    """State → how many of these jobs."""
    ids, count = list(ids), {}
    for start in range(0, len(ids), 1000):
        for stored in stage.backend.mget([f"celery-task-meta-{i}" for i in ids[start:start + 1000]]):
            state = json.loads(stored)["status"] if stored else "PENDING"
            count[state] = count.get(state, 0) + 1
    return count


@pytest.mark.ours_alone
@pytest.mark.seconds_max(SETTLED_SECONDS_MAX + 240 + JOBS // SENT_PER_SECOND * 4)
def test_kill_9_every_second(own_stage):
    """Each job makes one item; the platform is killed every second, Redis three times."""
    stage = own_stage()
    run = f"crash-{uuid4().hex[:6]}"
    sender = Sender(stage, run)
    sender.start()
    kills = 0
    redis_kills = [JOBS * (n + 1) // (REDIS_RESTARTS + 1) for n in range(REDIS_RESTARTS)]
    while sender.is_alive():
        time.sleep(random.uniform(0.7, 1.3))
        stage.platform.kill()
        kills += 1
        if redis_kills and len(sender.names) >= redis_kills[0]:
            redis_kills.pop(0)
            stage.redis.kill()
            time.sleep(0.3)
            stage.redis.start()
        stage.platform.start()
    for _ in range(3):
        stage.platform.kill()
        kills += 1
        stage.platform.start()
    sender.join()
    assert not sender.failed, sender.failed
    assert len(sender.names) == JOBS and not redis_kills
    print(f"{JOBS} jobs, {kills} kills of the platform, {REDIS_RESTARTS} of Redis")

    wait_until(
        lambda: states(stage, sender.names).get("SUCCESS", 0) == JOBS, SETTLED_SECONDS_MAX,
        lambda: f"every job is a SUCCESS, but: {states(stage, sender.names)}")
    made = stage.platform.rows("items", f"SELECT name, COUNT(*) FROM items WHERE name LIKE '{run}-%' GROUP BY name")
    assert len(made) == JOBS, "effects are missing"
    assert [name for name, count in made if count != 1] == [], "effects are doubled"
    for task_id in itertools.islice(sender.names, 100):
        assert stage.result(task_id).get(timeout=60)


@pytest.mark.ours_alone
@pytest.mark.seconds_max(180)
def test_a_chord_survives_kills(own_stage):
    stage = own_stage()
    result = chord([stage.app.services["profile"].add.s(n, n) for n in range(400)])(stage.echo.s())
    for _ in range(3):
        time.sleep(random.uniform(0.02, 0.2))
        stage.platform.kill()
        stage.platform.start()
    wait_until(lambda: states(stage, [result.id]).get("SUCCESS"), 90, "the chord's body has run")
    assert stage.result(result.id).get(timeout=60) == [2 * n for n in range(400)]


@pytest.mark.ours_alone
def test_a_running_job_is_run_again_after_a_kill(own_stage):
    stage = own_stage()
    result = stage.slow.delay(3)
    wait_until(lambda: any(j["id"] == result.id for j in stage.inspect().active()[stage.node]), 60, "it runs")
    stage.platform.kill()
    stage.platform.start()
    assert result.get(timeout=60) == "slept 3 s"


@pytest.mark.ours_alone
def test_a_running_job_is_not_fetched_beside_itself(own_stage):
    """Redis may be away for longer than a lease lasts."""
    stage = own_stage()
    leased = "innover:profile-tasks:leased"
    result = stage.slow.delay(120)
    [lease] = wait_until(lambda: stage.broker.zrange(leased, 0, -1), 60, "it is leased")
    time.sleep(1)  # Its worker has looked what else there is, and looks again after five seconds.
    assert stage.broker.zadd(leased, {lease: 1}, xx=True, ch=True) == 1
    stage.redis.stop()
    time.sleep(11)  # Longer than between two renewals.
    stage.redis.start()
    other = insist(lambda: stage.add.delay(1, 2))
    wait_until(lambda: states(stage, [other.id]).get("SUCCESS"), 60, "another job is fetched meanwhile")
    assert stage.broker.zrange(leased, 0, -1) == [lease]
    result.revoke(terminate=True)
    wait_until(lambda: states(stage, [result.id]).get("REVOKED"), 60, "it is ended")


@pytest.mark.ours_alone
def test_delayed_jobs_survive_a_kill(own_stage):
    stage = own_stage()
    result = stage.add.apply_async((1, 2), countdown=4)
    time.sleep(1)
    stage.platform.kill()
    stage.platform.start()
    assert result.get(timeout=60) == 3


@pytest.mark.ours_alone
def test_a_revoked_job_stays_revoked_after_a_kill(own_stage):
    stage = own_stage()
    result = stage.add.apply_async((1, 2), countdown=5)
    time.sleep(0.5)
    result.revoke()
    time.sleep(0.5)
    stage.platform.kill()
    stage.platform.start()
    wait_until(lambda: states(stage, [result.id]).get("REVOKED"), 90, "it is revoked")


@pytest.mark.ours_alone
def test_redis_is_restarted_while_jobs_run(own_stage):
    """Jobs from before and after; the client and the worker find it again by themselves.

    Celery's own worker now and then stores FAILURE for a job it ran at that moment.
    """
    stage = own_stage()
    before = [stage.add.delay(n, n) for n in range(100)]
    assert before[0].get(timeout=60) == 0
    stage.redis.stop()
    time.sleep(2)
    stage.redis.start()
    after = [insist(lambda: stage.add.delay(n, n)) for n in range(100)]
    ids = [result.id for result in before + after]
    wait_until(lambda: states(stage, ids).get("SUCCESS") == 200, 90,
               lambda: f"all 200 are done, but: {states(stage, ids)}")
    assert stage.works()


@pytest.mark.ours_alone
def test_the_platform_starts_before_redis(own_stage):
    """It says so, and works as soon as there is one."""
    stage = own_stage()
    stage.platform.stop()
    stage.redis.stop()
    stage.platform.start()
    time.sleep(1)
    stage.redis.start()
    wait_until(lambda: stage.app.control.inspect(timeout=1).ping(), 90, "the workers are there")
    assert stage.works()


@pytest.mark.ours_alone
def test_jobs_wait_while_the_platform_is_stopped(own_stage):
    stage = own_stage()
    stage.platform.stop()
    results = [stage.add.delay(n, n) for n in range(50)]
    stage.platform.start()
    assert [result.get(timeout=60) for result in results] == [2 * n for n in range(50)]
