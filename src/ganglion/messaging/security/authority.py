"""The authority of a tree of sites: it names them, lets them in, and withdraws them.

All of it is a private directory that stays with whoever runs the tree; no site needs it to work. One account holds
the streams of all sites, so what keeps one from another is the permissions of its link (`claims.uplink_permissions`)
and the stamp its parent puts on what it sends.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ganglion.core.errors import MessagingError
from ganglion.core.units import NS_PER_S
from ganglion.host.ports import Clock
from ganglion.host.private import PrivateDirectory
from ganglion.messaging.mqtt import Listener, device_subjects, gateway_subjects
from ganglion.messaging.security import certificates, claims
from ganglion.messaging.security.identity import Access, tls_of
from ganglion.messaging.security.nkeys import KeyPair, Kind
from ganglion.messaging.subjects import check_site

SITES_MAX = 10_000
LOCAL_HOSTS = ("127.0.0.1", "localhost")
PUBLIC_FILES = ("operator.jwt", "account.jwt", "system.jwt", "authority.crt")
"""What every site gets; nothing in them is secret."""


@dataclass(frozen=True, slots=True)
class Member:
    """What the authority remembers of a site: the public keys it gave out, and when they were withdrawn."""

    site: str
    users: tuple[str, ...]
    joined_s: int
    revoked_s: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "site": self.site,
            "users": list(self.users),
            "joined_s": self.joined_s,
            "revoked_s": self.revoked_s,
        }


class Authority:
    """Everything may raise `HostError` of the directory, and ``messaging.authority`` when there is none in it."""

    def __init__(self, directory: PrivateDirectory, clock: Clock) -> None:
        self._files = directory
        self._clock = clock

    def init(self, name: str) -> None:
        """Makes the keys of a new tree; raises ``messaging.authority`` when the directory has some already."""
        if self._files.read("operator.seed") is not None:
            raise MessagingError(
                "messaging.authority",
                f"{self._files.root} holds an authority already",
                why="new keys would lock out every site that trusts the old ones",
                next_step="name another directory, or let sites join this one: ganglion site join",
            )
        operator, account, system = (KeyPair.create(k) for k in (Kind.OPERATOR, Kind.ACCOUNT, Kind.ACCOUNT))
        steward = KeyPair.create(Kind.USER)
        at_s = self._now_s()
        key, certificate = certificates.make_authority(name, at_s)
        self._files.write("authority.key", key)
        self._files.write("authority.crt", certificate)
        self._files.write("account.seed", account.seed().encode())
        self._files.write("system.seed", system.seed().encode())
        self._files.write(
            "operator.jwt", claims.operator_claims(operator, name, system.public, at_s).encode()
        )
        made = claims.account_claims(operator, system.public, "system", at_s, streams=False, revoked={})
        self._files.write("system.jwt", made.encode())
        steward_claims = claims.user_claims(
            system, steward.public, "steward", at_s, claims.Permissions(), (claims.CLIENT,)
        )
        self._files.write("steward.creds", claims.credentials(steward_claims, steward))
        made_key, made_certificate = certificates.make_site_certificate(
            key, certificate, "steward", LOCAL_HOSTS, at_s
        )
        self._files.write("steward.key", made_key)
        self._files.write("steward.crt", made_certificate)
        # Last: a directory without it counts as empty, so an interrupted init can be done again.
        self._files.write("operator.seed", operator.seed().encode())
        self._sign_account()

    def join(
        self,
        site: str,
        directory: PrivateDirectory,
        *,
        hosts: Sequence[str] = (),
        mqtt: Listener | None = None,
    ) -> None:
        """Makes an identity for a site in a directory that then goes to it, and nowhere else.

        ``mqtt``: topics of its MQTT devices; then ``mqtt-devices.jwt`` is their password.
        ``hosts``: further names and addresses at which children reach it. A site that joins again gets new keys and
        its old ones are withdrawn. Raises ``messaging.site``, ``messaging.members`` for too many sites.
        """
        check_site(site)
        account = self._key("account.seed")
        if self.member(site) is None and len(self.members()) >= SITES_MAX:
            raise MessagingError(
                "messaging.members",
                f"{site} cannot join",
                why=f"the tree has {SITES_MAX} sites already",
                next_step="make a second tree: ganglion site init",
            )
        self._withdraw(site)
        at_s = self._now_s()
        leaf, agent = KeyPair.create(Kind.USER), KeyPair.create(Kind.USER)
        link = claims.uplink_permissions(site)
        made = claims.user_claims(account, leaf.public, f"{site} uplink", at_s, link, (claims.LEAF,))
        directory.write("leaf.creds", claims.credentials(made, leaf))
        made = claims.user_claims(
            account, agent.public, f"{site} agent", at_s, claims.agent_permissions(), (claims.CLIENT,)
        )
        directory.write("agent.creds", claims.credentials(made, agent))
        key, certificate = certificates.make_site_certificate(
            self._need("authority.key"),
            self._need("authority.crt"),
            site,
            [*LOCAL_HOSTS, *(h for h in hosts if h not in LOCAL_HOSTS)],
            at_s,
        )
        directory.write("site.key", key)
        directory.write("site.crt", certificate)
        tokens = self._mqtt_users(account, site, mqtt, directory, at_s) if mqtt is not None else ()
        self._save(Member(site, (leaf.public, agent.public, *tokens), at_s))
        self._sign_account()
        self.hand_out(directory)
        directory.write("site.json", json.dumps({"site": site}).encode())

    def _mqtt_users(
        self, account: KeyPair, site: str, mqtt: Listener, directory: PrivateDirectory, at_s: int
    ) -> tuple[str, ...]:
        """The gateway's own MQTT user and the one its devices share; returns their public keys."""
        made = []
        for name, (send, hear) in (("mqtt", gateway_subjects(mqtt)), ("mqtt-devices", device_subjects(mqtt))):
            user = KeyPair.create(Kind.USER).public
            allowed = claims.Permissions(send_allow=send, hear_allow=hear)
            token = claims.user_claims(
                account, user, f"{site} {name}", at_s, allowed, (claims.MQTT,), bearer=True
            )
            directory.write(f"{name}.jwt", token.encode())
            made.append(user)
        return tuple(made)

    def equip(
        self, site: str, directory: PrivateDirectory, *, hosts: Sequence[str], leaf: bytes | None = None
    ) -> None:
        """Makes the files of one of several servers that store a site's streams together; the site joins beside it.

        ``hosts``: where this one is reached. ``leaf``: the site's user for the link to its parent, if it has one. The
        servers of a site prove themselves to each other by certificates of an authority that is theirs alone: on a
        route a server speaks for all, so the certificate of a site, which any gateway has, must not open one.
        """
        at_s = self._now_s()
        names = [*LOCAL_HOSTS, *(h for h in hosts if h not in LOCAL_HOSTS)]
        routes = f"clusters/{check_site(site)}"
        if self._files.read(f"{routes}.crt") is None:
            key, certificate = certificates.make_authority(f"servers of {site}", at_s)
            self._files.write(f"{routes}.key", key)
            self._files.write(f"{routes}.crt", certificate)
        for name, above in (("site", "authority"), ("routes", routes)):
            signer = self._need(f"{above}.key"), self._need(f"{above}.crt")
            made_key, made = certificates.make_site_certificate(*signer, site, names, at_s)
            directory.write(f"{name}.key", made_key)
            directory.write(f"{name}.crt", made)
        directory.write("routes-authority.crt", self._need(f"{routes}.crt"))
        if leaf is not None:
            directory.write("leaf.creds", leaf)
        self.hand_out(directory)
        for name in ("account.jwt", "system.jwt"):
            signed = self._need(name).decode()
            directory.write(f"jwt/{claims.payload(signed)['sub']}.jwt", signed.encode())
        directory.write("site.json", json.dumps({"site": site}).encode())

    def hand_out(self, directory: PrivateDirectory) -> None:
        """Gives a site the tree's public claims as they are now, revocations among them."""
        for name in PUBLIC_FILES:
            directory.write(name, self._need(name))

    def revoke(self, site: str) -> None:
        """Withdraws a site's keys; servers obey once they have the new account claims (`account_claims`).

        Raises ``messaging.members`` when there is no such site, or it was revoked before.
        """
        member = self.member(site)
        if member is None or member.revoked_s:
            raise MessagingError(
                "messaging.members",
                f"{site} cannot be revoked",
                why="it never joined" if member is None else "it was revoked already",
                next_step=f"the sites are {', '.join(m.site for m in self.members() if not m.revoked_s) or 'none'}",
            )
        self._withdraw(site)
        self._save(Member(member.site, member.users, member.joined_s, self._now_s()))
        self._sign_account()

    def account_claims(self) -> str:
        """The account's claims, signed, with every revocation so far: what a running server is to be sent."""
        return self._need("account.jwt").decode()

    def steward(self) -> Access:
        """The user that may give running servers newer claims (`NatsBus.renew_claims`), and nothing else of theirs."""
        user, key = claims.parse_credentials(self._need("steward.creds"))
        for name in ("authority.crt", "steward.crt", "steward.key"):
            self._need(name)
        return Access(user, key, tls_of(self._files, "steward"))

    def members(self) -> list[Member]:
        """All sites that ever joined, by name."""
        self._need("operator.seed")  # an empty list would say that there is an authority without sites
        found = [self.member(n.removesuffix(".json")) for n in self._files.names("sites")]
        return [m for m in found if m is not None]

    def member(self, site: str) -> Member | None:
        """One site; None when it never joined."""
        content = self._files.read(f"sites/{check_site(site)}.json")
        if content is None:
            return None
        value = json.loads(content)
        return Member(value["site"], tuple(value["users"]), int(value["joined_s"]), int(value["revoked_s"]))

    def _withdraw(self, site: str) -> None:
        member = self.member(site)
        if member is None:
            return
        revoked = self._revoked()
        # A key is void if it was signed before this second or in it; its successor is another key.
        revoked.update(dict.fromkeys(member.users, self._now_s()))
        self._files.write("revoked.json", json.dumps(revoked).encode())

    def _revoked(self) -> dict[str, int]:
        return {str(k): int(v) for k, v in json.loads(self._files.read("revoked.json") or b"{}").items()}

    def _save(self, member: Member) -> None:
        self._files.write(f"sites/{member.site}.json", json.dumps(member.to_json()).encode())

    def _sign_account(self) -> None:
        operator, account = self._key("operator.seed"), self._key("account.seed")
        made = claims.account_claims(
            operator, account.public, "sites", self._now_s(), streams=True, revoked=self._revoked()
        )
        self._files.write("account.jwt", made.encode())

    def _key(self, name: str) -> KeyPair:
        return KeyPair.from_seed(self._need(name).decode("ascii", "replace"))

    def _need(self, name: str) -> bytes:
        content = self._files.read(name)
        if content is None:
            raise MessagingError(
                "messaging.authority",
                f"{self._files.root} holds no authority",
                why=f"{name} is missing",
                next_step=f"make one: ganglion site init {self._files.root}",
            )
        return content

    def _now_s(self) -> int:
        return self._clock.wall_ns() // NS_PER_S
