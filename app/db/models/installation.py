"""What the installation knows about itself; see `app.db.installation_state`."""

from __future__ import annotations

from sqlalchemy import String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.db.models.base import Base


class InstallationState(Base):
    """One entry: a name and its value as text."""

    __tablename__ = "installation_state"

    name: Mapped[str] = mapped_column(String(60), primary_key=True)
    value: Mapped[str] = mapped_column(Text)
