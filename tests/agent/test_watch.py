"""A server that does not work is started anew; one that was away, and works again, is left alone."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from ganglion.agent.watch import EVERY_NS, UNANSWERED_MIN, ServerWatch
from ganglion.core.units import NS_PER_S
from ganglion.sim.virtual import loop as virtual
from ganglion.sim.virtual.clock import VirtualClock
from ganglion.sim.virtual.disk import Platter, VirtualDisk

LOOK_S = EVERY_NS / NS_PER_S


class Server:
    """A process that answers questions."""

    def __init__(self):
        self.pid = 1
        self.restarted = 0

    def restart(self):
        self.restarted += 1

    async def state(self, _stream):
        return None


def watched(story):
    server = Server()

    async def main(loop):
        disk = VirtualDisk(Platter(), Path("/virtual/x"))
        watch = ServerWatch(server, cast("Any", server), "J", disk, VirtualClock(loop.virtual_time))
        running = asyncio.ensure_future(watch.run())
        await asyncio.sleep(LOOK_S / 2)
        await story(server, watch)
        running.cancel()

    virtual.run(main)
    return server.restarted


def test_a_server_that_answers_questions_and_no_writes_is_started_anew():
    async def story(_server, watch):
        for _ in range(UNANSWERED_MIN):
            watch.wrote("OUT", False)
        await asyncio.sleep(LOOK_S)

    assert watched(story) == 1


@pytest.mark.parametrize("seen_down", [True, False])
def test_writes_that_a_killed_server_left_unanswered_do_not_restart_the_next(seen_down):
    async def story(server, watch):
        watch.wrote("OUT", False)
        server.pid = None if seen_down else 2
        watch.wrote("OUT", False)
        watch.wrote("J", True)
        server.pid = 2
        await asyncio.sleep(3 * LOOK_S)

    assert watched(story) == 0


def test_a_writer_that_is_answered_again_clears_what_was_counted():
    async def story(_server, watch):
        watch.wrote("OUT", False)
        watch.wrote("OUT", True)
        watch.wrote("OUT", False)
        await asyncio.sleep(LOOK_S)

    assert watched(story) == 0
