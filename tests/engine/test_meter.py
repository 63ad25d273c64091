"""A meter counts every call, and measures as many as it is told."""

from __future__ import annotations

import pytest

from ganglion.engine import meter as meters
from ganglion.engine.meter import MEASURED_FIRST, UNMEASURED, Meter, Work


class Processor:
    """Each look costs ``look_ns``; work is added by hand."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.looks = 0

    def cpu_ns(self) -> int:
        self.looks += 1
        return self.now_ns


def worked(meter: Meter, processor: Processor, name: str, took_ns: int, rows: int = 2) -> None:
    began_ns = meter.begin(name)
    processor.now_ns += took_ns
    meter.end(name, rows, began_ns, 8 * rows)


def test_the_first_call_is_apart_and_all_others_are_summed():
    processor = Processor()
    meter = Meter(processor.cpu_ns)
    for took_ns in (1000, 10, 20, 30):
        worked(meter, processor, "a", took_ns)
    assert meter.works["a"] == Work(calls=3, rows=6, cpu_ns=60, first_ns=1000, row_bytes=48)
    assert meter.works["a"].plus(Work(1, 1, 1, 1, 1)) == Work(4, 7, 61, 1001, 49)


@pytest.mark.parametrize("every", [1, 2, 8])
def test_measuring_some_calls_tells_what_all_took_when_they_take_the_same(every):
    processor = Processor()
    meter = Meter(processor.cpu_ns, every)
    calls = MEASURED_FIRST + 1 + 10 * every
    for _ in range(calls):
        worked(meter, processor, "a", 7)
        worked(meter, processor, "b", 5)
    for name, took_ns in (("a", 7), ("b", 5)):
        work = meter.works[name]
        assert (work.calls, work.rows, work.row_bytes) == (calls - 1, 2 * (calls - 1), 16 * (calls - 1))
        assert work.cpu_ns == took_ns * (calls - 1)
    assert processor.looks == 2 * 2 * (MEASURED_FIRST + 1 + 10)


def test_without_a_name_it_is_always_measured():
    processor = Processor()
    meter = Meter(processor.cpu_ns, 8)
    for _ in range(MEASURED_FIRST + 100):
        worked(meter, processor, "a", 7)
        assert meter.begin() != UNMEASURED


def test_names_beyond_the_limit_are_not_counted(monkeypatch):
    monkeypatch.setattr(meters, "WORKS_MAX", 1)
    processor = Processor()
    meter = Meter(processor.cpu_ns)
    worked(meter, processor, "a", 1)
    worked(meter, processor, "b", 1)
    assert list(meter.to_json()) == ["a"]
