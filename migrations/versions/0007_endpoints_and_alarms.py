"""What endpoints serve, and the problems that somebody is told of."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "endpoints_seen",
        sa.Column("lineage_id", _ID, nullable=False),
        sa.Column("endpoint", sa.String(length=63), nullable=False),
        sa.Column("certificate_id", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("since", _TIME, nullable=False),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("seen_fingerprint", sa.String(length=64), nullable=True),
        sa.Column("checked_at", _TIME, nullable=True),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("give_up_at", _TIME, nullable=True),
        sa.Column("next_at", _TIME, nullable=False),
        sa.ForeignKeyConstraint(["lineage_id"], ["lineages.id"], name=op.f("fk_endpoints_seen_lineage_id")),
        sa.ForeignKeyConstraint(["certificate_id"], ["certificates.id"], name=op.f("fk_endpoints_seen_certificate_id")),
        sa.PrimaryKeyConstraint("lineage_id", "endpoint", name=op.f("pk_endpoints_seen")),
    )
    op.create_index(op.f("ix_endpoints_seen_endpoint_next_at"), "endpoints_seen", ["endpoint", "next_at"])
    op.create_index(op.f("ix_endpoints_seen_state"), "endpoints_seen", ["state"])
    op.create_table(
        "alarms",
        sa.Column("id", _ID, nullable=False),
        sa.Column("kind", sa.String(length=40), nullable=False),
        sa.Column("subject", sa.String(length=400), nullable=False),
        sa.Column("since", _TIME, nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("remedy", sa.Text(), nullable=False),
        sa.Column("raised_at", _TIME, nullable=False),
        sa.Column("last_told", _TIME, nullable=True),
        sa.Column("dismissed_at", _TIME, nullable=True),
        sa.Column("gone_at", _TIME, nullable=True),
        sa.Column("resolved_at", _TIME, nullable=True),
        sa.Column("recovery_told_at", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alarms")),
    )
    op.create_index(op.f("ix_alarms_resolved_at"), "alarms", ["resolved_at"])
    op.create_index(op.f("ix_alarms_kind_last_told"), "alarms", ["kind", "last_told"])
    op.create_index(op.f("ix_deliveries_state"), "deliveries", ["state"])
    op.create_index(op.f("ix_certificates_fingerprint"), "certificates", ["fingerprint"])


def downgrade() -> None:
    op.drop_index(op.f("ix_certificates_fingerprint"), "certificates")
    op.drop_index(op.f("ix_deliveries_state"), "deliveries")
    op.drop_table("alarms")
    op.drop_table("endpoints_seen")
