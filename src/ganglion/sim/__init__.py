"""Worlds to try a flow in, with faults and checkers. Here: the local world of real processes on one machine.

The seeded virtual world comes later and shares the checkers.
"""
