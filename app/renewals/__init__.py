"""Renewals: ordered here where DNSimple does not renew, forecast, and moved forward by the authority (ARI)."""
