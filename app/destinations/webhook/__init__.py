"""Destination kind `webhook`: signed HTTP requests."""
