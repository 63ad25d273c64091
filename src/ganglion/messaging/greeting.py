"""Asking a port whether a NATS server is there: it speaks first, and greeting needs no keys."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import urlsplit


async def greets(port: int, name: str) -> bool:
    """True when a NATS server of this name answers; it does so only once its store is recovered."""
    return (await _greeting("127.0.0.1", port)).get("server_name") == name


async def answers(urls: str) -> bool:
    """True when a NATS server greets at a leaf or client address, like ``tls://host:port``, or at one of several.

    Greeting needs no keys. Addresses have commas between them.
    """
    parts = [urlsplit(url) for url in urls.split(",")]
    return any(await asyncio.gather(*(_greeting(p.hostname or "", p.port or 0) for p in parts)))


async def _greeting(host: str, port: int) -> dict[str, Any]:
    writer = None
    try:
        async with asyncio.timeout(1):
            reader, writer = await asyncio.open_connection(host, port)
            verb, _, content = (await reader.readline()).partition(b" ")
            greeting: dict[str, Any] = json.loads(content) if verb == b"INFO" else {}
            return greeting
    except (OSError, TimeoutError, ValueError):
        return {}
    finally:
        if writer is not None:
            writer.close()
