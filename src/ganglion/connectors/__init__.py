"""Bytes of the site's field protocols on one side, batches on the other: CoAP over UDP and SenML/CBOR.

Each protocol is a sub-package of its own: a codec that does no input or output, and an asyncio endpoint.
Nothing here knows the engine; a caller hands the decoded `Batch` on.
"""
