"""Several processes share a site's input: together they make what one makes, whoever is killed or stopped."""

from __future__ import annotations

import pytest

from ganglion.agent import workers
from ganglion.core.partition import PARTITIONS
from ganglion.engine import durable
from ganglion.messaging import partitions, pins, subjects
from tests.agent.sharing import IN, Team, alone, history, outbox, send
from tests.messaging.sites import until


@pytest.fixture(autouse=True)
def _quick(monkeypatch, request):
    """Shorter times in the same proportions, so that servers are not waited for long."""
    # An unhurried server does one request after another, each in milliseconds: it would not keep up with a quarter.
    by = 1 if "unhurried" in request.node.name else 2
    for name in ("PIN_TIMEOUT_NS", "ASK_EVERY_NS", "ASKED_FOR_NS"):
        monkeypatch.setattr(pins, name, getattr(pins, name) // by)
    for name in ("LOOK_EVERY_NS", "CLEAN_EVERY_NS"):
        monkeypatch.setattr(workers, name, getattr(workers, name) // by)
    monkeypatch.setattr(partitions, "STATE_BYTES_MAX", 16 << 20)
    monkeypatch.setattr(durable, "CHECKPOINT_EVERY_NS", durable.CHECKPOINT_EVERY_NS // (2 * by))


async def settled(team, up, inputs):
    """All ``inputs`` messages are in checkpoints."""
    team.check()
    if (await up.state(IN)).last_seq < inputs:
        return False
    for partition in range(PARTITIONS):
        found = await pins.standing(up, IN, partitions.consumer(partition))
        if found.owed:
            return False
    return True


def test_without_room_for_a_claim_the_work_waits(run, rng, hosts, monkeypatch):
    monkeypatch.setattr(partitions, "STATE_BYTES_MAX", 600)
    messages = history(rng, 40)
    expected, _ = alone(messages)

    async def test(sites, up, down):
        team = Team(sites, hosts)
        worker = team.start(0)
        await send(down, messages)

        async def waits():
            team.check()
            return any("host.disk-full" in why for why in worker.troubles.values())

        await until(waits)
        stream = f"STREAM.{{}}.{subjects.state('up')}".format
        config = (await up.ask(stream("INFO"), {}))["config"]
        await up.ask(stream("UPDATE"), config | {"max_bytes": 16 << 20})
        await until(lambda: settled(team, up, len(messages)))
        assert await outbox(up) == expected
        assert worker.troubles == {}
        await team.stop()

    run(test)


def test_rows_of_origins_that_are_not_below_the_child_are_refused_by_each_process(run, rng, hosts):
    messages = history(rng, 40)
    forged = history(rng, 10, [f"gw9-relay-{n:02d}" for n in range(14)])
    expected, _ = alone(messages)

    async def test(sites, up, down):
        team = Team(sites, hosts)
        both = team.start(0), team.start(1)
        await send(down, forged)
        await send(down, messages)
        await until(lambda: settled(team, up, len(forged) + len(messages)))
        assert await outbox(up) == expected
        engines = [owned.engine for worker in both for owned in worker.owned.values()]
        assert sum(e.progress.bad_messages for e in engines) == len(forged)
        await team.stop()

    run(test)


def test_one_takes_over_what_another_leaves(run, tmp_path, rng, hosts):
    messages = history(rng, 150)
    expected, _ = alone(messages)

    async def test(sites, up, down):
        team = Team(sites, hosts)
        first, second = team.start(0), team.start(1)
        await send(down, messages[:50])
        await until(lambda: settled(team, up, 50))
        # A machine that is too busy may have made one lose a home partition for a while, not all of them.
        assert set(first.owned) & set(first.home)
        assert set(second.owned) & set(second.home)
        await send(down, messages[50:60])
        await team.kill(0)
        await send(down, messages[60:100])
        await until(lambda: settled(team, up, 100))
        assert second.taken_over > 0
        # It comes back, and gets back what is its own.
        again = team.start(0)
        await send(down, messages[100:])
        await until(lambda: settled(team, up, len(messages)))
        assert await outbox(up) == expected
        await team.stop()
        assert not again.owned
        assert await outbox(up) == expected

    run(test)
