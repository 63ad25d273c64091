"""Plain values every other package speaks in: errors, units, schemas, batches, labels, topology.

Nothing here does input or output, reads a clock or knows asyncio.
"""
