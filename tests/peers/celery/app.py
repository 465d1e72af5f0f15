"""A Celery application as a user of the platform writes one: the sample tasks of every service.

Clients send with it (`add.delay(1, 2)`), the command line finds it (`celery -A app inspect ping`),
and real Celery workers run it beside the platform on the same queues. Broker and result backend
come from BROKER_URL and RESULT_BACKEND.
"""
import os
import time
from types import SimpleNamespace

from celery import Celery

SERVICES = (
    "profile", "wallet", "ledger", "payment", "refund", "forex",
    "rules", "cases", "audit", "items", "scoring",
)


def add(a, b):
    return a + b


def slow(seconds):
    time.sleep(seconds)
    return f"slept {seconds} s"


# One parameter: a worker calls an errback of more as a function (celery/backends/base.py,
# _call_task_errbacks), and then nothing is stored under its id.
def echo(value=None):
    return value


def make(broker, backend):
    """A Celery application on this broker and backend, and its tasks by service."""
    app = Celery("peers", broker=broker, backend=backend)
    app.conf.task_routes = {f"{service}.*": {"queue": f"{service}-tasks"} for service in SERVICES}
    # Waited for while Redis restarts; the newer versions ask for a decision.
    app.conf.broker_connection_retry_on_startup = True
    app.services = {
        service: SimpleNamespace(**{
            function.__name__: app.task(name=f"{service}.{function.__name__}", shared=False)(function)
            for function in (add, slow, echo)
        })
        for service in SERVICES
    }
    return app


app = make(os.environ.get("BROKER_URL"), os.environ.get("RESULT_BACKEND"))
