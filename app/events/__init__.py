"""DNSimple's webhook events: recorded once and handled by jobs; and the registration of the webhook itself."""
