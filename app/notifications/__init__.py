"""Sending messages to the addresses in `NOTIFY_URLS`."""
