"""The web server. Values come from the same settings as everything else (docs/configuration.md)."""

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
worker_class = DeadlineWorker  # gthread, with an end to its patience for slow senders
# SQLite: one process, whose threads take turns at the database in good order. PostgreSQL: as many as wanted.
workers = _settings.web_workers or (1 if _settings.is_sqlite else 2)
threads = _settings.web_threads
# Loaded once, then forked: settings are checked once and memory is shared. Database and HTTP connections are dropped
# in the child and made anew when first used (app/db/database.py, app/dnsimple/transport.py).
preload_app = True
# Not of a request: a worker process whose main loop is silent for so long is replaced. Requests have
# REQUEST_READ_TIMEOUT_SECONDS to arrive (app/web/gunicorn_worker.py); orders ORDER_WAIT_SECONDS to be answered.
timeout = 60
graceful_timeout = 25
keepalive = 15  # idle connections, new ones too, wait in the poller for so long and hold no thread
limit_request_line = 4094
limit_request_fields = 50
limit_request_field_size = 4094
# Nobody: what proxies say is believed by TRUSTED_PROXIES alone (app/web/proxies.py).
forwarded_allow_ips = ""
# Ours is written by app/web/request_log.py, by route: a path of ours can hold the webhook's secret.
accesslog = None
logger_class = RedactingLogger
loglevel = "warning"
control_socket_disable = True


def when_ready(_arbiter: object) -> None:
    """What is loaded by now lives for ever: the garbage collector need not look at it, nor copy its pages in a fork."""
    gc.collect()
    gc.freeze()


def child_exit(_arbiter: object, _worker: object) -> None:
    """What the process has counted is kept."""
    from app.metrics import fold_dead_processes  # noqa: PLC0415, the application is loaded by gunicorn, not by this file

    fold_dead_processes(_settings.data_dir / "metrics")
