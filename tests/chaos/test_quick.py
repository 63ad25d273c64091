"""The part of the chaos suite that runs with all tests: one world, several faults, and a checker that can fail."""

from __future__ import annotations

import asyncio
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos.cases import CASES, Case
from tests.chaos.field import Field
from tests.chaos.judge import Row, judge, table

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
SCALE = 0.25


async def several_faults(field: Field) -> None:
    """A cut, a dead connection, and a kill of every kind, one after the other under load."""
    await field.load()
    await field.wait(4)
    relay = field.world.relays["gw1"]
    relay.cut()
    await field.wait(8)
    relay.heal()
    field.healed("gw1")
    field.world.relays["gw2"].swallow()
    for kill, site in ((field.kill_server, "edge1"), (field.kill_agent, "gw2"), (field.kill_server, "cloud")):
        while not kill(site):
            await asyncio.sleep(0.05)
        await asyncio.sleep(field.chance.uniform(0.1, 1))
    await field.wait(8)


@linux
def test_several_faults_lose_double_and_reorder_nothing_and_the_checker_can_fail(
    tmp_path: Path, seed: int
) -> None:
    field = Field(tmp_path, "several faults", seed, SCALE)

    async def scenario() -> Row:
        try:
            await field.start()
            await several_faults(field)
            return await field.finish()
        finally:
            await field.close()

    row = asyncio.run(scenario())
    print(table([row]))
    assert row.sound, row
    assert row.readings > 100
    assert row.restarts >= 3
    assert row.flowing_s is not None
    devices = sorted(p.name for p in (field.settings.run_dir / "devices").iterdir())
    evidence = field.evidence(devices)
    batches = evidence.sinks["readings"].batches
    whole = next(i for i, b in enumerate(batches) if len(b) >= 3)

    def planted(damage) -> Row:
        damaged = deepcopy(evidence)
        damage(damaged.sinks["readings"].batches)
        return judge(Row("planted"), field.spec, damaged)

    def lose(found):
        found[whole] = found[whole].take(slice(1, None))

    def double(found):
        found.append(found[whole].take(slice(0, 1)))

    def swap(found):
        found[whole : whole + 1] = [found[whole].take(slice(1, None)), found[whole].take(slice(0, 1))]

    def alter(found):
        columns = {name: column.copy() for name, column in found[whole].columns.items()}
        columns["frame"][0, 0, 0] += 1
        found[whole] = replace(found[whole], columns=columns)

    assert planted(lambda _found: None).sound
    for damage, counted in (
        (lose, "lost"),
        (double, "duplicated"),
        (swap, "out_of_order"),
        (alter, "altered"),
    ):
        found = planted(damage)
        assert not found.sound
        assert getattr(found, counted) == 1, (counted, found)


def test_every_case_has_a_name_of_its_own() -> None:
    assert len({c.name for c in CASES}) == len(CASES)
    assert all(isinstance(c, Case) for c in CASES)
