"""`python -m tools.reference`: write the pages of docs/reference/."""

from __future__ import annotations

from tools.reference import PAGES
from tools.reference.markdown import ROOT

if __name__ == "__main__":
    for name, page in PAGES.items():
        (ROOT / "docs" / "reference" / f"{name}.md").write_text(page())
