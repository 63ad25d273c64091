"""What one site holds: its certificate, its two users, and the claims it trusts."""

from __future__ import annotations

import base64
import json
import logging
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ganglion.core.errors import MessagingError
from ganglion.host.private import PrivateDirectory
from ganglion.messaging.security.claims import parse_credentials, payload
from ganglion.messaging.security.nkeys import KeyPair


@dataclass(frozen=True, slots=True)
class Access:
    """How a client proves itself to a server: TLS with a certificate of its own, and a signed user."""

    claims: str
    key: KeyPair
    tls: ssl.SSLContext

    def options(self) -> dict[str, Any]:
        """For the client library, whose own reader of credentials wants another package for one signature."""
        return {
            "tls": self.tls,
            "user_jwt_cb": lambda: bytearray(self.claims.encode()),
            "signature_cb": lambda nonce: base64.b64encode(self.key.sign(nonce.encode())),
        }


class _EndOfStream(logging.Filter):
    """The client library answers the end of a TLS stream with a word that asyncio warns of at every close."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "eof_received()" not in record.getMessage()


logging.getLogger("asyncio").addFilter(_EndOfStream())


@dataclass(frozen=True, slots=True)
class Trust:
    """What a server is told: paths of its certificate, and the public claims of the tree."""

    certificate: Path
    certificate_key: Path
    authority: Path
    leaf_credentials: Path
    operator: str
    account: str
    account_claims: str
    system: str
    system_claims: str


def tls_of(files: PrivateDirectory, name: str) -> ssl.SSLContext:
    """A client's side: it shows the certificate ``name`` and takes none but those of the tree's authority."""
    context = ssl.create_default_context(cafile=files.path("authority.crt"))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(files.path(f"{name}.crt"), files.path(f"{name}.key"))
    return context


def named_in(directory: PrivateDirectory) -> str:
    """Whose identity a directory holds; "" for nobody's."""
    try:
        value = json.loads(directory.read("site.json") or b"{}")
    except ValueError:
        return ""
    return str(value.get("site", "")) if isinstance(value, dict) else ""


class SiteIdentity:
    """The files that `Authority.join` made for ``site``, wherever they were brought since.

    Raises ``messaging.identity`` when a part is missing or it is another site's, `HostError` ``host.exposed`` when
    others may read it.
    """

    def __init__(self, directory: PrivateDirectory, site: str) -> None:
        self._files = directory
        self.site = site
        self._need("site.json")
        named = named_in(directory)
        if named != site:
            raise self._wrong(f"it is that of {named or 'nobody'}")

    def access(self) -> Access:
        """For the site's own agent at its own server."""
        claims, key = parse_credentials(self._need("agent.creds"))
        for name in ("authority.crt", "site.crt", "site.key"):
            self._need(name)
        return Access(claims, key, tls_of(self._files, "site"))

    def mqtt(self) -> bytes:
        """The password of the site's own MQTT client: signed claims. The user's name means nothing."""
        return self._need("mqtt.jwt")

    def trust(self) -> Trust:
        """For the site's server; every private file is checked for its mode first."""
        for name in ("site.key", "site.crt", "authority.crt"):
            self._need(name)
        if (
            self._files.read("routes.crt") is None
        ):  # one of several servers has no use for it at the top of the tree
            self._need("leaf.creds")
        account, system = (self._need(n).decode() for n in ("account.jwt", "system.jwt"))
        return Trust(
            certificate=self._files.path("site.crt").absolute(),
            certificate_key=self._files.path("site.key").absolute(),
            authority=self._files.path("authority.crt").absolute(),
            leaf_credentials=self._files.path("leaf.creds").absolute(),
            operator=self._need("operator.jwt").decode(),
            account=str(payload(account)["sub"]),
            account_claims=account,
            system=str(payload(system)["sub"]),
            system_claims=system,
        )

    def _need(self, name: str) -> bytes:
        content = self._files.read(name)
        if content is None:
            raise self._wrong(f"{name} is missing")
        return content

    def _wrong(self, why: str) -> MessagingError:
        return MessagingError(
            "messaging.identity",
            f"{self._files.root} is not the identity of {self.site}",
            why=why,
            next_step=f"make one with the tree's authority: ganglion site join AUTHORITY {self.site} --out DIR",
        )
