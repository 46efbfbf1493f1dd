"""The tables. DNSimple is authoritative for certificates, these tables for the work that remains."""

from __future__ import annotations

import secrets
import time
from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Integer,
)
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.sql.schema import MetaData

from app.db.clock import UTCDateTime

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: nothing to misread on the phone
AutoId = BigInteger().with_variant(Integer, "sqlite")


def new_id(prefix: str) -> str:
    """An ID that sorts by time: `prefix_` and 26 characters (48 bits of milliseconds, 80 random bits)."""
    number = (time.time_ns() // 1_000_000 << 80) | secrets.randbits(80)
    return f"{prefix}_" + "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: UTCDateTime, list[str]: JSON, dict[str, Any]: JSON}  # noqa: RUF012
