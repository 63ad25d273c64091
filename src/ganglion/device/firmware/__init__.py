"""A flow's device part as C: the portable runtime, what is generated from a flow, and images for boards.

`generate` writes one C file, `build` links it for a Cortex-M, `FirmwareDevice` runs it in this process in the place
of an `EmulatedDevice` (docs/adr/0012).
"""
