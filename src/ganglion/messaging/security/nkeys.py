"""NKeys: Ed25519 keys (RFC 8032) in the text form of NATS: base32 of a kind, the key, and a CRC-16.

The form is that of the ``nkeys`` specification of NATS: a public key is ``kind | key | crc``, a seed is
``seed and kind in two bytes | seed | crc``; the CRC is CRC-16/XMODEM, little endian.
"""

from __future__ import annotations

import base64
import binascii
from enum import IntEnum
from typing import TYPE_CHECKING

from ganglion.core.errors import MessagingError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

KEY_BYTES = 32
_SEED = 18 << 3


class Kind(IntEnum):
    """What a key speaks for; the value is the prefix that makes its text begin with O, A, U or N."""

    OPERATOR = 14 << 3
    ACCOUNT = 0
    USER = 20 << 3
    SERVER = 13 << 3


class KeyPair:
    """A private key and its public name. Its text forms never show the private part unless `seed` is asked for."""

    def __init__(self, kind: Kind, key: Ed25519PrivateKey) -> None:
        self.kind = kind
        self._key = key
        self.public = _text(bytes([kind]) + key.public_key().public_bytes_raw())

    @classmethod
    def create(cls, kind: Kind) -> KeyPair:
        """A new pair from the operating system's entropy."""
        # Here and below: a node without an identity does not hold eight megabytes of cryptography in memory.
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return cls(kind, Ed25519PrivateKey.generate())

    @classmethod
    def from_seed(cls, seed: str) -> KeyPair:
        """The pair of a seed; raises ``messaging.key`` (without showing it) when it is none."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        try:
            raw = base64.b32decode(seed.strip() + "=" * (-len(seed.strip()) % 8))
        except (binascii.Error, ValueError) as error:
            raise _not_a_key("it is not base32") from error
        content, crc = raw[:-2], raw[-2:]
        if len(content) != KEY_BYTES + 2 or crc != _crc(content):
            raise _not_a_key("its length or its checksum is wrong")
        kind = (content[0] & 0b111) << 5 | content[1] >> 3
        if content[0] & 0b11111000 != _SEED or kind not in set(Kind):
            raise _not_a_key("it is not the seed of an operator, account, user or server")
        return cls(Kind(kind), Ed25519PrivateKey.from_private_bytes(content[2:]))

    def seed(self) -> str:
        """The secret. It belongs into a private file and nowhere else."""
        head = bytes([_SEED | self.kind >> 5, (self.kind & 0b11111) << 3])
        return _text(head + self._key.private_bytes_raw())

    def sign(self, content: bytes) -> bytes:
        """The 64 bytes of the signature."""
        return self._key.sign(content)

    def __repr__(self) -> str:
        return f"KeyPair({self.public})"


def _text(content: bytes) -> str:
    return base64.b32encode(content + _crc(content)).decode().rstrip("=")


def _crc(content: bytes) -> bytes:
    return binascii.crc_hqx(content, 0).to_bytes(2, "little")


def _not_a_key(why: str) -> MessagingError:
    return MessagingError(
        "messaging.key",
        "a key cannot be used",
        why=why,
        next_step="make a new identity for the site: ganglion site join",
    )
