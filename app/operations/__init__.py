"""What keeps an installation healthy: readiness, retention, keys, retried jobs, metrics."""
