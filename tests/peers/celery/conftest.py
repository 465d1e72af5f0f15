"""Fixtures, and the last line in the form cargo's tests have, which .ci/run counts."""
import gc
import signal
import time
from functools import cached_property
from types import SimpleNamespace

import pytest

import app as application
from harness import REFERENCE, Redis, start_platform, wait_until

TEST_SECONDS_MAX = 240
started = time.monotonic()


def pytest_configure(config):
    # A client whose Redis was killed complains when its results are collected; kombu calls redis-py
    # as it did before 5.3.
    for warning in ("pytest.PytestUnraisableExceptionWarning", "DeprecationWarning:kombu"):
        config.addinivalue_line("filterwarnings", f"ignore::{warning}")
    config.addinivalue_line("markers", "seconds_max(n): this test may take longer than others")
    config.addinivalue_line("markers", "ours_alone: a promise that Celery's own worker does not make")


def pytest_collection_modifyitems(items):
    skip = pytest.mark.skip(reason="Celery's own worker does not promise it")
    for item in items:
        if REFERENCE and item.get_closest_marker("ours_alone"):
            item.add_marker(skip)


def pytest_terminal_summary(terminalreporter):
    count = {what: len(terminalreporter.stats.get(what, [])) for what in ("passed", "failed", "error", "skipped")}
    failed = count["failed"] + count["error"]
    terminalreporter.write_line(
        f"test result: {'FAILED' if failed else 'ok'}. {count['passed']} passed; {failed} failed; "
        f"{count['skipped']} ignored; 0 measured; 0 filtered out; "
        f"finished in {time.monotonic() - started:.2f}s"
    )


class Stage(SimpleNamespace):
    """A Redis, the platform on it, and a client of both.

    `redis`, `platform`; `app` the Celery application, `add`, `slow`, `echo` its tasks of the
    service profile; `backend` a plain connection to where results are.
    """

    def send(self, task, *args, queue="profile-tasks", **options):
        return self.app.send_task(task, args=args, queue=queue, **options)

    def result(self, task_id):
        return self.app.AsyncResult(task_id)

    def works(self):
        """Whether a job of the profile service comes back now."""
        return self.add.delay(20, 22).get(timeout=60) == 42

    @cached_property
    def node(self):
        """The name of the node that works on profile-tasks."""
        def found():
            nodes = self.app.control.inspect(timeout=2).ping() or {}
            return [node for node in nodes if node.startswith("profile@")]

        [node] = wait_until(found, 60, "the node answers")
        return node

    def inspect(self):
        """Asks this node, and waits no longer than for its reply."""
        return self.app.control.inspect([self.node], timeout=30, limit=1)


def make_stage(folder, broker=0, backend=None, password=None, name="platform", redis=None):
    """Starts the servers; `broker` and `backend` are database numbers of one Redis."""
    redis = redis or Redis(folder, password)
    try:
        backend_url = redis.url(backend) if backend is not None else None
        platform = start_platform(folder, redis.url(broker), backend_url, name)
    except BaseException:
        redis.stop()
        raise
    app = application.make(redis.url(broker), backend_url or redis.url(broker))
    return Stage(
        redis=redis, platform=platform, app=app, folder=folder,
        broker=redis.client(broker), backend=redis.client(broker if backend is None else backend),
        broker_url=redis.url(broker), backend_url=backend_url or redis.url(broker),
        **vars(app.services["profile"]),
    )


def close(stage):
    # Results that are forgotten later would look for the Redis that is gone.
    stage.app.backend.remove_pending_result = lambda result: None
    stage.app.close()
    stage.platform.stop()
    stage.redis.stop()


@pytest.fixture(autouse=True)
def time_limit(request):
    """A test that hangs, as a client may that missed a message, fails instead."""
    marker = request.node.get_closest_marker("seconds_max")
    seconds = marker.args[0] if marker else TEST_SECONDS_MAX

    def give_up(*_):
        raise TimeoutError(f"the test took more than {seconds} s")

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    # A result that is collected while the client holds a lock of its own waits for that lock for
    # ever (AsyncResult.__del__ unsubscribes; seen with 5.3.6). Here it happens at a quiet moment.
    gc.disable()
    yield
    gc.collect()
    signal.alarm(0)


@pytest.fixture(scope="session")
def stage(tmp_path_factory):
    """The servers that most tests share."""
    stage = make_stage(tmp_path_factory.mktemp("shared"))
    yield stage
    close(stage)


@pytest.fixture(autouse=True)
def still_running(request):
    """Says which test ended a server that the next ones need too, and leaves those out."""
    yield
    if "stage" in request.fixturenames:
        stage = request.getfixturevalue("stage")
        for server in (stage.redis, stage.platform):
            ended = server.child.poll()
            if ended is not None:
                request.session.shouldfail = f"{server.name} has ended"
                pytest.fail(f"{server.name} ended with {ended}:\n{server.said()[-1000:]}", pytrace=False)


@pytest.fixture
def own_stage(tmp_path):
    """Starts servers for one test: `own_stage(backend=1)`."""
    stages = []

    def start(**options):
        stages.append(make_stage(tmp_path, **options))
        return stages[-1]

    yield start
    for stage in stages:
        close(stage)
