"""Destination kind `ssh`: files on another host."""
