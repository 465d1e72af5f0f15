"""What an unmodified Celery client may ask of a worker, one test per promise."""
import subprocess
import time
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from uuid import UUID, uuid4

import pytest
from celery import chain, chord, group
from celery.exceptions import (
    ChordError, NotRegistered, SoftTimeLimitExceeded, TaskRevokedError, TimeLimitExceeded,
)

from app import SERVICES
from harness import REFERENCE, wait_until

# A job that need not wait for anything ends within this time, or the test fails.
SOON = 60


def get(result):
    return result.get(timeout=SOON)


def raised_by(result):
    """The exception that `get` raises."""
    with pytest.raises(Exception) as caught:
        get(result)
    return caught.value


def stored(stage, result):
    """What is stored for a job, read without its client's help.

    A second result object of one id may wait for ever where the first one has taken the news (5.3.6).
    """
    def meta():
        meta = stage.app.backend.get_task_meta(result.id, cache=False)
        return meta if meta["status"] in ("SUCCESS", "FAILURE", "REVOKED") else None
    return wait_until(meta, SOON, f"{result.id} is done")


def running(stage, result):
    """Waits until a worker says it runs the job."""
    def seen():
        return any(job["id"] == result.id for job in stage.inspect().active()[stage.node])
    wait_until(seen, SOON, f"{result.id} is running")


def occupy(stage, seconds=3, jobs=2):
    """Gives the two workers of the queue something to do; returns when they do it."""
    blocking = [stage.slow.delay(seconds) for _ in range(jobs)]
    for result in blocking[:2]:
        running(stage, result)
    return blocking


# --- sending and getting


def test_send_task_and_get(stage):
    assert get(stage.app.send_task("profile.add", args=[10, 20], queue="profile-tasks")) == 30


def test_delay(stage):
    assert get(stage.add.delay(1, 2)) == 3


def test_keyword_arguments(stage):
    assert get(stage.add.delay(a=1, b=2)) == 3
    assert get(stage.add.delay(1, b=2)) == 3


def test_text_of_any_script_comes_back(stage):
    text = {"schlüssel": "Grüße", "emoji": "😀 \U0001f1e9\U0001f1ea", "cjk": "支払い", "rtl": "תשלום", "quotes": "\"'\\\n\t"}
    assert get(stage.echo.delay(text)) == text


@pytest.mark.parametrize("value", [
    None, True, 0, -1, 2**53 + 1, 1.5, "", [], {}, [None, [1, {"a": [False]}]], {"": {"b": []}},
], ids=repr)
def test_json_comes_back_as_it_was(stage, value):
    back = get(stage.echo.delay(value))
    assert back == value and type(back) is type(value)


@pytest.mark.parametrize("value", [
    Decimal("10.50"), Decimal("-0.00000000000000000001"),
    datetime(2026, 2, 3, 4, 5, 6, 789000, tzinfo=timezone.utc), datetime(2026, 2, 3, 4, 5, 6),
    date(2026, 2, 3), UUID("0192f3c2-a0f4-7b1e-8d5c-6f7a8b9c0d1e"), b"bytes", b"\xff\xfe",
], ids=repr)
def test_typed_values_come_back_as_they_were(stage, value):
    back = get(stage.echo.delay([value]))
    assert back == [value] and type(back[0]) is type(value)


def test_result_is_readable_by_another_client(stage):
    result = stage.add.delay(3, 4)
    get(result)
    meta = stage.app.backend.get_task_meta(result.id, cache=False)
    assert meta["status"] == "SUCCESS" and meta["result"] == 7 and meta["task_id"] == result.id
    # result_expires: a day.
    assert 0 < stage.backend.ttl(f"celery-task-meta-{result.id}") <= 86400


@pytest.mark.parametrize("name", ["add", "tasks.add", "<service>.add"])
def test_names_of_the_sample_tasks_on_every_queue(stage, name):
    results = [
        stage.send(name.replace("<service>", service), 1, 2, queue=f"{service}-tasks")
        for service in SERVICES
    ]
    assert [get(result) for result in results] == [3] * len(SERVICES)


def test_the_rules_queue_has_a_second_name(stage):
    for name in ("add", "tasks.add", "rules.add"):
        assert get(stage.send(name, 1, 2, queue="rule-engine-tasks")) == 3


def test_compressed_bodies(stage):
    assert get(stage.add.apply_async((1, 2), compression="gzip")) == 3
    text = "Grüße " * 10_000
    assert get(stage.echo.apply_async((text,), compression="gzip")) == text


