"""Encryption of private keys and secrets at rest, and the files that hold key-encryption keys."""
