"""Notifications to the addresses in `NOTIFY_URLS`."""
