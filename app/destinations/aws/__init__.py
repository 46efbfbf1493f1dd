"""Destination kinds `aws-acm` and `aws-secrets`."""
