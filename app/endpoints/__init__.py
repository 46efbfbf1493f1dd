"""Endpoints: where a TLS server is asked which certificate it serves."""
