"""The newest leaf of every lineage and its end, read from an index alone: rows are wide with PEM texts."""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_OLD = "ix_certificates_lineage_id_not_before_id"
_NEW = "ix_certificates_lineage_id_not_before_id_not_after"


def upgrade() -> None:
    op.create_index(op.f(_NEW), "certificates", ["lineage_id", "not_before", "id", "not_after"])
    op.drop_index(op.f(_OLD), "certificates")


def downgrade() -> None:
    op.create_index(op.f(_OLD), "certificates", ["lineage_id", "not_before", "id"])
    op.drop_index(op.f(_NEW), "certificates")
