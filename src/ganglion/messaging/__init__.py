"""A site's own message server, the streams on it, and their way up the tree of sites.

Each site owns a journal, an outbox and an inbox on its embedded nats-server; the parent's inbox draws from the
child's outbox, exactly once and in order, whenever the link between them is up. `bus.Bus` is the port; `nats` binds it
to a server, `memory` is its twin without one. Nothing here knows what a stage is.
"""
