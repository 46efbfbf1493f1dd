"""All checks, in the order in which causes are best fixed, each with the condition under which it passes."""

from __future__ import annotations

from app.doctor import account, alerts, dns, machine, service
from app.doctor.findings import Check

CHECKS: dict[str, Check] = {
    "settings": Check(machine.check_settings, "DNSimple can reach `PUBLIC_URL`."),
    "database": Check(
        machine.check_database, "The database answers and is writable. SQLite: WAL mode, on a local disk."
    ),
    "disk": Check(machine.check_disk, "`DATA_DIR` and the database's file system have free space."),
    "migrations": Check(machine.check_migrations, "The schema is the one that this version expects."),
    "files": Check(
        machine.check_files,
        "Only their owner can read the key-encryption key, the webhook secret, `.env` and the database, and no retired "
        "key file is left.",
    ),
    "token": Check(account.check_token, "DNSimple accepts the token, and it belongs to `DNSIMPLE_ACCOUNT_ID`."),
    "permissions": Check(
        account.check_permissions,
        "The token may list domains, certificates and webhooks. Whether it may purchase cannot be tested without a "
        "purchase.",
    ),
    "quota": Check(account.check_quota, "API calls are left and are not paused."),
    "clock": Check(machine.check_clock, "The clocks of this machine, the database and DNSimple agree."),
    "webhook": Check(account.check_webhook, "The webhook is registered at DNSimple, exactly once, and not suppressed."),
    "reachability": Check(
        service.check_reachability,
        "A test event sent through `PUBLIC_URL` arrives in this database. It names no account and is deleted again.",
    ),
    "workers": Check(
        service.check_workers, "A worker is running, and web server and workers run the same version as the command."
    ),
    "jobs": Check(
        alerts.check_area("jobs", "no failed and no late jobs"), "No job has failed permanently, and none is late."
    ),
    "orders": Check(alerts.check_area("orders", "no failed orders"), "No order has failed."),
    "certificates": Check(
        alerts.check_area("certificates", "every certificate in use is renewed in time"),
        "Every certificate in use is renewed in time.",
    ),
    "deliveries": Check(
        alerts.check_area("deliveries", "no unsuccessful deliveries"), "No delivery is failing or failed."
    ),
    "endpoints": Check(
        alerts.check_area("endpoints", "every endpoint serves its certificate"),
        "Every endpoint is reachable and serves its certificate.",
    ),
    "destinations": Check(
        machine.check_destinations, "Each destination is reachable and writable, and none is suspended."
    ),
}

OF_A_DOMAIN: dict[str, Check] = {
    "zone": Check(
        dns.check_zone, "The domain's zone at DNSimple is active and not a secondary copy of another provider's."
    ),
    "delegation": Check(dns.check_delegation, "The domain is delegated only to DNSimple's name servers."),
    "caa": Check(dns.check_caa, "The closest CAA records allow Let's Encrypt (RFC 8659)."),
    "dnssec": Check(dns.check_dnssec, "DNSSEC validates. Requires a validating resolver."),
}
