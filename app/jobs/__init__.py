"""Durable jobs in the application's own database: an acknowledged event and its job are one commit."""
