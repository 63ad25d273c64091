"""The language: a flow is written once and is plain frozen data; it knows nothing of nodes.

`Flow` and `Stream` build it, `FlowSpec` is what they build, `Assignment` is a node's part of a plan.
"""