def test_ignored_results_are_not_stored(stage):
    link = stage.echo.s()
    link_result = link.freeze()
    result = stage.add.apply_async((1, 2), ignore_result=True, link=link)
    # It ran:
    assert get(link_result) == 3
    assert not stage.backend.exists(f"celery-task-meta-{result.id}")


def test_headers_of_a_retry_and_of_the_user_are_taken(stage):
    result = stage.add.apply_async((1, 2), retries=3, headers={"x-tenant": "acme"})
    assert get(result) == 3


def test_many_at_once(stage):
    results = [stage.add.delay(n, n) for n in range(300)]
    assert [get(result) for result in results] == [2 * n for n in range(300)]


# --- time


def test_countdown(stage):
    started = time.monotonic()
    result = stage.add.apply_async((1, 2), countdown=2)
    assert get(result) == 3
    assert 1.9 < time.monotonic() - started < 15


@pytest.mark.parametrize("zone", [timezone.utc, timezone(timedelta(hours=5, minutes=30))], ids=str)
def test_eta(stage, zone):
    started = time.monotonic()
    result = stage.add.apply_async((1, 2), eta=datetime.now(zone) + timedelta(seconds=1.5))
    assert get(result) == 3
    assert 1.4 < time.monotonic() - started < 15


def test_eta_in_the_past_runs_at_once(stage):
    eta = datetime.now(timezone.utc) - timedelta(hours=1)
    assert get(stage.add.apply_async((1, 2), eta=eta)) == 3


def test_later_jobs_do_not_wait_for_a_delayed_one(stage):
    delayed = stage.add.apply_async((1, 1), countdown=6)
    assert get(stage.add.delay(1, 2)) == 3
    assert not delayed.ready()
    assert get(delayed) == 2


def test_expired_before_it_was_sent(stage):
    result = stage.add.apply_async((1, 2), expires=datetime.now(timezone.utc) - timedelta(seconds=60))
    assert isinstance(raised_by(result), TaskRevokedError)
    assert result.state == "REVOKED"
    assert result.result.args == ("expired",)


def test_expired_while_it_waited(stage):
    result = stage.add.apply_async((1, 2), countdown=2, expires=1)
    assert isinstance(raised_by(result), TaskRevokedError)
    assert result.state == "REVOKED"


def test_not_yet_expired(stage):
    assert get(stage.add.apply_async((1, 2), expires=60)) == 3


def test_soft_time_limit(stage):
    started = time.monotonic()
    result = stage.slow.apply_async((20,), soft_time_limit=1)
    assert isinstance(raised_by(result), SoftTimeLimitExceeded)
    assert result.state == "FAILURE" and time.monotonic() - started < 16
    assert stage.works()


def test_time_limit(stage):
    started = time.monotonic()
    result = stage.slow.apply_async((20,), time_limit=1)
    failure = raised_by(result)
    assert isinstance(failure, TimeLimitExceeded) and failure.args[0] == 1
    assert result.state == "FAILURE" and time.monotonic() - started < 16
    assert stage.works()


# --- priority


def test_lower_numbers_are_served_first(stage):
    """While both workers are busy: 9, 5, 3, 0 are sent, and 0, 3 and 5, 9 are done.

    Redis has four lists (0, 3, 6, 9); 3 and 5 share one, first in, first out.
    """
    # Celery's own worker takes jobs before it can run them; those are not to be the ones we look at.
    blocking = occupy(stage, jobs=6 if REFERENCE else 2)
    sent = {}
    for priority in (9, 5, 3, 0):
        for _ in range(3):
            sent[stage.add.apply_async((1, 2), priority=priority).id] = priority
    for result in [*blocking, *map(stage.result, sent)]:
        get(result)
    bucket = {0: 0, 3: 3, 5: 3, 9: 9}
    done = sorted(
        (stage.app.backend.get_task_meta(task_id)["date_done"], bucket[priority])
        for task_id, priority in sent.items()
    )
    order = [b for _, b in done]
    # Two run at a time, so that neighbours may end in either order.
    for place, expected in enumerate(sorted(order)):
        assert expected in order[max(0, place - 1):place + 2], order


# --- one job after another


def test_link(stage):
    link = stage.add.s(10)
    link_result = link.freeze()
    result = stage.add.apply_async((1, 2), link=link)
    assert get(result) == 3
    assert get(link_result) == 13
    assert [get(child) for child in stage.result(result.id).children] == [13]


def test_links(stage):
    links = [stage.add.s(10), stage.add.si(5, 5), stage.add.s(20) | stage.add.s(30)]
    results = [link.freeze() for link in links]
    get(stage.add.apply_async((1, 2), link=links))
    assert [stored(stage, result)["result"] for result in results] == [13, 10, 53]


