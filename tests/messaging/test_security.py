"""Identities and what they keep out, on real servers: every attack of a hostile gateway, and what stays as it was."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import ssl
import stat

import nats as client_library
import pytest

from ganglion.agent.streams import BusJournal
from ganglion.core.errors import HostError, MessagingError
from ganglion.core.wire import End, encode
from ganglion.engine.arrivals import Arrivals, Progress
from ganglion.engine.senders import Senders
from ganglion.host.private import PrivateDirectory
from ganglion.host.system import system_host
from ganglion.messaging import nats, subjects
from ganglion.messaging.provision import reaches
from ganglion.messaging.security import claims
from ganglion.messaging.security.authority import Authority
from ganglion.messaging.security.identity import Access, SiteIdentity
from ganglion.messaging.security.nkeys import KeyPair, Kind
from ganglion.messaging.server import find_binary
from tests.engine.flows import SPEC
from tests.messaging.secured import secured
from tests.messaging.sites import until


async def stored(tree, count):
    """Everything the hub has, once it is ``count`` messages."""
    bus = tree.buses["hub"]

    async def all_there():
        return (await bus.state("IN_hub")).last_seq >= count

    await until(all_there)
    state = await bus.state("IN_hub")
    messages = bus.read("IN_hub", 0)
    found = [await anext(messages) for _ in range(state.last_seq)]
    await messages.aclose()
    return [(m.subject, m.payload) for m in found]


async def send(tree, site, count, start=0):
    for n in range(start, start + count):
        await tree.buses[site].append(f"OUT_{site}", f"out.readings.{site}", f"{site} {n}".encode())


def test_sites_with_identities_send_up_and_answer_their_parent(tmp_path):
    async def test():
        async with secured(tmp_path) as tree:
            await send(tree, "gwa", 20)
            await send(tree, "gwb", 20)
            found = await stored(tree, 40)
            for site in ("gwa", "gwb"):
                subject = f"in.{site}.out.readings.{site}"
                assert [p for s, p in found if s == subject] == [f"{site} {n}".encode() for n in range(20)]
                assert await reaches(tree.buses["hub"], site)

    asyncio.run(test())


class Hostile:
    """A gateway whose owner has turned on its parent: its own identity, a server of its own making, no manners."""

    def __init__(self, tree, site="gwa"):
        self._tree = tree
        self._site = site

    async def __aenter__(self):
        tree, site = self._tree, self._site
        await tree.buses.pop(site).close()
        await tree.servers.pop(site).stop()
        host = system_host(tree.root / "hostile")
        self.port = host.ports.free()
        trust = tree.identity(site).trust()
        config = f"""
            server_name: {site}
            listen: "127.0.0.1:{self.port}"
            jetstream {{ store_dir: "{tree.root / "hostile"}", domain: {site} }}
            leafnodes {{ reconnect: "250ms", remotes: [ {{
              url: "tls://127.0.0.1:{tree.leaf_port}", credentials: "{trust.leaf_credentials}"
              tls {{ cert_file: "{trust.certificate}", key_file: "{trust.certificate_key}"
                     ca_file: "{trust.authority}" }} }} ] }}"""
        (tree.root / "hostile" / "c.conf").write_text(config)
        self._process = await host.processes.start(
            [find_binary(None), "-c", str(tree.root / "hostile" / "c.conf")],
            log=tree.root / "hostile" / "log",
        )
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(OSError, Exception):
                    self.client = await client_library.connect(
                        f"nats://127.0.0.1:{self.port}", allow_reconnect=False, error_cb=_quiet
                    )
                    break
                await asyncio.sleep(0.05)
            while b"Leafnode connection created" not in (tree.root / "hostile" / "log").read_bytes():
                await asyncio.sleep(0.05)
        return self

    async def __aexit__(self, *_):
        await self.client.close()
        await self._process.stop(5_000_000_000)

    async def ask(self, subject, content=b""):
        """The answer; None when there is none."""
        try:
            message = await self.client.request(subject, content, timeout=1)
        except (client_library.errors.NoRespondersError, client_library.errors.TimeoutError):
            return None
        return json.loads(message.data)


async def _quiet(_error):
    pass


def test_a_hostile_gateway_gets_nowhere(tmp_path):
    async def test():
        async with secured(tmp_path) as tree:
            await send(tree, "gwa", 5)
            await send(tree, "gwb", 5)
            before = await stored(tree, 10)
            heard_above = []

            async def listen(subject):
                async for message in tree.buses["hub"].subscribe(subject):
                    heard_above.append(message.subject)  # noqa: PERF401 # it never ends

            listening = [asyncio.create_task(listen(s)) for s in ("j.>", "out.>", "in.>", "down.>")]
            async with Hostile(tree) as hostile:
                overheard = []

                async def overhear(message):
                    overheard.append(message.subject)

                for subject in (
                    "deliver.gwb",
                    "deliver.gwb.>",
                    "in.>",
                    "out.>",
                    "j.>",
                    "_INBOX.>",
                    "$JS.API.>",
                ):
                    await hostile.client.subscribe(subject, cb=overhear)
                await hostile.client.flush()
                # Speaking in the name of others, or of the parent.
                for subject in (
                    "j.x.gwb",
                    "out.readings.gwb",
                    "in.gwb.out.readings.gwb",
                    "deliver.gwb",
                    "down.gwb",
                    "_INBOX_gwb.x.1",
                    "$JS.ACK.IN_hub.x",
                    "$JS.FC.OUT_gwb.up",
                ):
                    await hostile.client.publish(subject, b"FORGED")
                await hostile.client.flush()
                # Asking what is not its own. (Its own server answers for its own domain.)
                for subject in (
                    "$JS.hub.API.INFO",
                    "$JS.hub.API.STREAM.PURGE.IN_hub",
                    "$JS.hub.API.STREAM.DELETE.IN_hub",
                    "$JS.gwb.API.INFO",
                    "$JS.gwb.API.STREAM.PURGE.OUT_gwb",
                    "$JS.gwb.API.CONSUMER.DELETE.OUT_gwb.up",
                    "$SYS.REQ.SERVER.PING",
                    "$SYS.REQ.CLAIMS.LIST",
                ):
                    assert await hostile.ask(subject) is None, subject
                # Nothing of what goes on between the others can be heard.
                await send(tree, "gwb", 5, start=5)
                found = await stored(tree, 15)
                await asyncio.sleep(0.5)
                assert not [s for s in overheard if "gwb" in s and s not in FORGED], overheard
            for task in listening:
                task.cancel()
            await asyncio.gather(*listening, return_exceptions=True)
            assert found[:10] == before
            assert [p for _, p in found[10:]] == [f"gwb {n}".encode() for n in range(5, 10)]
            assert heard_above == []
            assert (await tree.buses["gwb"].state("OUT_gwb")).last_seq == 10

    asyncio.run(test())


_FORGED = (
    "j.x.gwb out.readings.gwb in.gwb.out.readings.gwb deliver.gwb down.gwb _INBOX_gwb.x.1 $JS.FC.OUT_gwb.up"
)
FORGED = frozenset(_FORGED.split())
"""What the hostile gateway hears of itself, on its own server."""


def test_what_a_hostile_gateway_puts_into_its_outbox_bears_its_own_name(tmp_path):
    async def test():
        async with secured(tmp_path) as tree:
            async with Hostile(tree) as hostile:
                stream = {"name": "OUT_gwa", "subjects": [">"], "storage": "file", "no_ack": True}
                stream["subjects"] = ["in.gwb.>", "out.>"]
                made = await hostile.ask("$JS.API.STREAM.CREATE.OUT_gwa", json.dumps(stream).encode())
                assert made is not None and "error" not in made, made
                consumer = {
                    "stream_name": "OUT_gwa",
                    "config": {
                        "name": "up",
                        "durable_name": "up",
                        "deliver_subject": "deliver.gwa",
                        "ack_policy": "flow_control",
                        "flow_control": True,
                        "idle_heartbeat": 1_000_000_000,
                        "max_ack_pending": 1000,
                    },
                }
                made = await hostile.ask("$JS.API.CONSUMER.CREATE.OUT_gwa.up", json.dumps(consumer).encode())
                assert made is not None and "error" not in made, made
                await hostile.client.publish("in.gwb.out.readings.gwb", b"FORGED")
                await hostile.client.flush()
                found = await stored(tree, 1)
            assert found == [("in.gwa.in.gwb.out.readings.gwb", b"FORGED")]

    asyncio.run(test())


def test_rows_that_a_gateway_sends_of_anothers_devices_are_known_by_who_sent_them(tmp_path):
    """Its outbox is its own, so it may put anything there; what reaches the parent says from whom it came."""

    async def test():
        async with secured(tmp_path) as tree:
            for site in ("gwb", "gwa"):  # gwa is the hostile one
                payload = encode(End("frames", "gwb-relay-00"))
                subject = subjects.outbox_subject("frames", "gwb-relay-00")
                await tree.buses[site].append(f"OUT_{site}", subject, payload)
            await stored(tree, 2)
            progress = Progress()
            senders = Senders({"gwa": ("gwa-relay",), "gwb": ("gwb-relay",)})
            arrivals = Arrivals(SPEC, progress, lambda _claim: None, senders=senders)
            journal = BusJournal(tree.buses["hub"], "IN_hub", tree.host.clock)
            taken = {}
            async for entry in journal.read(0):
                assert entry.payload is not None
                taken[entry.child] = arrivals.opened(entry.payload, entry.child)
                if len(taken) == 2:
                    break
            assert taken == {"gwa": [], "gwb": [End("frames", "gwb-relay-00")]}
            assert progress.bad_messages == 1

    asyncio.run(test())


def test_who_has_no_identity_or_a_foreign_one_is_refused(tmp_path):
    async def test():
        async with secured(tmp_path, ("gwa",)) as tree:
            other = Authority(PrivateDirectory(tmp_path / "other"), tree.host.clock)
            other.init("other tree")
            other.join("hub", PrivateDirectory(tmp_path / "foreign"))
            foreign = SiteIdentity(PrivateDirectory(tmp_path / "foreign"), "hub").access()
            own = tree.identity("hub").access()
            blank = ssl.create_default_context(cafile=tmp_path / "authority" / "authority.crt")
            leaf = claims.parse_credentials((tmp_path / "identities/gwa/leaf.creds").read_bytes())
            for access in (
                None,
                foreign,
                Access(own.claims, own.key, blank),  # no certificate
                Access(foreign.claims, foreign.key, own.tls),  # a user of another tree
                Access(own.claims, KeyPair.create(Kind.USER), own.tls),  # a stolen public part
                Access(*leaf, own.tls),  # a link's user at the clients' door
            ):
                with pytest.raises(MessagingError) as caught:
                    await nats.connect(tree.servers["hub"].url, access=access, within_ns=1_500_000_000)
                assert caught.value.code == "messaging.unavailable"
            bus = await nats.connect(tree.servers["hub"].url, access=own)
            await bus.close()

    asyncio.run(test())


def test_a_revoked_site_is_cut_off_at_once_and_stays_so_while_others_go_on(tmp_path):
    async def test():
        async with secured(tmp_path) as tree:
            await send(tree, "gwa", 3)
            await send(tree, "gwb", 3)
            await stored(tree, 6)
            tree.authority.revoke("gwb")
            steward = await nats.connect(tree.servers["hub"].url, access=tree.authority.steward())
            await steward.renew_claims(tree.authority.account_claims())
            await steward.close()

            async def gone():
                return not await tree.buses["gwb"].drawn("OUT_gwb")

            await until(gone)
            await send(tree, "gwb", 3, start=3)
            await send(tree, "gwa", 3, start=3)
            found = await stored(tree, 9)
            assert [p for _, p in found[6:]] == [b"gwa 3", b"gwa 4", b"gwa 5"]
            # A restart of the hub's server, whose configuration still has the old claims, forgets nothing.
            await tree.servers["hub"].stop()
            await tree.servers["hub"].start()
            await send(tree, "gwa", 1, start=6)
            found = await stored(tree, 10)
            await asyncio.sleep(2)
            assert [p for _, p in await stored(tree, 10)][9:] == [b"gwa 6"]

    asyncio.run(test())


def test_keys_are_for_their_owner_only(tmp_path):
    host = system_host(tmp_path / "host")
    authority = Authority(PrivateDirectory(tmp_path / "authority"), host.clock)
    authority.init("tree")
    authority.join("gwa", PrivateDirectory(tmp_path / "gwa"))
    for top in ("authority", "gwa"):
        for path in [tmp_path / top, *(tmp_path / top).rglob("*")]:
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    (tmp_path / "gwa" / "leaf.creds").chmod(0o640)
    with pytest.raises(HostError) as caught:
        SiteIdentity(PrivateDirectory(tmp_path / "gwa"), "gwa").trust()
    assert caught.value.code == "host.exposed"


def test_an_identity_that_lacks_a_part_or_is_anothers_is_named(tmp_path):
    host = system_host(tmp_path / "host")
    authority = Authority(PrivateDirectory(tmp_path / "authority"), host.clock)
    with pytest.raises(MessagingError) as caught:
        authority.join("gwa", PrivateDirectory(tmp_path / "gwa"))
    assert caught.value.code == "messaging.authority"
    with pytest.raises(MessagingError) as caught:
        authority.members()
    assert caught.value.code == "messaging.authority"
    authority.init("tree")
    with pytest.raises(MessagingError) as caught:
        authority.init("tree")
    assert caught.value.code == "messaging.authority"
    authority.join("gwa", PrivateDirectory(tmp_path / "gwa"))
    with pytest.raises(MessagingError) as caught:
        SiteIdentity(PrivateDirectory(tmp_path / "gwa"), "gwb")
    assert caught.value.code == "messaging.identity"
    (tmp_path / "gwa" / "agent.creds").write_bytes(b"SUAXXXX\nnot a seed\n")
    with pytest.raises(MessagingError) as caught:
        SiteIdentity(PrivateDirectory(tmp_path / "gwa"), "gwa").access()
    assert caught.value.code == "messaging.key"
    assert "not a seed" not in str(caught.value)
    authority.revoke("gwa")
    for site in ("nobody", "gwa"):
        with pytest.raises(MessagingError) as caught:
            authority.revoke(site)
        assert caught.value.code == "messaging.members"
    shutil.rmtree(tmp_path / "gwa")


def test_nothing_secret_is_in_logs_configurations_or_texts(tmp_path):
    async def test():
        async with secured(tmp_path, ("gwa",)) as tree:
            await send(tree, "gwa", 1)
            await stored(tree, 1)
        secrets = [p.read_text().split()[-1] for p in (tmp_path / "authority").glob("*.seed")]
        for path in (tmp_path / "authority").glob("*.creds"), (tmp_path / "identities").rglob("*.creds"):
            secrets += [claims.parse_credentials(p.read_bytes())[1].seed() for p in path]
        keys = [*(tmp_path / "authority").glob("*.key"), *(tmp_path / "identities").rglob("*.key")]
        secrets += [line for p in keys for line in p.read_text().splitlines()[1:-1]]
        assert len(secrets) > 10
        written = [p for p in (tmp_path / "sites").rglob("*") if p.is_file()]
        assert written
        for path in written:
            content = path.read_bytes()
            assert not [s for s in secrets if s.encode() in content], path
        for pair in (KeyPair.from_seed(secrets[0]), tree.identity("gwa").access()):
            assert not [s for s in secrets if s in repr(pair)]

    asyncio.run(test())


@pytest.mark.parametrize("kind", list(Kind))
def test_a_key_pair_is_the_same_after_a_round_trip_and_signs(kind):
    pair = KeyPair.create(kind)
    again = KeyPair.from_seed(pair.seed())
    assert again.public == pair.public
    assert again.kind == kind
    assert again.sign(b"x") == pair.sign(b"x")
    assert pair.seed()[0] == "S"
    assert pair.seed()[1] == pair.public[0]


def test_a_known_seed_has_its_known_public_key():
    # Of the documentation of NATS: a seed and its public key, so that both ends of the form are held.
    pair = KeyPair.from_seed("SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY")
    assert pair.public == "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4"
