"""The application's own database, and the seal on what must not be read from it."""
