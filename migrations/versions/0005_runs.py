"""Runs that serve many deliveries."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "runs",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("destination", sa.String(length=63), nullable=False),
        sa.Column("key", sa.String(length=63), nullable=True),
        sa.Column("state", sa.String(length=12), nullable=False),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        sa.Column("token", sa.String(length=32), nullable=False),
        sa.Column("started_at", _TIME, nullable=False),
        sa.Column("finished_at", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runs")),
        sa.UniqueConstraint("key", name=op.f("uq_runs_key")),
    )
    op.create_index(op.f("ix_runs_destination_started_at"), "runs", ["destination", "started_at"])
    op.create_index(op.f("ix_runs_finished_at"), "runs", ["finished_at"])
    op.add_column("deliveries", sa.Column("run_id", sa.BigInteger(), nullable=True))
    op.create_index(op.f("ix_deliveries_run_id"), "deliveries", ["run_id"])
    pending = sa.text("state = 'pending'")
    op.create_index(
        "ix_deliveries_pending", "deliveries", ["destination"], sqlite_where=pending, postgresql_where=pending
    )


def downgrade() -> None:
    op.drop_index("ix_deliveries_pending", "deliveries")
    op.drop_index(op.f("ix_deliveries_run_id"), "deliveries")
    op.drop_column("deliveries", "run_id")
    op.drop_index(op.f("ix_runs_finished_at"), "runs")
    op.drop_index(op.f("ix_runs_destination_started_at"), "runs")
    op.drop_table("runs")
