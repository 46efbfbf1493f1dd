"""Attacks on the guarantees: processes killed at every instant, answers lost, webhooks dropped and forged."""
