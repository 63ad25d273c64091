"""Tracing: a kernel's function runs once on stand-ins, and what it computes becomes a program."""
