"""Celery's workers and ours on the same jobs, the same Redis and the same client: `make bench-celery`.

    target/peers/celery-5.7.0/bin/python tests/peers/celery/bench.py [--jobs 20000] [--rounds 3]

Each round starts every contender as its users do, alone on a Redis that was emptied:

- ready: from its start to the result of a job that waited for it;
- round trip: `add.delay(1, 2).get()`, one after another;
- drain: the queue is filled out of its sight and put in place in one step (RENAME); from then to the
  last result. Queue and results are in different databases, so that results are counted by DBSIZE;
- memory: proportional set size of the whole process tree, before any job and after the drain.

Contenders take turns, so that what else the machine does meets all of them. Medians are printed; the
other rounds stand in brackets.
"""
import argparse
import base64
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from uuid import uuid4

import app as application
from harness import Platform, Redis, Workers

BROKER, BACKEND = 0, 1
QUEUE = "profile-tasks"
RESULT_SECONDS_MAX = 300


class Quiet(Workers):
    """A Celery worker at the log level its users have. It does not say when it is ready."""

    def __init__(self, folder, redis, name, options):
        super().__init__(
            folder, redis.url(BROKER), redis.url(BACKEND), name=name, options=(*options, "-l", "WARNING"))

    def wait_for(self, *_):
        pass


CONTENDERS = {
    "celery prefork 2": lambda folder, redis, name: Quiet(folder, redis, name, ("-c", "2")),
    "celery threads 2": lambda folder, redis, name: Quiet(folder, redis, name, ("-P", "threads", "-c", "2")),
    "innover": lambda folder, redis, name: Platform(folder, redis.url(BROKER), redis.url(BACKEND), name),
}


def message(number):
    """A job as celery 5.7.0 sends it."""
    task_id = str(uuid4())
    body = json.dumps([[number, 1], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])
    return json.dumps({
        "body": base64.b64encode(body.encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py", "task": "profile.add", "id": task_id, "shadow": None, "eta": None, "expires": None,
            "group": None, "group_index": None, "retries": 0, "timelimit": [None, None], "root_id": task_id,
            "parent_id": None, "argsrepr": f"({number}, 1)", "kwargsrepr": "{}", "origin": "bench",
            "ignore_result": False, "replaced_task_nesting": 0, "stamped_headers": None, "stamps": {},
        },
        "properties": {
            "correlation_id": task_id, "reply_to": str(uuid4()), "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": QUEUE}, "priority": 0, "body_encoding": "base64",
            "delivery_tag": str(uuid4()),
        },
    })


def fill(broker, key, jobs):
    for start in range(0, jobs, 500):
        broker.lpush(key, *[message(n) for n in range(start, min(start + 500, jobs))])


def until_results(backend, count, poll):
    deadline = time.monotonic() + RESULT_SECONDS_MAX
    while backend.dbsize() < count:
        assert time.monotonic() < deadline, f"{backend.dbsize()} of {count} results"
        time.sleep(poll)


def memory_mib(root):
    """Proportional set size of a process and all below it."""
    children, total = {}, 0
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(status.parent.name))
    waiting = [root]
    while waiting:
        process = waiting.pop()
        waiting += children.get(process, [])
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def measure(folder, redis, name, contender, jobs, round_trips):
    broker, backend = redis.client(BROKER), redis.client(BACKEND)
    broker.flushall()
    fill(broker, QUEUE, 1)
    started = time.monotonic()
    worker = contender(folder, redis, name)
    client = application.make(redis.url(BROKER), redis.url(BACKEND))
    try:
        until_results(backend, 1, 0.002)
        ready = time.monotonic() - started
        time.sleep(1)
        idle = memory_mib(worker.child.pid)

        add = client.services["profile"].add
        for _ in range(20):
            add.delay(1, 2).get(timeout=10)
        taken = []
        for _ in range(round_trips):
            before = time.perf_counter()
            assert add.delay(1, 2).get(timeout=10) == 3
            taken.append((time.perf_counter() - before) * 1000)
        taken.sort()

        backend.flushdb()
        fill(broker, "bench:staged", jobs)
        before = time.monotonic()
        broker.rename("bench:staged", QUEUE)
        until_results(backend, jobs, 0.005)
        drained = time.monotonic() - before
        return {
            "ready, s": ready,
            "round trip p50, ms": statistics.median(taken),
            "round trip p99, ms": taken[int(len(taken) * 0.99)],
            "drain, jobs/s": jobs / drained,
            "memory idle, MiB": idle,
            "memory after, MiB": memory_mib(worker.child.pid),
        }
    finally:
        client.backend.remove_pending_result = lambda result: None
        client.close()
        worker.stop()


def shown(values):
    middle = statistics.median(values)
    digits = 0 if middle >= 100 else 2
    others = " ".join(f"{value:.{digits}f}" for value in values)
    return f"{middle:,.{digits}f} [{others}]"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--jobs", type=int, default=20_000, help="jobs of a drain")
    parser.add_argument("--round-trips", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    results = {name: [] for name in CONTENDERS}
    with tempfile.TemporaryDirectory() as folder:
        redis = Redis(folder)
        try:
            for number in range(options.rounds):
                order = list(CONTENDERS)
                for name in order[number % len(order):] + order[:number % len(order)]:
                    short = f"{name.replace(' ', '-')}-{number}"
                    results[name].append(measure(
                        folder, redis, short, CONTENDERS[name], options.jobs, options.round_trips))
                    print(f"round {number + 1}, {name}: "
                          + ", ".join(f"{what} {value:.2f}" for what, value in results[name][-1].items()),
                          flush=True)
            version = redis.client().info()["redis_version"]
        finally:
            redis.stop()

    from celery import __version__
    print(f"\nCelery {__version__}, Redis {version} (append-only file, everysec), {os.cpu_count()} CPUs, "
          f"{options.jobs:,} jobs, {options.round_trips} round trips, medians of {options.rounds} rounds [all of them]\n")
    ours = results["innover"]
    rows = [["", *CONTENDERS, *(f"innover : {name}" for name in CONTENDERS if name != "innover")]]
    for what in ours[0]:
        values = {name: [round_[what] for round_ in rounds] for name, rounds in results.items()}
        middle = {name: statistics.median(v) for name, v in values.items()}
        rows.append([
            what, *(shown(values[name]) for name in CONTENDERS),
            *(f"{middle['innover'] / middle[name]:.2f}" for name in CONTENDERS if name != "innover"),
        ])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for number, row in enumerate(rows):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |")
        if number == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")


if __name__ == "__main__":
    main()
