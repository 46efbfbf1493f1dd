"""`flask certificates`."""

from __future__ import annotations

from flask.cli import AppGroup

group = AppGroup("certificates", help="Certificates that are ordered, installed and delivered.")
