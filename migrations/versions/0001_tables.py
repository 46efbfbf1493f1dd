"""All tables of version 0.1.0."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_AUTO_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_REFUSAL = "the audit trail is append-only"


def upgrade() -> None:  # noqa: PLR0915, one statement for each table and index
    op.create_table(
        "alerts",
        sa.Column("id", _AUTO_ID, nullable=False),
        sa.Column("kind", sa.String(length=40), nullable=False),
        sa.Column("subject", sa.String(length=400), nullable=False),
        sa.Column("since", _TIME, nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("remedy", sa.Text(), nullable=False),
        sa.Column("raised_at", _TIME, nullable=False),
        sa.Column("last_notified_at", _TIME, nullable=True),
        sa.Column("silenced_at", _TIME, nullable=True),
        sa.Column("cleared_at", _TIME, nullable=True),
        sa.Column("resolved_at", _TIME, nullable=True),
        sa.Column("recovery_notified_at", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alerts")),
    )
    op.create_index(op.f("ix_alerts_kind_last_notified_at"), "alerts", ["kind", "last_notified_at"], unique=False)
    op.create_index(op.f("ix_alerts_resolved_at"), "alerts", ["resolved_at"], unique=False)
    op.create_table(
        "api_tokens",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("domains", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("expires_at", _TIME, nullable=True),
        sa.Column("last_used_at", _TIME, nullable=True),
        sa.Column("revoked_at", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_tokens")),
        sa.UniqueConstraint("digest", name=op.f("uq_api_tokens_digest")),
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.String(length=60), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("previous_hash", sa.String(length=64), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    op.create_table(
        "domains",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.String(length=253), nullable=False),
        sa.Column("last_checked_at", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_domains")),
    )
    op.create_index(op.f("ix_domains_last_checked_at_id"), "domains", ["last_checked_at", "id"], unique=False)
    op.create_index(op.f("ix_domains_name"), "domains", ["name"], unique=False)
    op.create_table(
        "events",
        sa.Column("id", _AUTO_ID, nullable=False),
        sa.Column("request_identifier", sa.String(length=128), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=True),
        sa.Column("certificate_id", sa.BigInteger(), nullable=True),
        sa.Column("domain_id", sa.BigInteger(), nullable=True),
        sa.Column("outcome", sa.String(length=20), nullable=False),
        sa.Column("received_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
        sa.UniqueConstraint("request_identifier", name=op.f("uq_events_request_identifier")),
    )
    op.create_index(op.f("ix_events_certificate_id"), "events", ["certificate_id"], unique=False)
    op.create_index(op.f("ix_events_received_at"), "events", ["received_at"], unique=False)
    op.create_table(
        "installation_state",
        sa.Column("name", sa.String(length=60), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_installation_state")),
    )
    op.create_table(
        "hook_runs",
        sa.Column("id", _AUTO_ID, nullable=False),
        sa.Column("destination", sa.String(length=63), nullable=False),
        sa.Column("key", sa.String(length=63), nullable=True),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        sa.Column("token", sa.String(length=32), nullable=False),
        sa.Column("started_at", _TIME, nullable=False),
        sa.Column("finished_at", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_hook_runs")),
        sa.UniqueConstraint("key", name=op.f("uq_hook_runs_key")),
    )
    op.create_index(
        op.f("ix_hook_runs_destination_started_at"), "hook_runs", ["destination", "started_at"], unique=False
    )
    op.create_index(op.f("ix_hook_runs_finished_at"), "hook_runs", ["finished_at"], unique=False)
    op.create_table(
        "import_runs",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("domain", sa.String(length=253), nullable=True),
        sa.Column("next_page", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("finished_at", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_import_runs")),
    )
    op.create_table(
        "jobs",
        sa.Column("id", _AUTO_ID, nullable=False),
        sa.Column("kind", sa.String(length=40), nullable=False),
        sa.Column("args", sa.JSON(), nullable=False),
        sa.Column("key", sa.String(length=120), nullable=True),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("run_at", _TIME, nullable=False),
        sa.Column("lease_expires_at", _TIME, nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("snoozes", sa.Integer(), nullable=False),
        sa.Column("token", sa.String(length=32), nullable=True),
        sa.Column("worker_id", sa.String(length=40), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("finished_at", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
        sa.UniqueConstraint("key", name=op.f("uq_jobs_key")),
    )
    op.create_index(op.f("ix_jobs_finished_at"), "jobs", ["finished_at"], unique=False)
    op.create_index(
        "ix_jobs_ready",
        "jobs",
        ["priority", "run_at"],
        unique=False,
        sqlite_where=sa.text("state = 'ready'"),
        postgresql_where=sa.text("state = 'ready'"),
    )
    op.create_index(
        "ix_jobs_running",
        "jobs",
        ["lease_expires_at"],
        unique=False,
        sqlite_where=sa.text("state = 'running'"),
        postgresql_where=sa.text("state = 'running'"),
    )
    op.create_index(op.f("ix_jobs_state"), "jobs", ["state"], unique=False)
    op.create_index(
        "ix_jobs_unfinished",
        "jobs",
        ["kind"],
        unique=False,
        sqlite_where=sa.text("finished_at IS NULL"),
        postgresql_where=sa.text("finished_at IS NULL"),
    )
    op.create_table(
        "lineages",
        sa.Column("id", _AUTO_ID, nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("domain", sa.String(length=253), nullable=False),
        sa.Column("names_digest", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_lineages")),
        sa.UniqueConstraint(
            "account_id", "domain", "names_digest", name=op.f("uq_lineages_account_id_domain_names_digest")
        ),
        sa.UniqueConstraint("name", name=op.f("uq_lineages_name")),
    )
    op.create_table(
        "periodic",
        sa.Column("kind", sa.String(length=40), nullable=False),
        sa.Column("slot", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("kind", name=op.f("pk_periodic")),
    )
    op.create_table(
        "quota",
        sa.Column("account_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("call_limit", sa.Integer(), nullable=False),
        sa.Column("remaining", sa.Integer(), nullable=False),
        sa.Column("in_flight", sa.Integer(), nullable=False),
        sa.Column("unknown_left", sa.Integer(), nullable=False),
        sa.Column("window_seconds", sa.Integer(), nullable=False),
        sa.Column("reset_at", _TIME, nullable=False),
        sa.Column("blocked_until", _TIME, nullable=True),
        sa.Column("blocked_reason", sa.String(length=100), nullable=True),
        sa.Column("blocked_token", sa.String(length=16), nullable=True),
        sa.PrimaryKeyConstraint("account_id", name=op.f("pk_quota")),
    )
    op.create_table(
        "request_counts",
        sa.Column("key", sa.String(length=120), nullable=False),
        sa.Column("minute", sa.BigInteger(), nullable=False),
        sa.Column("used", sa.Integer(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_request_counts")),
    )
    op.create_index(op.f("ix_request_counts_minute"), "request_counts", ["minute"], unique=False)
    op.create_table(
        "suspended_destinations",
        sa.Column("destination", sa.String(length=63), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("suspended_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("destination", name=op.f("pk_suspended_destinations")),
    )
    op.create_table(
        "timeline",
        sa.Column("id", _AUTO_ID, nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("order_id", sa.String(length=40), nullable=True),
        sa.Column("certificate_id", sa.BigInteger(), nullable=True),
        sa.Column("step", sa.String(length=30), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_timeline")),
    )
    op.create_index(op.f("ix_timeline_certificate_id"), "timeline", ["certificate_id"], unique=False)
    op.create_index(op.f("ix_timeline_order_id"), "timeline", ["order_id"], unique=False)
    op.create_table(
        "webhook_secrets",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("encrypted", sa.LargeBinary(), nullable=False),
        sa.Column("current", sa.Boolean(), nullable=True),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("accepted_until", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_webhook_secrets")),
        sa.UniqueConstraint("current", name=op.f("uq_webhook_secrets_current")),
    )
    op.create_table(
        "workers",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("started_at", _TIME, nullable=False),
        sa.Column("last_heartbeat_at", _TIME, nullable=False),
        sa.Column("key_ids", sa.JSON(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workers")),
    )
    op.create_index(op.f("ix_workers_last_heartbeat_at"), "workers", ["last_heartbeat_at"], unique=False)
    op.create_table(
        "dashboard_sessions",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("token_id", sa.String(length=40), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("expires_at", _TIME, nullable=False),
        sa.ForeignKeyConstraint(["token_id"], ["api_tokens.id"], name=op.f("fk_dashboard_sessions_token_id")),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_dashboard_sessions")),
    )
    op.create_index(op.f("ix_dashboard_sessions_expires_at"), "dashboard_sessions", ["expires_at"], unique=False)
    op.create_index(op.f("ix_dashboard_sessions_token_id"), "dashboard_sessions", ["token_id"], unique=False)
    op.create_table(
        "imported_domains",
        sa.Column("run_id", sa.String(length=40), nullable=False),
        sa.Column("domain", sa.String(length=253), nullable=False),
        sa.Column("certificate_ids", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["import_runs.id"], name=op.f("fk_imported_domains_run_id")),
        sa.PrimaryKeyConstraint("run_id", "domain", name=op.f("pk_imported_domains")),
    )
    op.create_table(
        "orders",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("client_id", sa.String(length=40), nullable=True),
        sa.Column("domain", sa.String(length=253), nullable=False),
        sa.Column("name", sa.String(length=253), nullable=False),
        sa.Column("common_name", sa.String(length=253), nullable=False),
        sa.Column("san", sa.JSON(), nullable=False),
        sa.Column("names", sa.JSON(), nullable=False),
        sa.Column("auto_renew", sa.Boolean(), nullable=False),
        sa.Column("signature_algorithm", sa.String(length=10), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("in_flight_key", sa.String(length=64), nullable=True),
        sa.Column("certificate_id", sa.BigInteger(), nullable=True),
        sa.Column("renews_certificate_id", sa.BigInteger(), nullable=True),
        sa.Column("renewal_id", sa.BigInteger(), nullable=True),
        sa.Column("purchase_attempted_at", _TIME, nullable=True),
        sa.Column("failure", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("updated_at", _TIME, nullable=False),
        sa.ForeignKeyConstraint(["client_id"], ["api_tokens.id"], name=op.f("fk_orders_client_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_orders")),
        sa.UniqueConstraint("in_flight_key", name=op.f("uq_orders_in_flight_key")),
    )
    op.create_index(op.f("ix_orders_certificate_id"), "orders", ["certificate_id"], unique=False)
    op.create_index(op.f("ix_orders_domain_id"), "orders", ["domain", "id"], unique=False)
    op.create_index(op.f("ix_orders_renews_certificate_id"), "orders", ["renews_certificate_id"], unique=False)
    op.create_index(op.f("ix_orders_state_id"), "orders", ["state", "id"], unique=False)
    op.create_table(
        "certificates",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("account_id", sa.BigInteger(), nullable=False),
        sa.Column("domain_id", sa.BigInteger(), nullable=True),
        sa.Column("domain", sa.String(length=253), nullable=False),
        sa.Column("order_id", sa.String(length=40), nullable=True),
        sa.Column("lineage_id", _AUTO_ID, nullable=True),
        sa.Column("state", sa.String(length=40), nullable=False),
        sa.Column("common_name", sa.String(length=255), nullable=False),
        sa.Column("names", sa.JSON(), nullable=False),
        sa.Column("auto_renew", sa.Boolean(), nullable=True),
        sa.Column("serial", sa.String(length=40), nullable=True),
        sa.Column("fingerprint", sa.String(length=64), nullable=True),
        sa.Column("key_algorithm", sa.String(length=20), nullable=True),
        sa.Column("not_before", _TIME, nullable=True),
        sa.Column("not_after", _TIME, nullable=True),
        sa.Column("leaf_pem", sa.Text(), nullable=True),
        sa.Column("chain_pem", sa.Text(), nullable=True),
        sa.Column("encrypted_key", sa.LargeBinary(), nullable=True),
        sa.Column("fetched_at", _TIME, nullable=True),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("updated_at", _TIME, nullable=False),
        sa.ForeignKeyConstraint(["lineage_id"], ["lineages.id"], name=op.f("fk_certificates_lineage_id")),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"], name=op.f("fk_certificates_order_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_certificates")),
    )
    op.create_index(op.f("ix_certificates_domain_id"), "certificates", ["domain", "id"], unique=False)
    op.create_index(op.f("ix_certificates_fingerprint"), "certificates", ["fingerprint"], unique=False)
    op.create_index(
        op.f("ix_certificates_lineage_id_not_before_id_not_after"),
        "certificates",
        ["lineage_id", "not_before", "id", "not_after"],
        unique=False,
    )
    op.create_index(op.f("ix_certificates_not_after"), "certificates", ["not_after"], unique=False)
    op.create_index(op.f("ix_certificates_state_id"), "certificates", ["state", "id"], unique=False)
    op.create_table(
        "idempotency_keys",
        sa.Column("client_id", sa.String(length=40), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("request_digest", sa.String(length=64), nullable=False),
        sa.Column("order_id", sa.String(length=40), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("body", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("created_at", _TIME, nullable=False),
        sa.ForeignKeyConstraint(["client_id"], ["api_tokens.id"], name=op.f("fk_idempotency_keys_client_id")),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"], name=op.f("fk_idempotency_keys_order_id")),
        sa.PrimaryKeyConstraint("client_id", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_index(op.f("ix_idempotency_keys_created_at"), "idempotency_keys", ["created_at"], unique=False)
    op.create_table(
        "deliveries",
        sa.Column("id", _AUTO_ID, nullable=False),
        sa.Column("certificate_id", sa.BigInteger(), nullable=False),
        sa.Column("destination", sa.String(length=63), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("blocked_by", sa.Text(), nullable=True),
        sa.Column("delivered_at", _TIME, nullable=True),
        sa.Column("run_id", sa.BigInteger(), nullable=True),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("updated_at", _TIME, nullable=False),
        sa.ForeignKeyConstraint(["certificate_id"], ["certificates.id"], name=op.f("fk_deliveries_certificate_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deliveries")),
        sa.UniqueConstraint("certificate_id", "destination", name=op.f("uq_deliveries_certificate_id_destination")),
    )
    op.create_index(
        "ix_deliveries_unfinished",
        "deliveries",
        ["destination"],
        unique=False,
        sqlite_where=sa.text("state IN ('pending', 'failing')"),
        postgresql_where=sa.text("state IN ('pending', 'failing')"),
    )
    op.create_index(op.f("ix_deliveries_run_id"), "deliveries", ["run_id"], unique=False)
    op.create_index(op.f("ix_deliveries_state"), "deliveries", ["state"], unique=False)
    op.create_table(
        "endpoint_checks",
        sa.Column("lineage_id", _AUTO_ID, nullable=False),
        sa.Column("endpoint", sa.String(length=63), nullable=False),
        sa.Column("certificate_id", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("since", _TIME, nullable=False),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("served_fingerprint", sa.String(length=64), nullable=True),
        sa.Column("last_checked_at", _TIME, nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("deadline_at", _TIME, nullable=True),
        sa.Column("next_check_at", _TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["certificate_id"], ["certificates.id"], name=op.f("fk_endpoint_checks_certificate_id")
        ),
        sa.ForeignKeyConstraint(["lineage_id"], ["lineages.id"], name=op.f("fk_endpoint_checks_lineage_id")),
        sa.PrimaryKeyConstraint("lineage_id", "endpoint", name=op.f("pk_endpoint_checks")),
    )
    op.create_index(
        op.f("ix_endpoint_checks_endpoint_next_check_at"),
        "endpoint_checks",
        ["endpoint", "next_check_at"],
        unique=False,
    )
    op.create_index(op.f("ix_endpoint_checks_state"), "endpoint_checks", ["state"], unique=False)
    op.create_table(
        "renewal_info",
        sa.Column("certificate_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("window_start", _TIME, nullable=True),
        sa.Column("window_end", _TIME, nullable=True),
        sa.Column("renew_at", _TIME, nullable=True),
        sa.Column("next_ari_check_at", _TIME, nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("failed_at", _TIME, nullable=True),
        sa.ForeignKeyConstraint(["certificate_id"], ["certificates.id"], name=op.f("fk_renewal_info_certificate_id")),
        sa.PrimaryKeyConstraint("certificate_id", name=op.f("pk_renewal_info")),
    )
    op.create_index(op.f("ix_renewal_info_next_ari_check_at"), "renewal_info", ["next_ari_check_at"], unique=False)
    op.create_index(op.f("ix_renewal_info_renew_at"), "renewal_info", ["renew_at"], unique=False)
    if op.get_bind().dialect.name == "postgresql":
        op.create_index("ix_certificates_search", "certificates", [sa.text('domain COLLATE "C"'), "id"])
    _protect_audit()


def downgrade() -> None:
    op.drop_table("renewal_info")
    op.drop_table("endpoint_checks")
    op.drop_table("deliveries")
    op.drop_table("idempotency_keys")
    op.drop_table("certificates")
    op.drop_table("orders")
    op.drop_table("imported_domains")
    op.drop_table("dashboard_sessions")
    op.drop_table("workers")
    op.drop_table("webhook_secrets")
    op.drop_table("timeline")
    op.drop_table("suspended_destinations")
    op.drop_table("request_counts")
    op.drop_table("quota")
    op.drop_table("periodic")
    op.drop_table("lineages")
    op.drop_table("jobs")
    op.drop_table("import_runs")
    op.drop_table("hook_runs")
    op.drop_table("installation_state")
    op.drop_table("events")
    op.drop_table("domains")
    op.drop_table("audit")
    op.drop_table("api_tokens")
    op.drop_table("alerts")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION refuse_audit_change")


def _protect_audit() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION refuse_audit_change() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION '{_REFUSAL}'; END $$"
        )
        op.execute(
            "CREATE TRIGGER audit_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_audit_change()"
        )
        return
    for change in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER audit_refuses_{change.lower()} BEFORE {change} ON audit "
            f"BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END"
        )
