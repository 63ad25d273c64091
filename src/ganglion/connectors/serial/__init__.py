"""Devices without IP: the same CoAP datagrams over a line of bytes, framed by SLIP with a check (docs/adr/0015)."""
