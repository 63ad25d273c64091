"""The seam to the outside: clock, chance, disk and processes as ports.

Code above takes these by argument; ``host.system`` is the real machine, ``sim`` will bring its twin.
"""
