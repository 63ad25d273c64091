"""Faults on real servers and real agents, and a table of what became of every reading: ``make chaos``."""
