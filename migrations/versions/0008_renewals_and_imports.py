"""Renewals that we make, what is known of each renewal, and imports of an account's certificates."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("orders", sa.Column("renews_certificate_id", sa.BigInteger(), nullable=True))
    op.add_column("orders", sa.Column("renewal_id", sa.BigInteger(), nullable=True))
    op.create_index(op.f("ix_orders_renews_certificate_id"), "orders", ["renews_certificate_id"])
    op.create_table(
        "renewal_notes",
        sa.Column("certificate_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("window_start", _TIME, nullable=True),
        sa.Column("window_end", _TIME, nullable=True),
        sa.Column("renew_at", _TIME, nullable=True),
        sa.Column("ask_at", _TIME, nullable=True),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("problem_at", _TIME, nullable=True),
        sa.ForeignKeyConstraint(["certificate_id"], ["certificates.id"], name=op.f("fk_renewal_notes_certificate_id")),
        sa.PrimaryKeyConstraint("certificate_id", name=op.f("pk_renewal_notes")),
    )
    op.create_index(op.f("ix_renewal_notes_renew_at"), "renewal_notes", ["renew_at"])
    op.create_index(op.f("ix_renewal_notes_ask_at"), "renewal_notes", ["ask_at"])
    op.create_table(
        "import_runs",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("domain", sa.String(length=253), nullable=True),
        sa.Column("next_page", sa.Integer(), nullable=False),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("finished_at", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_import_runs")),
    )
    op.create_table(
        "imported_domains",
        sa.Column("run_id", sa.String(length=40), nullable=False),
        sa.Column("domain", sa.String(length=253), nullable=False),
        sa.Column("certificate_ids", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["import_runs.id"], name=op.f("fk_imported_domains_run_id")),
        sa.PrimaryKeyConstraint("run_id", "domain", name=op.f("pk_imported_domains")),
    )


def downgrade() -> None:
    op.drop_table("imported_domains")
    op.drop_table("import_runs")
    op.drop_table("renewal_notes")
    op.drop_index(op.f("ix_orders_renews_certificate_id"), "orders")
    op.drop_column("orders", "renewal_id")
    op.drop_column("orders", "renews_certificate_id")
