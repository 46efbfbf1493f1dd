"""Servers that stand where an operator has Vault, Kubernetes and AWS, and what goes wrong on the way to them."""
