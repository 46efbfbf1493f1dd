"""Local servers in place of Vault, Kubernetes and AWS, and a proxy that injects faults."""
