"""A look-alike of the part of DNSimple that has to do with certificates: API v2, webhooks, a test authority.

Made from DNSimple's documentation and fixtures; what they leave open is a setting. It imports nothing from Certcourier,
so that anybody can test against it: `python -m simulator --help`.
"""
