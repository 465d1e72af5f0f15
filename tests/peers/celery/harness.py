"""Servers a test starts for itself, on free ports, in a temporary folder, and stops at its end."""
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import redis

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[2]
# The folder of the spin.toml that runs, and of its target/: another checkout's, when it is told.
APPLICATION = Path(os.environ.get("INNOVER_APPLICATION", REPOSITORY)).resolve()
INNOVER = APPLICATION / "target/release/innover"
ENVIRONMENTS = REPOSITORY / "target/peers"

# Where the platform runs, a Celery worker of this client's version runs instead.
REFERENCE = os.environ.get("INNOVER_PEERS_REFERENCE") == "1"

# The first start may compile every component.
READY_SECONDS_MAX = 180
STOP_SECONDS_MAX = 30


# Each is a UDP port that keeps the TCP port of the same number for this process.
claims = []


def free_port():
    """A port nobody listens on and no other test is told, below those of outgoing connections.

    tests/src/ports.rs has the same rule.
    """
    for port in random.sample(range(10_000, 20_000), 10_000):
        claim = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            claim.bind(("127.0.0.1", port))
            with socket.socket() as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(("127.0.0.1", port))
                listener.listen()
        except OSError:
            claim.close()
            continue
        claims.append(claim)
        return port
    raise AssertionError("no free port among 10,000")


def wait_until(true, seconds, what):
    """Asks `true` until it says so, and returns what it said.

    Fails after `seconds` with `what`: a text, or a function that makes one then.
    """
    deadline = time.monotonic() + seconds
    while True:
        value = true()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {seconds} s: {what() if callable(what) else what}"
        time.sleep(0.05)


class Process:
    """A child process whose output goes to a file of its own."""

    def __init__(self, command, folder, name, environment, cwd=HERE):
        self.command, self.cwd, self.name = command, cwd, name
        self.log = Path(folder) / f"{name}.log"
        self.environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environment}
        self.child = None

    def start(self):
        log = open(self.log, "ab")
        self.said_before = log.tell()
        self.child = subprocess.Popen(
            self.command, cwd=self.cwd, env=self.environment, stdin=subprocess.DEVNULL,
            stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )
        log.close()

    def said(self):
        """What it has said since its last start."""
        with open(self.log, "rb") as log:
            log.seek(self.said_before)
            return log.read().decode(errors="replace")

    def wait_for(self, text, seconds=READY_SECONDS_MAX):
        def heard():
            ended = self.child.poll()
            said = self.said()
            assert ended is None, f"{self.name} ended with {ended}:\n{said}"
            return text in said
        wait_until(heard, seconds, f"{self.name} saying {text!r}; see {self.log}")

    def kill(self):
        """SIGKILL to it and its children."""
        if self.child and self.child.poll() is None:
            os.killpg(self.child.pid, signal.SIGKILL)
            self.child.wait()

    def stop(self):
        """SIGTERM, and SIGKILL to what does not heed it. Returns the exit code."""
        if self.child and self.child.poll() is None:
            self.child.terminate()
            try:
                self.child.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                pass
        self.kill()
        return self.child.returncode if self.child else None


class Redis(Process):
    """A redis-server that loses nothing when it is killed (every write is in its append-only file)."""

    def __init__(self, folder, password=None):
        self.port, self.password = free_port(), password
        data = Path(folder) / f"redis-{self.port}"
        data.mkdir()
        command = [
            "redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(data),
            "--save", "", "--appendonly", "yes", "--appendfsync", "everysec",
        ]
        if password:
            command += ["--requirepass", password]
        super().__init__(command, folder, data.name, {})
        self.start()

    def start(self):
        super().start()
        wait_until(self.answers, 30, "Redis answers")

    def url(self, database=0):
        secret = f":{self.password}@" if self.password else ""
        return f"redis://{secret}127.0.0.1:{self.port}/{database}"

    def client(self, database=0):
        return redis.Redis(host="127.0.0.1", port=self.port, db=database, password=self.password)

    def answers(self):
        try:
            with self.client() as client:
                return client.ping()
        except redis.RedisError:
            return False


class Platform(Process):
    """`innover up` with a state folder of its own. It may be killed and started again."""

    def __init__(self, folder, broker, backend=None, name="platform"):
        self.state = Path(folder) / f"{name}-state"
        self.url = f"http://127.0.0.1:{free_port()}"
        self.management = f"http://127.0.0.1:{free_port()}"
        environment = {
            "INNOVER_LISTEN": self.url.removeprefix("http://"),
            "INNOVER_MANAGEMENT_LISTEN": self.management.removeprefix("http://"),
            "INNOVER_STATE_DIR": str(self.state),
            "REDIS_URL": broker,
        }
        if backend:
            environment["CELERY_RESULT_BACKEND"] = backend
        super().__init__([str(INNOVER), "up"], folder, name, environment, cwd=APPLICATION)
        self.prepare()
        self.start()

    def prepare(self):
        """Keys and compiled modules are those of the Rust tests: making them takes seconds."""
        shared = APPLICATION / "target/test-state"
        (shared / "modules").mkdir(parents=True, exist_ok=True)
        if not (shared / "secrets.toml").exists():
            own = Path(tempfile.mkdtemp(dir=shared))
            subprocess.run(
                [str(INNOVER), "keys"], cwd=APPLICATION, check=True, stdout=subprocess.DEVNULL,
                env={**os.environ, "INNOVER_STATE_DIR": str(own)},
            )
            (own / "secrets.toml").rename(shared / "secrets.toml")
            shutil.rmtree(own)
        self.state.mkdir()
        shutil.copy(shared / "secrets.toml", self.state)
        (self.state / "modules").symlink_to(shared / "modules")

    def start(self):
        super().start()
        self.wait_for("\nready ")

    def dead_letters(self):
        """What `innover jobs dead-letters` prints."""
        return subprocess.run(
            [str(INNOVER), "jobs", "dead-letters", "--limit", "10000"], cwd=APPLICATION,
            env=self.environment, check=True, stdout=subprocess.PIPE, text=True,
        ).stdout

    def rows(self, database, sql):
        """Rows of a service's database."""
        with sqlite3.connect(f"file:{self.state}/db/{database}.db?mode=ro", uri=True) as connection:
            return connection.execute(sql).fetchall()


class Workers(Process):
    """A real Celery worker. `version` names the environment; this one's when it is absent."""

    def __init__(self, folder, broker, backend=None, version=None, module="app",
                 queues=("profile-tasks",), name="python", options=("-c", "2")):
        celery = Path(sys.executable).with_name("celery")
        if version:
            celery = ENVIRONMENTS / f"celery-{version}" / "bin/celery"
        command = [
            str(celery), "-A", module, "worker", "-n", f"{name}@%h-0000", "-Q", ",".join(queues),
            "-l", "INFO", *options,
        ]
        environment = {"BROKER_URL": broker, "RESULT_BACKEND": backend or broker}
        super().__init__(command, folder, f"celery-{name}", environment)
        self.start()

    def start(self):
        super().start()
        self.wait_for(" ready.", 60)


def start_platform(folder, broker, backend=None, name="platform"):
    """The platform, or under `--reference` a Celery worker with the same tasks."""
    if not REFERENCE:
        return Platform(folder, broker, backend, name)
    from reference import QUEUES
    return Workers(folder, broker, backend, module="reference", queues=QUEUES, name="profile")
