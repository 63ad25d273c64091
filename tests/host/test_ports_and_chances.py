"""Loopback ports, streams of chance, and the host that is made of them."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ganglion.core.errors import HostError
from ganglion.host import loopback
from ganglion.host.loopback import SystemPorts, local_range
from ganglion.host.ports import Chance
from ganglion.host.system import SystemChances, system_host, variable

KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
OTHER = {"tcp": "udp", "udp": "tcp"}
seeds = st.integers(0, 2**64 - 1)
components = st.text(max_size=20)


def drawn(chance: Chance, count: int = 4) -> list[int]:
    return [chance.getrandbits(64) for _ in range(count)]


# --- ports ---


@pytest.mark.parametrize("kind", KINDS)
def test_a_free_port_can_be_had_and_is_taken_then(kind: str) -> None:
    ports = SystemPorts()
    port = ports.free(kind)
    assert 0 < port < 65536
    assert not ports.taken(port, kind)
    with socket.socket(socket.AF_INET, KINDS[kind]) as holder:
        holder.bind(("127.0.0.1", port))
        if kind == "tcp":
            holder.listen()
        assert ports.taken(port, kind)
        assert ports.free(kind) != port
    assert not ports.taken(port, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_tcp_and_udp_do_not_take_each_others_ports(kind: str) -> None:
    ports = SystemPorts()
    for _ in range(20):
        with socket.socket(socket.AF_INET, KINDS[kind]) as holder:
            holder.bind(("127.0.0.1", 0))
            port = holder.getsockname()[1]
            assert ports.taken(port, kind)
            if not ports.taken(port, OTHER[kind]):
                return
    pytest.fail(f"20 ports of {kind} were all taken for {OTHER[kind]}")


def test_a_port_whose_connections_just_ended_is_free() -> None:
    ports = SystemPorts()
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            server, _ = listener.accept()
            server.close()  # who closes first keeps the port in TIME_WAIT
            assert client.recv(1) == b""
    assert not ports.taken(port)


@pytest.mark.parametrize("kind", KINDS)
def test_no_outgoing_connection_is_given_a_free_port(kind: str) -> None:
    """Else a connection may hold the port when the server it was chosen for comes to listen."""
    with socket.socket(socket.AF_INET, KINDS[kind]) as other:
        other.bind(("127.0.0.1", 0))
        first, last = local_range()
        assert first <= other.getsockname()[1] <= last
    assert not [p for p in (SystemPorts().free(kind) for _ in range(200)) if first <= p <= last]


@pytest.mark.parametrize("kept", ["1024 65535", "nonsense", None])
def test_a_port_is_found_where_the_system_gives_out_all_or_does_not_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: str | None
) -> None:
    told = tmp_path / "range"
    if kept is not None:
        told.write_text(kept)
    monkeypatch.setattr(loopback, "_LOCAL_RANGE", told)
    port = SystemPorts().free()
    assert not SystemPorts().taken(port)
    assert kept == "1024 65535" or port < 32_768


# --- chances ---


@given(seeds, components)
def test_the_same_seed_and_component_draw_the_same_numbers(seed: int, component: str) -> None:
    one, two = SystemChances(seed), SystemChances(seed)
    assert drawn(one.stream(component)) == drawn(two.stream(component))


@given(seeds, components, components, st.integers(0, 10))
def test_a_draw_in_one_component_shifts_no_other(seed: int, one: str, two: str, draws: int) -> None:
    undisturbed = drawn(SystemChances(seed).stream(two))
    chances = SystemChances(seed)
    stream = chances.stream(two)
    drawn(chances.stream(one), draws)
    assert drawn(stream, 2) + drawn(stream, 2) == undisturbed


@given(seeds, st.sets(components, min_size=2, max_size=5), st.integers(1, 1000))
def test_components_and_seeds_draw_different_numbers(seed: int, names: set[str], more: int) -> None:
    chances = [SystemChances(seed), SystemChances(seed + more)]
    firsts = [tuple(drawn(c.stream(name))) for c in chances for name in names]
    assert len(set(firsts)) == len(firsts)


@given(seeds, components)
def test_numbers_lie_where_they_should(seed: int, component: str) -> None:
    chance = SystemChances(seed).stream(component)
    assert 0 <= chance.random() < 1
    assert 2 <= chance.uniform(2, 3) <= 3
    assert 0 <= chance.getrandbits(3) < 8


# --- the whole host ---


def test_a_host_of_one_seed_draws_the_same_again_and_without_one_does_not(tmp_path: Path) -> None:
    def first(seed: int | None) -> list[int]:
        return drawn(system_host(tmp_path / "state", seed).chances.stream("ids"))

    assert first(7) == first(7)
    assert first(7) != first(8)
    assert first(None) != first(None)


def test_a_host_keeps_its_state_where_it_was_told(tmp_path: Path) -> None:
    host = system_host(tmp_path / "state")
    host.disk.replace("boot", b"1")
    assert (tmp_path / "state" / "boot").read_bytes() == b"1"
    with pytest.raises(HostError) as caught:
        system_host(tmp_path / "state" / "boot")
    assert caught.value.code == "host.disk"


def test_a_variable_is_none_when_unset_or_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GANGLION_PLANTED", raising=False)
    assert variable("GANGLION_PLANTED") is None
    monkeypatch.setenv("GANGLION_PLANTED", "")
    assert variable("GANGLION_PLANTED") is None
    monkeypatch.setenv("GANGLION_PLANTED", "set")
    assert variable("GANGLION_PLANTED") == "set"
