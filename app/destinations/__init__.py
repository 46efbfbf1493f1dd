"""Destinations: a module or package for each kind; each keeps one slot per lineage."""
