"""Options and argument types that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from app.domain_names import InvalidFieldError, parse_domain
from app.identifiers import LARGEST_ID

RECORD_ID = click.IntRange(1, LARGEST_ID)

as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
limit_option = click.option(
    "--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="Maximum number of rows."
)


class DomainName(click.ParamType[str]):
    """A domain name, in Unicode or as A-labels; converted to A-labels."""

    name = "domain"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The domain as lower-case A-labels."""
        try:
            return parse_domain(value)
        except InvalidFieldError as error:
            self.fail(error.message, param, ctx)


domain_option = click.option("--domain", type=DomainName(), help="Filter by domain.")


def state_option(*states: str) -> Callable[[click.decorators.FC], click.decorators.FC]:
    """`--state` with a fixed list of states."""
    return click.option("--state", type=click.Choice(states), help="Filter by state.")
