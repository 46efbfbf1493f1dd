"""The diagrams of the documentation: `make reference` writes docs/images/*.svg, and a test compares them.

Plain SVG without external fonts or scripts. Each has its own background, so it is readable on light and dark pages.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "images"
_STYLE = """\
svg { font: 14px system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; }
.background { fill: #ffffff; stroke: #d0d7de; } .group { fill: #f6f8fa; stroke: #afb8c1; stroke-dasharray: 4 3; }
.box { fill: #ddf4ff; stroke: #0969da; } .ours { fill: #dafbe1; stroke: #1a7f37; }
.note { fill: #fff8c5; stroke: #bf8700; }
text { fill: #1f2328; } .small { font-size: 12px; } .strong { font-weight: 600; }
.line { stroke: #57606a; stroke-width: 1.5; fill: none; } .lane { stroke: #afb8c1; stroke-dasharray: 3 4; }
.head { fill: #57606a; }
@media (prefers-color-scheme: dark) {
.background { fill: #0d1117; stroke: #30363d; } .group { fill: #161b22; stroke: #6e7681; }
.box { fill: #0c2d6b; stroke: #58a6ff; } .ours { fill: #04260f; stroke: #3fb950; }
.note { fill: #341a00; stroke: #d29922; }
text { fill: #e6edf3; } .line { stroke: #9198a1; } .lane { stroke: #6e7681; } .head { fill: #9198a1; }
}"""


@dataclass
class Picture:
    """An SVG that is built by calling its methods. Coordinates are pixels from the upper left corner."""

    width: int
    height: int
    title: str
    description: str
    _parts: list[str] = field(default_factory=list)

    def box(self, x: int, y: int, width: int, height: int, *lines: str, kind: str = "box") -> None:
        """A box with centred lines; the first is bold unless the box is a note."""
        self._parts.append(f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="6"/>')
        top = y + height / 2 - 9 * (len(lines) - 1) + 5
        for index, line in enumerate(lines):
            style = "small" if index or kind == "note" else "strong"
            self.text(x + width // 2, round(top + 18 * index), line, style, "middle")

    def group(self, x: int, y: int, width: int, height: int, title: str) -> None:
        """A dashed frame with a title inside."""
        self._parts.append(f'<rect class="group" x="{x}" y="{y}" width="{width}" height="{height}" rx="8"/>')
        self.text(x + 12, y + 20, title, "small strong", "start")

    def text(self, x: int, y: int, text: str, style: str = "small", anchor: str = "middle") -> None:
        """One line of text."""
        self._parts.append(f'<text class="{style}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>')

    def arrow(self, *points: tuple[int, int], both: bool = False) -> None:
        """A line through the points with an arrowhead at the end, or at both ends."""
        path = " ".join(f"{'L' if index else 'M'}{x} {y}" for index, (x, y) in enumerate(points))
        start = ' marker-start="url(#head)"' if both else ""
        self._parts.append(f'<path class="line" d="{path}" marker-end="url(#head)"{start}/>')

    def lane(self, x: int, top: int, bottom: int) -> None:
        """The lifeline of a participant."""
        self._parts.append(f'<path class="lane" d="M{x} {top} L{x} {bottom}"/>')

    def svg(self) -> str:
        """The SVG document."""
        head = (
            '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            'orient="auto-start-reverse"><path class="head" d="M0 0 L8 4 L0 8 Z"/></marker>'
        )
        opening = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
            f'width="{self.width}" height="{self.height}" role="img" aria-labelledby="t d">'
        )
        background = (
            f'<rect class="background" x="1" y="1" width="{self.width - 2}" height="{self.height - 2}" rx="10"/>'
        )
        lines = [
            opening,
            f'<title id="t">{escape(self.title)}</title>',
            f'<desc id="d">{escape(self.description)}</desc>',
            f"<style>\n{_STYLE}\n</style>",
            f"<defs>{head}</defs>",
            background,
            *self._parts,
            "</svg>",
        ]
        return "\n".join(lines) + "\n"


def lifecycle() -> Picture:
    """The steps from the order to the delivered files, in chronological order."""
    picture = Picture(
        900,
        560,
        "Certificate lifecycle",
        "Provisioning places an order at Certcourier, which stores it, purchases the certificate at DNSimple, requests "
        "its issuance and answers 202. DNSimple's webhook announces the certificate; event and job are committed "
        "together and acknowledged with 200. Certcourier downloads certificate and private key by ID, verifies them, "
        "and switches your servers' files to the new version atomically. A renewal begins at the webhook.",
    )
    lanes = {"provisioning": 90, "certcourier": 340, "dnsimple": 600, "servers": 810}
    names = {
        "provisioning": "Provisioning",
        "certcourier": "Certcourier",
        "dnsimple": "DNSimple",
        "servers": "Your servers",
    }
    for participant, x in lanes.items():
        picture.lane(x, 56, 500)
        picture.box(x - 70, 20, 140, 36, names[participant], kind="ours" if participant == "certcourier" else "box")

    def message(y: int, sender: str, receiver: str, text: str) -> None:
        picture.arrow((lanes[sender], y), (lanes[receiver], y))
        picture.text((lanes[sender] + lanes[receiver]) // 2, y - 7, text)

    def note(y: int, *lines: str) -> None:
        picture.box(lanes["certcourier"] - 105, y, 210, 12 + 18 * len(lines), *lines, kind="note")

    message(90, "provisioning", "certcourier", "1  POST /issue_certificate")
    note(104, "order committed")
    message(164, "certcourier", "dnsimple", "2  purchase, request issuance")
    message(196, "certcourier", "provisioning", "3  202: certificate ID, state")
    picture.text(lanes["dnsimple"], 228, "Let's Encrypt issues", "small strong")
    message(262, "dnsimple", "certcourier", "4  webhook: certificate.issue")
    note(276, "event and job: one commit")
    message(334, "certcourier", "dnsimple", "5  200, after the commit")
    message(366, "certcourier", "dnsimple", "6  fetch certificate and key by ID")
    note(380, "key matches, chain verified,", "valid, names covered")
    picture.arrow((lanes["certcourier"], 460), (lanes["servers"], 460))
    picture.text(680, 453, "7  atomic switch to the new version")
    picture.text(
        450,
        528,
        "A renewal begins at step 4: DNSimple renews automatically, and steps 4 to 7 repeat.",
        "small strong",
    )
    return picture


def architecture() -> Picture:
    """Processes and their connections on several hosts."""
    picture = Picture(
        940,
        500,
        "Certcourier on several hosts",
        "Your provisioning system and DNSimple's webhook reach the web processes of any host through a proxy that "
        "terminates TLS. Web processes commit orders and events with their jobs to one PostgreSQL database. Workers of "
        "any host claim the jobs, query DNSimple by ID, and deliver to files, machines by SSH, secret stores, webhooks "
        "and commands. Hosts have no other connection to each other.",
    )
    picture.box(24, 70, 150, 56, "Provisioning", "orders, queries")
    picture.box(24, 320, 150, 56, "DNSimple", "API v2, webhooks")
    picture.box(226, 60, 76, 380, "Proxy", "TLS")
    for index, (top, name) in enumerate(((40, "Host A"), (270, "Host B, C, ..."))):
        picture.group(350, top, 170, 190, name)
        picture.box(370, top + 36, 130, 56, "web", "gunicorn, Flask", kind="ours")
        picture.box(370, top + 116, 130, 56, "worker", "certcourier worker", kind="ours")
        picture.arrow((302, top + 64), (370, top + 64))
        picture.arrow((500, top + 64), (590, 190 + 60 * index), both=True)
        picture.arrow((500, top + 144), (590, 230 + 60 * index), both=True)
    picture.box(
        590,
        165,
        140,
        150,
        "PostgreSQL",
        "orders, events, jobs,",
        "encrypted keys,",
        "quota, clock",
        kind="ours",
    )
    picture.arrow((174, 98), (226, 98))
    picture.arrow((174, 336), (226, 336))
    picture.text(200, 88, "orders")
    picture.text(200, 326, "events")
    picture.group(776, 40, 140, 330, "Destinations")
    for index, line in enumerate(("files", "SSH", "Vault", "Kubernetes", "AWS", "webhook", "command")):
        picture.box(791, 70 + 42 * index, 110, 34, line)
    picture.arrow((500, 440), (846, 440), (846, 370))
    picture.text(640, 432, "verified, newest only")
    picture.arrow((370, 420), (330, 420), (330, 468), (99, 468), (99, 376), both=True)
    picture.text(216, 460, "purchase, issue, download, key")
    picture.text(660, 350, "jobs: claimed with a lease,")
    picture.text(660, 367, "completed with their effects")
    picture.text(
        470,
        490,
        "On one machine: one web process, any number of workers, and SQLite instead of PostgreSQL.",
        "small strong",
    )
    return picture


PICTURES: dict[str, Callable[[], Picture]] = {"lifecycle": lifecycle, "architecture": architecture}

if __name__ == "__main__":
    for name, draw in PICTURES.items():
        (FOLDER / f"{name}.svg").write_text(draw().svg())