def test_link_error(stage):
    link = stage.echo.s()
    link_result = link.freeze()
    result = stage.add.apply_async(("x", 1), link_error=link)
    assert isinstance(raised_by(result), TypeError)
    assert get(link_result) == result.id


def test_link_error_of_a_problem(stage):
    link = stage.echo.s()
    link_result = link.freeze()
    result = stage.send("payment.confirm", "pay_0", queue="payment-tasks", link_error=link)
    raised_by(result)
    assert get(link_result) == result.id


def test_link_error_is_not_called_after_success(stage):
    link = stage.echo.s()
    link_result = link.freeze()
    assert get(stage.add.apply_async((1, 2), link_error=link)) == 3
    assert stage.works()
    assert link_result.state == "PENDING"


def test_chain(stage):
    result = (stage.add.s(1, 2) | stage.add.s(3) | stage.add.si(4, 5))()
    assert get(result) == 9
    assert get(result.parent) == 6
    assert get(result.parent.parent) == 3


def test_chain_across_services(stage):
    services = stage.app.services
    result = chain(services["wallet"].add.s(1, 2), services["ledger"].add.s(3), services["rules"].add.s(4))()
    assert get(result) == 10


def test_long_chain(stage):
    assert get(chain(stage.add.s(0, 0), *[stage.add.s(1) for _ in range(30)])()) == 30


def test_a_failure_ends_the_chain_and_is_told_to_its_end(stage):
    result = (stage.add.s(1, 2) | stage.add.s("x") | stage.add.s(1) | stage.add.s(1))()
    assert isinstance(raised_by(result), TypeError)
    # The client raises what a parent raised, perhaps before the end is told.
    after = (result, result.parent, result.parent.parent)
    assert [stored(stage, step)["status"] for step in after] == ["FAILURE"] * 3
    assert result.parent.parent.parent.state == "SUCCESS"


def test_result_of_a_chain_as_a_tree(stage):
    result = (stage.add.s(1, 2) | stage.add.s(3))()
    get(result)
    parent = stage.result(result.parent.id)
    assert [child.id for child in parent.children] == [result.id]
    meta = stage.app.backend.get_task_meta(result.id)
    assert meta.get("parent_id") == result.parent.id


# --- many jobs together


def test_group(stage):
    result = group(stage.add.s(n, n) for n in range(20))()
    assert get(result) == [2 * n for n in range(20)]
    assert result.successful()


def test_group_with_a_failure(stage):
    result = group(stage.add.s(1, 1), stage.add.s("x", 1), stage.add.s(2, 2))()
    assert isinstance(raised_by(result), TypeError)
    wait_until(result.ready, SOON, "the group is ready")
    assert [part.state for part in result] == ["SUCCESS", "FAILURE", "SUCCESS"]


def test_chord(stage):
    result = chord([stage.add.s(n, n) for n in range(20)])(stage.echo.s())
    assert get(result) == [2 * n for n in range(20)]


def test_chord_of_one(stage):
    assert get(chord([stage.add.s(1, 1)])(stage.echo.s())) == [2]


def test_chord_with_an_immutable_body(stage):
    assert get(chord([stage.add.s(n, n) for n in range(3)])(stage.add.si(1, 2))) == 3


def test_chord_leaves_nothing_behind(stage):
    result = chord([stage.add.s(n, n) for n in range(5)])(stage.echo.s())
    get(result)
    group_id = result.parent.id
    wait_until(lambda: not stage.backend.exists(f"celery-taskset-meta-{group_id}.j"), SOON, "its parts are gone")


def test_chord_with_a_failed_part(stage):
    link = stage.echo.s()
    link_result = link.freeze()
    body = stage.echo.s().on_error(link)
    result = chord([stage.add.s(1, 1), stage.add.s("x", 1), stage.add.s(2, 2)])(body)
    body = stored(stage, result)
    assert body["status"] == "FAILURE"
    assert isinstance(body["result"], ChordError) and "raised" in str(body["result"])
    # The result knows its parts, and raises what they raised where it looks at them before its own end:
    # always when that is there already, else by chance (AsyncResult._maybe_reraise_parent_error).
    assert isinstance(raised_by(result), TypeError)
    assert get(link_result) == result.id


def test_task_then_group_then_task(stage):
    result = (stage.add.s(1, 1) | group(stage.add.s(1), stage.add.s(2)) | stage.echo.s())()
    assert get(result) == [3, 4]


def test_task_then_group(stage):
    result = (stage.add.s(1, 1) | group(stage.add.s(1), stage.add.s(2)))()
    assert get(result) == [3, 4]


