"""The account's quota, and when each domain was looked at."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
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
    op.add_column("domains", sa.Column("looked_at", _TIME, nullable=True))
    op.create_index(op.f("ix_domains_looked_at_id"), "domains", ["looked_at", "id"])
    op.create_index(op.f("ix_certificates_not_after"), "certificates", ["not_after"])


def downgrade() -> None:
    op.drop_index(op.f("ix_certificates_not_after"), "certificates")
    op.drop_index(op.f("ix_domains_looked_at_id"), "domains")
    op.drop_column("domains", "looked_at")
    op.drop_table("quota")
