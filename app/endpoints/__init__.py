"""Endpoints: TLS servers that are probed for the certificate they serve."""
