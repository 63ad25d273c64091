"""Scenarios that need no file of the user's, and the flows they play."""
