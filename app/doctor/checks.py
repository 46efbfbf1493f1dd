"""All checks, in the order in which a beginner would want them."""

from __future__ import annotations

from app.doctor import account, dns, machine, service
from app.doctor.findings import Check

CHECKS: dict[str, Check] = {
    "settings": machine.check_settings,
    "database": machine.check_database,
    "disk": machine.check_disk,
    "migrations": machine.check_migrations,
    "files": machine.check_files,
    "token": account.check_token,
    "permissions": account.check_permissions,
    "quota": account.check_quota,
    "clock": machine.check_clock,
    "webhook": account.check_webhook,
    "reachability": service.check_reachability,
    "workers": service.check_workers,
    "jobs": service.check_jobs,
    "certificates": service.check_certificates,
    "destinations": machine.check_destinations,
}

OF_A_DOMAIN: dict[str, Check] = {
    "zone": account.check_zone,
    "delegation": dns.check_delegation,
    "caa": dns.check_caa,
    "dnssec": dns.check_dnssec,
}
