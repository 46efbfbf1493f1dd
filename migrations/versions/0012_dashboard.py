"""Who is signed in to the dashboard, and indexes for what it lists."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0009"
branch_labels = None
depends_on = None

_FAILING = sa.text("state IN ('pending', 'failed') AND detail IS NOT NULL")


def upgrade() -> None:
    op.create_table(
        "dashboard_sessions",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("token_id", sa.String(length=40), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["token_id"], ["api_tokens.id"], name=op.f("fk_dashboard_sessions_token_id")),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_dashboard_sessions")),
    )
    op.create_index(op.f("ix_dashboard_sessions_token_id"), "dashboard_sessions", ["token_id"])
    op.create_index(op.f("ix_dashboard_sessions_expires_at"), "dashboard_sessions", ["expires_at"])
    op.create_index("ix_deliveries_failing", "deliveries", ["id"], sqlite_where=_FAILING, postgresql_where=_FAILING)
    if op.get_bind().dialect.name == "postgresql":  # SQLite compares bytes anyway, and has an index on the domain
        op.create_index("ix_certificates_search", "certificates", [sa.text('domain COLLATE "C"'), "id"])


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.drop_index("ix_certificates_search", "certificates")
    op.drop_index("ix_deliveries_failing", "deliveries")
    op.drop_table("dashboard_sessions")
