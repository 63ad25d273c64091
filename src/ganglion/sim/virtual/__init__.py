"""The deterministic world: agents on a virtual clock, with a disk, a network and message servers that break on purpose.

Everything that happens follows from a scenario and a seed. What runs in it is the code that runs outside: nodes, their
engines, ingest, outbox and janitor, the supervision of message servers, the CoAP endpoints, the devices' uplinks.
"""
