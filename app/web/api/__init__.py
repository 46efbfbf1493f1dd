"""The HTTP API: blueprints that validate requests and call use cases."""
