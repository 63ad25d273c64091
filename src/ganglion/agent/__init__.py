"""The agent: one `Node` wires a site's server, engine, connectors and reports, by profile.

Island mode is not a mode: a node never waits for its uplink, it only owes its parent more for a while.
"""
