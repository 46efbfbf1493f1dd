"""Sends one message by Apprise; run by `notifier`, with its input as JSON on standard input.

Exit status: 0 sent, 1 the service did not accept it, 2 Apprise does not know the service.
"""

from __future__ import annotations

import json
import sys

from apprise import Apprise, AppriseAsset, NotifyType


def main() -> int:
    """Send the message."""
    message = json.load(sys.stdin)
    asset = AppriseAsset(app_id="Certcourier", app_desc="Certcourier", app_url="", secure_logging=True)
    apprise = Apprise(asset=asset)
    if not apprise.add(message["url"]):
        return 2
    kind = NotifyType.SUCCESS if message["good"] else NotifyType.WARNING
    return 0 if apprise.notify(body=message["body"], title=message["title"], notify_type=kind) else 1


if __name__ == "__main__":
    sys.exit(main())
