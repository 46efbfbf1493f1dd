"""Commands of `flask`, run in this process."""

from __future__ import annotations

from flask import Flask


def run(app: Flask, *arguments: str, status: int = 0) -> str:
    result = app.test_cli_runner().invoke(args=arguments)
    assert result.exit_code == status, result.output
    return result.stdout if status == 0 else result.output
