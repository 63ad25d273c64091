"""Runs a node's stages: batches, event time, keyed state, windows, checkpoints, and the reflex path.

`Graph` is pure and synchronous; `Durable` feeds it from a journal, exactly once. Nothing here knows how bytes travel
or what the host is; both come by argument.
"""
