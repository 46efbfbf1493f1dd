"""Bugs planted in a copy of the code, each of which the quick tests must find: `python -m tests.mutants`."""
