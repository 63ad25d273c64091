"""The kernel IR: programs, what must hold of them, passes, and the reference interpreter."""