def test_group_then_two_tasks(stage):
    result = (group(stage.add.s(1, 1), stage.add.s(2, 2)) | stage.echo.s() | stage.echo.s())()
    assert get(result) == [2, 4]


def test_chord_of_chains(stage):
    chains = [stage.add.s(n, n) | stage.add.s(1) for n in range(4)]
    assert get(chord(chains)(stage.echo.s())) == [1, 3, 5, 7]


def test_group_in_a_group_then_task(stage):
    inner = group(stage.add.s(1, 1), stage.add.s(2, 2))
    result = (group(inner, stage.add.s(3, 3)) | stage.echo.s())()
    # The parts of the inner group count as the outer one's, without a place of their own.
    assert sorted(get(result)) == [2, 4, 6]


# --- failure


def test_wrong_arguments(stage):
    for args in [(1,), (1, 2, 3), ("x", 1)]:
        result = stage.send("profile.add", *args)
        assert isinstance(raised_by(result), TypeError), args
        assert result.state == "FAILURE" and result.traceback is not None


def test_wrong_keyword_argument(stage):
    result = stage.app.send_task("profile.add", args=[1], kwargs={"c": 1}, queue="profile-tasks")
    assert isinstance(raised_by(result), TypeError)


def test_unknown_task(stage):
    result = stage.send("profile.nothing", 1)
    failure = raised_by(result)
    assert isinstance(failure, NotRegistered) and "profile.nothing" in str(failure)
    assert result.state == "FAILURE"


def test_a_problem_is_an_exception_of_its_own(stage):
    result = stage.send("payment.confirm", f"pay_{uuid4().hex}", queue="payment-tasks")
    failure = raised_by(result)
    assert type(failure).__name__ == "PaymentNotFound"
    assert result.state == "FAILURE"
    assert stage.app.backend.decode(
        stage.backend.get(f"celery-task-meta-{result.id}"))["result"]["exc_module"] == "innover"


# --- revoking


def test_revoked_before_its_time(stage):
    result = stage.add.apply_async((1, 2), countdown=3)
    time.sleep(0.5)
    result.revoke()
    assert isinstance(raised_by(result), TaskRevokedError)
    assert result.state == "REVOKED"


def test_revoked_while_it_waits_in_the_queue(stage):
    blocking = occupy(stage)
    link = stage.echo.s()
    link_result = link.freeze()
    result = stage.add.apply_async((1, 2), link=link)
    result.revoke()
    assert isinstance(raised_by(result), TaskRevokedError)
    for other in blocking:
        get(other)
    assert stage.works()
    assert link_result.state == "PENDING", "it ran all the same"


def test_revoked_several_at_once(stage):
    results = [stage.add.apply_async((1, 2), countdown=3) for _ in range(3)]
    time.sleep(0.5)
    stage.app.control.revoke([result.id for result in results])
    for result in results:
        assert isinstance(raised_by(result), TaskRevokedError)


def test_terminated_while_it_runs(stage):
    result = stage.slow.delay(30)
    running(stage, result)
    result.revoke(terminate=True)
    assert isinstance(raised_by(result), TaskRevokedError)
    assert result.state == "REVOKED"
    assert stage.works()


def test_revoking_what_is_done_changes_nothing(stage):
    result = stage.add.delay(1, 2)
    get(result)
    result.revoke()
    assert stage.works()
    assert stage.result(result.id).state == "SUCCESS"


# --- where broker and results are


@pytest.mark.parametrize("servers", [
    {"broker": 3, "backend": 4},
    {"password": "secret"},
    {"broker": 5, "backend": 6, "password": "s3cret-1"},
], ids=["another-database", "password", "both"])
def test_other_databases_and_passwords(own_stage, servers):
    stage = own_stage(**servers)
    result = stage.add.delay(1, 2)
    assert get(result) == 3
    assert stage.backend.exists(f"celery-task-meta-{result.id}")
    assert get(chord([stage.add.s(n, n) for n in range(5)])(stage.echo.s())) == [0, 2, 4, 6, 8]
    assert get((stage.add.s(1, 2) | stage.add.s(3))()) == 6
    assert stage.app.control.ping(timeout=2)


# --- by hand


@pytest.mark.ours_alone
def test_a_message_published_by_hand_is_a_job(stage):
    """redis-cli PUBLISH profile-tasks '{"task": "profile.add", …}'"""
    task_id = f"x-{uuid4().hex[:8]}"
    subprocess.run(
        ["redis-cli", "-p", str(stage.redis.port), "PUBLISH", "profile-tasks",
         f'{{"task":"profile.add","args":[1,2],"id":"{task_id}"}}'],
        check=True, stdout=subprocess.DEVNULL,
    )
    assert get(stage.result(task_id)) == 3
