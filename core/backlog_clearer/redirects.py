"""HTTP requests by `urllib` that follow no redirect, since another host would get what they send.

Only modules that send such requests import this one, because it loads an HTTP client.
"""

from __future__ import annotations

import urllib.request
from typing import Any


class NoRedirects(urllib.request.HTTPRedirectHandler):
    """Leaves a redirect to the caller, as an `HTTPError`."""

    def redirect_request(self, *_: Any) -> None:
        """See `HTTPRedirectHandler`."""
