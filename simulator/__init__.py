"""A simulation of DNSimple's certificate API and webhooks, with a certification authority for tests.

Based on DNSimple's documentation and fixtures; behaviour that they leave open is a setting. It imports nothing from
Certcourier, so any program can be tested against it: `python -m simulator --help`.
"""
