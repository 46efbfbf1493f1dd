"""`flask certificates`."""

from __future__ import annotations

from flask.cli import AppGroup

from app.commands.importing import import_certificates

group = AppGroup("certificates", help="Certificates that are installed.")
group.add_command(import_certificates)
