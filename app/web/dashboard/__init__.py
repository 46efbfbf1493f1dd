"""The operator's pages under /dashboard: server-rendered HTML that needs no script, for people with a token."""

from __future__ import annotations

from app.web.dashboard import actions, certificates, login, views
from app.web.dashboard.blueprint import blueprint

__all__ = ["actions", "blueprint", "certificates", "login", "views"]
