"""The layers of the import contract name every module."""

from __future__ import annotations

import tomllib
from pathlib import Path

import app

_PACKAGE = Path(app.__file__).parent


def test_every_module_belongs_to_a_layer() -> None:
    settings = tomllib.loads((_PACKAGE.parent / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = next(contract["layers"] for contract in settings["contracts"] if contract["type"] == "layers")
    named = {name.strip() for layer in layers for name in layer.split("|")}
    modules = {
        ".".join(file.relative_to(_PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        for file in _PACKAGE.rglob("*.py")
    }
    split = {name.partition(".")[0] for name in named if "." in name}
    unnamed = {
        module
        for module in modules - split - {"__init__"}
        if not any(module == name or module.startswith(f"{name}.") for name in named)
    }
    assert unnamed == set()
    assert named <= modules
