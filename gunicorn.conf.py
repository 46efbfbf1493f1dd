"""Configuration of the web server, from the settings (docs/configuration.md)."""

import gc
import sys

from app.web.gunicorn_logger import RedactingLogger
from app.web.gunicorn_worker import DeadlineWorker
from config import ConfigurationError, load_settings

try:
    _settings = load_settings()
except ConfigurationError as error:
    sys.exit(f"Certcourier cannot start:\n{error}")

bind = f"{_settings.host}:{_settings.port}"
DeadlineWorker.request_read_timeout_seconds = _settings.request_read_timeout_seconds
worker_class = DeadlineWorker  # gthread with deadlines for slow clients
# SQLite: one process, whose threads share commits. PostgreSQL: any number.
workers = _settings.web_workers or (1 if _settings.is_sqlite else 2)
threads = _settings.web_threads
# Loaded once, then forked: settings are checked once and memory is shared. Database and HTTP connections are opened
# in the child on first use (app/db/database.py, app/dnsimple/transport.py).
preload_app = True
# Not per request: a worker process whose main loop does not respond for this long is replaced. Requests have to arrive
# within REQUEST_READ_TIMEOUT_SECONDS (app/web/gunicorn_worker.py); orders are answered within ORDER_WAIT_SECONDS.
timeout = 60
graceful_timeout = 25
keepalive = 15  # idle connections wait in the poller and hold no thread
limit_request_line = 4094
limit_request_fields = 50
limit_request_field_size = 4094
# None: forwarded headers are handled by TRUSTED_PROXIES alone (app/web/proxies.py).
forwarded_allow_ips = ""
# Requests are logged by app/web/request_log.py by route: a path can hold the webhook's secret.
accesslog = None
logger_class = RedactingLogger
loglevel = "warning"
control_socket_disable = True


def when_ready(_arbiter: object) -> None:
    """Exclude everything loaded so far from garbage collection, which would copy memory pages shared by forks."""
    gc.collect()
    gc.freeze()


def child_exit(_arbiter: object, _worker: object) -> None:
    """Keep the counters of the process that has ended."""
    from app.metrics import fold_dead_processes  # noqa: PLC0415, the application is loaded by gunicorn, not by this file

    fold_dead_processes(_settings.data_dir / "metrics")
