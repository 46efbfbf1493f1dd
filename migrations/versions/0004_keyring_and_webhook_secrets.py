"""The webhook's secrets, and which key-encryption keys each worker holds."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "webhook_secrets",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("current", sa.Boolean(), nullable=True),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("accepted_until", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_webhook_secrets")),
        sa.UniqueConstraint("current", name=op.f("uq_webhook_secrets_current")),
    )
    op.add_column("workers", sa.Column("key_ids", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column("workers", "key_ids")
    op.drop_table("webhook_secrets")
