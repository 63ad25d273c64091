"""Real children: they end with us, stop when asked, and hear nothing that was not meant for them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ganglion
from ganglion.core.errors import HostError
from ganglion.host.system import SystemProcess, SystemProcesses

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
posix_only = pytest.mark.skipif(os.name != "posix", reason="needs signals and process groups")

LONG_NS = 60_000_000_000
"""A grace that only a hang uses up."""
SLEEPER = "import time\nprint('ready', flush=True)\nwhile True: time.sleep(60)"
DEAF = f"import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n{SLEEPER}"
POLITE = f"import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n{SLEEPER}"
LISTENER = (
    f"import signal\nsignal.signal(signal.SIGINT, lambda *_: print('interrupted', flush=True))\n{POLITE}"
)

PARENT = f"""
import asyncio, signal, sys
from pathlib import Path
from ganglion.host.system import SystemProcesses

async def main(log, text):
    child = await SystemProcesses().start([sys.executable, "-c", text], log=log)
    while b"ready" not in log.read_bytes():
        await asyncio.sleep(0.005)
    interrupted = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupted.set)
    print(child.pid, flush=True)
    await interrupted.wait()
    print(await child.stop({LONG_NS}), flush=True)

asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
"""


def python(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


def has_said_ready(log: Path) -> bool:
    return log.exists() and b"ready" in log.read_bytes()


async def ready(log: Path) -> None:
    async with asyncio.timeout(60):
        while not has_said_ready(log):
            await asyncio.sleep(0.005)


def gone(pid: int) -> bool:
    """True for a process that has ended, whether somebody has looked at its exit status or not (Linux)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@contextlib.contextmanager
