"""When a certificate has to be renewed, and renewing it where DNSimple does not."""
