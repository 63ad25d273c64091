"""Signed claims of NATS (JWT, version 2): operator, accounts, and users with what each may send and hear.

Built as in the ``jwt`` specification of NATS: algorithm ``ed25519-nkey``, ``jti`` the base32 of the SHA-512/256 of
the claims without it. The order of keys is fixed, so the same claims at the same second are the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ganglion.messaging.security.nkeys import KeyPair
from ganglion.messaging.subjects import answers, check_site, deliver, outbox

UNLIMITED = -1
LEAF = "LEAFNODE"
CLIENT = "STANDARD"
MQTT = "MQTT"


@dataclass(frozen=True, slots=True)
class Permissions:
    """Subjects a user may send to and hear; an empty ``allow`` means all that is not denied."""

    send_allow: tuple[str, ...] = ()
    send_deny: tuple[str, ...] = ()
    hear_allow: tuple[str, ...] = ()
    hear_deny: tuple[str, ...] = ()


def uplink_permissions(site: str) -> Permissions:
    """What a child may do on the link to its parent: be drawn from, and nothing else.

    It sends its outbox's messages, and answers to questions that were asked of it; it hears questions to its own
    streams and the acknowledgements of its own outbox. Nothing of a sibling's, of the parent's own, or of the system
    is there.
    """
    check_site(site)
    return Permissions(
        send_allow=(deliver(site), f"{deliver(site)}.>", f"{answers(site)}.>", "$JSC.R.>"),
        hear_allow=(f"$JS.{site}.API.>", f"$JS.FC.{outbox(site)}.>", f"$JS.FC.{site}.>"),
    )


def agent_permissions() -> Permissions:
    """What a site's own agent may do on its own server: all but speak for a child or for the system."""
    return Permissions(send_deny=("in.>", "deliver.>", "$SYS.>"), hear_deny=("$SYS.>",))


def operator_claims(operator: KeyPair, name: str, system_account: str, at_s: int) -> str:
    """The self-signed claims every server of the tree trusts."""
    return _signed(operator, operator.public, name, at_s, {"system_account": system_account}, "operator")


def account_claims(
    operator: KeyPair, account: str, name: str, at_s: int, *, streams: bool, revoked: Mapping[str, int]
) -> str:
    """An account; ``streams``: it may have some; ``revoked``: public user key -> second up to which it is void."""
    storage = UNLIMITED if streams else 0
    limits = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), UNLIMITED)
    nats: dict[str, Any] = {
        "limits": {
            **limits,
            "wildcards": True,
            "mem_storage": storage,
            "disk_storage": storage,
            "streams": storage,
            "consumer": storage,
        },
        "default_permissions": {"pub": {}, "sub": {}},
    }
    if revoked:
        nats["revocations"] = dict(sorted(revoked.items()))
    return _signed(operator, account, name, at_s, nats, "account")


def user_claims(
    account: KeyPair,
    user: str,
    name: str,
    at_s: int,
    permissions: Permissions,
    connections: Sequence[str],
    *,
    bearer: bool = False,
) -> str:
    """A user of an account, for the given kinds of connection only; ``bearer``: whoever has the claims is the user."""
    nats: dict[str, Any] = {
        "pub": _lists(permissions.send_allow, permissions.send_deny),
        "sub": _lists(permissions.hear_allow, permissions.hear_deny),
        "subs": UNLIMITED,
        "data": UNLIMITED,
        "payload": UNLIMITED,
        "allowed_connection_types": list(connections),
    }
    if bearer:
        nats["bearer_token"] = True
    return _signed(account, user, name, at_s, nats, "user")


def credentials(claims: str, user: KeyPair) -> bytes:
    """The content of a credentials file, as nats-server and clients read it. It holds the user's secret."""
    return (
        f"-----BEGIN NATS USER JWT-----\n{claims}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed()}\n------END USER NKEY SEED------\n"
    ).encode()


def parse_credentials(content: bytes) -> tuple[str, KeyPair]:
    """(claims, key pair) of a credentials file; raises ``messaging.key``."""
    lines = [line for line in content.decode("ascii", "replace").splitlines() if line.strip()]
    inner = [line.strip() for line in lines if not line.startswith("-")]
    if len(inner) != 2:
        return "", KeyPair.from_seed("")
    return inner[0], KeyPair.from_seed(inner[1])


def payload(claims: str) -> dict[str, Any]:
    """What signed claims say, unchecked: for our own files and for people."""
    part = claims.split(".")[1]
    content: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return content


def issued_s(claims: str) -> int:
    """When claims were issued, in seconds of the authority's clock; -1 for what are no claims."""
    try:
        return int(payload(claims)["iat"])
    except (ValueError, KeyError, TypeError, IndexError):
        return -1


def _lists(allow: Sequence[str], deny: Sequence[str]) -> dict[str, list[str]]:
    return {k: list(v) for k, v in (("allow", allow), ("deny", deny)) if v}


def _signed(signer: KeyPair, subject: str, name: str, at_s: int, nats: Mapping[str, Any], kind: str) -> str:
    content = {
        "iat": at_s,
        "iss": signer.public,
        "name": name,
        "sub": subject,
        "nats": {**nats, "type": kind, "version": 2},
    }
    digest = hashlib.new("sha512_256", _json(content)).digest()
    content["jti"] = base64.b32encode(digest).decode().rstrip("=")
    text = b".".join((_url64(_json({"typ": "JWT", "alg": "ed25519-nkey"})), _url64(_json(content))))
    return (text + b"." + _url64(signer.sign(text))).decode()


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def _url64(content: bytes) -> bytes:
    return base64.urlsafe_b64encode(content).rstrip(b"=")
