"""The platform's tasks on a real Celery worker, to prove the suite itself: `tests/peers/run --reference`."""
import sys
import types

from app import SERVICES, add, app, echo, slow

for name in ("", "tasks."):
    for function in (add, slow, echo):
        app.task(name=f"{name}{function.__name__}", shared=False)(function)


class PaymentNotFound(Exception):
    """What the platform's problem `payment_not_found` becomes."""


# Where the platform says its exceptions are from; no client can import it.
sys.modules["innover"] = types.ModuleType("innover")
sys.modules["innover"].PaymentNotFound = PaymentNotFound
PaymentNotFound.__module__ = "innover"


@app.task(name="payment.confirm", shared=False)
def confirm(payment):
    raise PaymentNotFound(f"there is no payment {payment}")


# The platform takes no more jobs than it runs, so that priority holds.
app.conf.worker_prefetch_multiplier = 1
app.conf.task_queues = None
app.conf.worker_send_task_events = True
app.finalize()
QUEUES = [f"{service}-tasks" for service in SERVICES] + ["rule-engine-tasks"]
