"""The adapter to DNSimple: the only code that knows its client library."""