def parent_and_child(log: Path, text: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process in a session of its own that has started a child; both are gone afterwards."""
    parent = subprocess.Popen(
        [*python(PARENT), str(log), text],
        env={**os.environ, "PYTHONPATH": str(Path(ganglion.__file__).parents[1])},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    pid = 0
    try:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        yield parent, pid
    finally:
        parent.kill()
        parent.wait()
        assert parent.stdout is not None
        parent.stdout.close()
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@linux_only
def test_a_child_ends_with_its_parent_also_when_that_is_killed(tmp_path: Path) -> None:
    with parent_and_child(tmp_path / "log", DEAF) as (parent, child):
        assert not gone(child)
        parent.kill()
        parent.wait()
        wait_for(lambda: gone(child))


@posix_only
def test_an_interrupt_of_our_process_group_does_not_reach_a_child(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with parent_and_child(log, LISTENER) as (parent, child):
        assert os.getpgid(child) != os.getpgid(parent.pid)
        os.killpg(parent.pid, signal.SIGINT)  # what a terminal does at Ctrl-C
        assert parent.stdout is not None
        assert parent.stdout.readline() == "7\n", "the child ended because it was asked to, by its parent"
        assert parent.wait() == 0
    assert log.read_text() == "ready\n"


def with_child(text: str, log: Path, story: Callable[[SystemProcess], object]) -> SystemProcess:
    """Starts a child, waits until it is ready, lets ``story`` deal with it, and makes sure that it ends."""

    async def whole() -> SystemProcess:
        child = await SystemProcesses().start(python(text), log=log)
        try:
            await ready(log)
            assert child.alive()
            done = story(child)
            if asyncio.iscoroutine(done):
                await done
        finally:
            child.kill()
            await child.wait()
        assert not child.alive()
        return child

    return asyncio.run(whole())


@posix_only
@pytest.mark.parametrize(
    "text, grace_ns, status",
    [
        (POLITE, LONG_NS, 7),
        (SLEEPER, LONG_NS, -signal.SIGTERM),
        (DEAF, 20_000_000, -signal.SIGKILL),
        (DEAF, 0, -signal.SIGKILL),
    ],
    ids=["ends by itself", "ends by the signal", "does not end", "gets no time"],
)
def test_a_child_is_asked_to_end_and_then_made_to(
    tmp_path: Path, text: str, grace_ns: int, status: int
) -> None:
    async def story(child: SystemProcess) -> None:
        assert await child.stop(grace_ns) == status
        assert not child.alive()
        assert await child.stop(grace_ns) == status, "once more does no harm"
        assert await child.wait() == status

    with_child(text, tmp_path / "log", story)


@posix_only
def test_a_killed_child_is_gone_and_killing_it_again_does_no_harm(tmp_path: Path) -> None:
    async def story(child: SystemProcess) -> None:
        child.kill()
        child.kill()
        assert await child.wait() == -signal.SIGKILL
        child.kill()

    with_child(DEAF, tmp_path / "log", story)


def test_both_outputs_are_appended_to_the_log(tmp_path: Path) -> None:
    log = tmp_path / "deep" / "er" / "log"
    text = "import sys; print('out {0}', flush=True); print('err {0}', file=sys.stderr, flush=True)"

    async def story() -> None:
        for number in (1, 2):
            child = await SystemProcesses().start(python(text.format(number)), log=log)
            assert await child.wait() == 0
            assert not child.alive()

    asyncio.run(story())
    assert log.read_text().split("\n") == ["out 1", "err 1", "out 2", "err 2", ""]


def printed(tmp_path: Path, text: str, environment: dict[str, str] | None = None, niceness: int = 0) -> str:
    """What a child prints that does nothing else."""

    async def story() -> None:
        child = await SystemProcesses().start(
            python(text), log=tmp_path / "log", environment=environment, niceness=niceness
        )
        assert await child.wait() == 0

    asyncio.run(story())
    return (tmp_path / "log").read_text().strip()


@pytest.fixture
def typed() -> Iterator[None]:
    """Somebody has typed something at our terminal."""
    kept = os.dup(0)
    out, into = os.pipe()
    os.write(into, b"typed")
    os.close(into)
    os.dup2(out, 0)
    os.close(out)
    yield
    os.dup2(kept, 0)
    os.close(kept)


@posix_only
@pytest.mark.usefixtures("typed")
def test_a_child_reads_nothing_from_our_terminal(tmp_path: Path) -> None:
    assert printed(tmp_path, "import sys; print(repr(sys.stdin.read()))") == "''"


def test_variables_are_ours_and_those_that_were_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GANGLION_OURS", "ours")
    monkeypatch.setenv("GANGLION_BOTH", "ours")
    text = "import os; print(*(os.environ.get(f'GANGLION_{n}') for n in ('OURS', 'BOTH', 'GIVEN')))"
    given = {"GANGLION_BOTH": "given", "GANGLION_GIVEN": "given"}
    assert printed(tmp_path, text, environment=given) == "ours given given"
    assert "GANGLION_GIVEN" not in os.environ


@linux_only
@pytest.mark.parametrize("niceness", [0, 5])
def test_a_child_steps_back_behind_us(tmp_path: Path, niceness: int) -> None:
    before = os.nice(0)
    assert printed(tmp_path, "import os; print(os.nice(0))", niceness=niceness) == str(
        min(19, before + niceness)
    )
    assert os.nice(0) == before


@pytest.mark.parametrize("what", ["missing", "not a program", "log"])
def test_what_cannot_be_started_is_said(tmp_path: Path, what: str) -> None:
    (tmp_path / "file").write_text("no program")
    command = {"missing": [str(tmp_path / "none")], "not a program": [str(tmp_path / "file")]}
    log = tmp_path / "file" / "log" if what == "log" else tmp_path / "log"

    with pytest.raises(HostError) as caught:
        asyncio.run(SystemProcesses().start(command.get(what, python("pass")), log=log))
    assert caught.value.code == "host.process"
    assert caught.value.why
    assert caught.value.next_step


# --- conversations ---

ECHO = "import sys\nwhile c := sys.stdin.buffer.read(3): sys.stdout.buffer.write(c[::-1]); sys.stdout.buffer.flush()"


def test_a_conversation_gives_what_the_child_answers_and_ends_it(tmp_path: Path) -> None:
    talk = SystemProcesses().converse(python(ECHO), log=tmp_path / "deep" / "log.txt")
    talk.write(b"abcdef")
    assert (talk.read(2), talk.read(4)) == (b"cb", b"afed")
    talk.close()
    with pytest.raises(HostError) as caught:
        talk.write(b"abc")
    assert caught.value.code == "host.process"


def test_a_child_that_ends_in_the_middle_is_said_with_its_log_kept(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    text = "import sys\nsys.stdout.buffer.write(b'ab')\nsys.stderr.write('gone')\nsys.exit(3)"
    talk = SystemProcesses().converse(python(text), log=log)
    with pytest.raises(HostError) as caught:
        talk.read(3)
    assert caught.value.code == "host.process"
    talk.close()
    assert log.read_text() == "gone"


def test_a_child_that_says_nothing_is_ended_and_said(tmp_path: Path) -> None:
    text = "import sys, time\nsys.stdout.buffer.write(b'ab')\nsys.stdout.flush()\ntime.sleep(600)"
    talk = SystemProcesses().converse(python(text), log=tmp_path / "log.txt", answer_ns_max=300_000_000)
    with pytest.raises(HostError) as caught:
        talk.read(3)
    assert caught.value.code == "host.process" and "0.3 s" in str(caught.value)
    with pytest.raises(HostError) as caught:
        talk.read(3)
    assert caught.value.code == "host.process" and "-9" in str(caught.value)
    talk.close()


def test_a_conversation_with_a_missing_program_is_host_process(tmp_path: Path) -> None:
    with pytest.raises(HostError) as caught:
        SystemProcesses().converse(["/nowhere/program"], log=tmp_path / "log.txt")
    assert caught.value.code == "host.process"
