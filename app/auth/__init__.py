"""API tokens, their scopes, dashboard sessions and rate limits."""
