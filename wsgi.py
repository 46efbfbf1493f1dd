"""Entry point of the web server: `gunicorn wsgi:app` (see gunicorn.conf.py)."""

import sys

from app import create_app
from app.errors import CertcourierError
from app.operations.health import claim_installation, note_version
from config import ConfigurationError

try:
    app = create_app()
    services = app.extensions["certcourier"].services
    claim_installation(services)
    note_version(services.database, "web")
    services.share_metrics()
    services.database.close()  # connections must not be inherited by forked processes
except (ConfigurationError, CertcourierError) as error:
    sys.exit(f"Certcourier cannot start:\n{error}")
