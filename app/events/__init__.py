"""Webhook events of DNSimple: recorded once, handled by jobs; and the registration of the webhook itself."""
