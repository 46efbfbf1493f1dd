"""All checks, in the order in which causes are best fixed."""

from __future__ import annotations

from app.doctor import account, alerts, dns, machine, service
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
    "jobs": alerts.check_area("jobs", "no failed and no late jobs"),
    "orders": alerts.check_area("orders", "no failed orders"),
    "certificates": alerts.check_area("certificates", "every certificate in use is renewed in time"),
    "deliveries": alerts.check_area("deliveries", "no failing deliveries"),
    "endpoints": alerts.check_area("endpoints", "every endpoint serves its certificate"),
    "destinations": machine.check_destinations,
}

OF_A_DOMAIN: dict[str, Check] = {
    "zone": dns.check_zone,
    "delegation": dns.check_delegation,
    "caa": dns.check_caa,
    "dnssec": dns.check_dnssec,
}
