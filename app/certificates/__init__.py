"""Certificates: fetched and verified, grouped into lineages, reconciled with DNSimple, imported and listed."""
