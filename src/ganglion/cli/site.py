"""``ganglion site``: who belongs to a tree of sites, and who no longer does."""

from __future__ import annotations

import asyncio
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from ganglion.cli.cluster import cluster, occupied
from ganglion.core.errors import RunError
from ganglion.host.private import PrivateDirectory
from ganglion.host.system import SystemClock
from ganglion.messaging.mqtt import Listener
from ganglion.messaging.nats import connect
from ganglion.messaging.provision import refill as send_again
from ganglion.messaging.security.authority import Authority
from ganglion.messaging.security.identity import SiteIdentity, named_in

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,250}[A-Za-z0-9])?|[0-9A-Fa-f:.]{2,45}")

site = typer.Typer(no_args_is_help=True, help="Make and withdraw the identities of sites.")

site.command()(cluster)

AuthorityDir = Annotated[
    Path, typer.Argument(metavar="AUTHORITY", help="The private directory of the tree's keys.")
]
SiteName = Annotated[str, typer.Argument(metavar="SITE", help="The site's id in the topology.")]


@site.command()
def init(
    authority: AuthorityDir,
    name: Annotated[str, typer.Option("--name", help="What the tree is called in its certificates.")] = (
        "ganglion"
    ),
) -> None:
    """Make the keys of a new tree of sites. Keep the directory where no site can reach it."""
    _authority(authority).init(name)
    sys.stdout.write(
        f"{authority} holds the keys of {name!r}, for you alone.\n"
        f"next: ganglion site join {authority} SITE --out DIR\n"
    )


@site.command()
def join(
    authority: AuthorityDir,
    name: SiteName,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the site's identity goes.")],
    host: Annotated[
        list[str] | None,
        typer.Option("--host", help="A name or address at which children reach the site. Repeatable."),
    ] = None,
    mqtt_send: Annotated[
        list[str] | None,
        typer.Option(
            "--mqtt-send", metavar="TOPIC", help="What its MQTT devices may publish to. Repeatable."
        ),
    ] = None,
    mqtt_hear: Annotated[
        list[str] | None,
        typer.Option("--mqtt-hear", metavar="TOPIC", help="What they may subscribe to. Repeatable."),
    ] = None,
) -> None:
    """Make an identity for a site. One that joined before gets new keys, and its old ones are withdrawn."""
    if occupied(out) and not (out / "site.json").exists():
        raise RunError(
            "cli.site-out",
            f"{out} holds something else",
            why="an identity has a directory of its own",
            next_step="name a new directory with --out",
        )
    for what in (*(host or ()), *(mqtt_send or ()), *(mqtt_hear or ())):
        if not what or (what in (host or ()) and not _HOST.fullmatch(what)):
            raise RunError(
                "cli.site-names",
                f"{what!r} cannot stand in an identity",
                why="a host is a name or an address, without a port; a topic is not empty",
                next_step="write e.g. --host edge1.example.net, --mqtt-send 'plant/+/temp'",
            )
    tree = _authority(authority)
    again = tree.member(name) is not None
    devices = Listener(0, tuple(mqtt_send or ()), tuple(mqtt_hear or ())) if mqtt_send or mqtt_hear else None
    tree.join(name, PrivateDirectory(out), hosts=host or (), mqtt=devices)
    sys.stdout.write(f"{out} is the identity of {name}: bring it to its machine, and remove it here.\n")
    if devices is not None:
        sys.stdout.write(
            f"{out}/mqtt-devices.jwt is the password of its MQTT devices, whatever their user.\n"
        )
    if again:
        sys.stdout.write(
            f"its earlier keys are withdrawn once running servers know: ganglion site publish {authority} URL\n"
        )


@site.command()
def revoke(
    authority: AuthorityDir,
    name: SiteName,
    server: Annotated[
        list[str] | None,
        typer.Option("--server", metavar="URL", help="Tell this running server now. Repeatable."),
    ] = None,
) -> None:
    """Withdraw a site's keys. Its parent's server must learn of it: name it with --server."""
    tree = _authority(authority)
    tree.revoke(name)
    sys.stdout.write(f"{name} is revoked.\n")
    if server:
        _publish(tree, server)
    else:
        sys.stdout.write(f"next: tell running servers: ganglion site publish {authority} nats://HOST:PORT\n")


@site.command()
def publish(
    authority: AuthorityDir,
    server: Annotated[list[str], typer.Argument(metavar="URL", help="A site's server, nats://HOST:PORT.")],
) -> None:
    """Give running servers the claims as they are now; whoever was revoked is cut off at once."""
    _publish(_authority(authority), server)


@site.command()
def refill(
    identity: Annotated[Path, typer.Argument(metavar="IDENTITY", help="The restored site's own identity.")],
    server: Annotated[str, typer.Argument(metavar="URL", help="The restored site's server.")],
    children: Annotated[list[str], typer.Argument(metavar="CHILD", help="Who is to send again.")],
) -> None:
    """Let children send again what they still hold, after a site was restored from an older backup."""
    own = PrivateDirectory(identity)
    named = named_in(own) or "?"

    async def ask() -> None:
        bus = await connect(server, name="ganglion-site", access=SiteIdentity(own, named).access())
        try:
            for child in children:
                await send_again(bus, child)
                sys.stdout.write(f"{child} sends again what it holds.\n")
        finally:
            await bus.close()

    asyncio.run(ask())


@site.command("list")
def members(authority: AuthorityDir) -> None:
    """Print who joined, and who was revoked."""
    for member in _authority(authority).members():
        state = f"revoked {_day(member.revoked_s)}" if member.revoked_s else f"joined {_day(member.joined_s)}"
        sys.stdout.write(f"{member.site:32} {state}\n")


def _authority(directory: Path) -> Authority:
    return Authority(PrivateDirectory(directory), SystemClock())


def _publish(tree: Authority, servers: list[str]) -> None:
    async def tell(url: str) -> None:
        bus = await connect(url, name="ganglion-site", access=tree.steward())
        try:
            await bus.renew_claims(tree.account_claims())
        finally:
            await bus.close()

    for url in servers:
        asyncio.run(tell(url))
        sys.stdout.write(f"{url} knows.\n")


def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
