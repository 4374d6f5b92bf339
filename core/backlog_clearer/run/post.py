"""Post a text to the URL that a job's results go to.

`notify` imports this module when something is to be posted, because it loads an HTTP client.
"""

from __future__ import annotations

import http.client
import logging
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import partial
from typing import Any

from backlog_clearer import __version__
from backlog_clearer.deadline import within
from backlog_clearer.errors import BrokerError, TransientError
from backlog_clearer.options.hooks import place_of
from backlog_clearer.redaction.redact import redacted
from backlog_clearer.redirects import NoRedirects
from backlog_clearer.run.job import Job
from backlog_clearer.run.retry import repeated
from backlog_clearer.run.stopping import Stopping

ANSWER_S = 10.0
"""How long one attempt may take; with the attempts that `repeated` makes, 20 s are the most in all."""

_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})  # answers after which a repetition may help
_REDIRECTS = range(300, 400)
_LOG = logging.getLogger("backlog_clearer")


def posted(job: Job, text: str, halted: Callable[[], bool]) -> str | None:
    """Why the text was not delivered, which is logged; None: it was, or the job names no URL."""
    url, secret = job.run.notify, job.run.notify_authorization
    if url is None:
        return None
    request = urllib.request.Request(  # noqa: S310 the option allows only http and https
        url,
        data=redacted(text, values=False).encode(),
        headers={"Content-Type": "application/json", "User-Agent": f"backlog-clearer/{__version__}"},
        method="POST",
    )
    if secret is not None:
        request.add_unredirected_header("Authorization", secret.get_secret_value())
    try:
        post = partial(repeated, "notification", partial(_send, request), halted=halted)
        Stopping("it", halted).call("the post", post)
    except BrokerError as error:
        why = str(error).rstrip(".")
        fault = redacted(f"The result could not be posted to {place_of(url)}: {why}.")
        _LOG.warning("%s", fault)
        return fault
    return None


def _send(request: urllib.request.Request) -> None:
    """One attempt; raises `TransientError` where another may succeed, and `BrokerError`."""
    try:
        within(ANSWER_S, partial(_answered, request))
    except urllib.error.HTTPError as error:
        if error.code in _REDIRECTS:
            raise BrokerError(
                f"it answered HTTP {error.code}, and redirects are not followed; name the final URL"
            ) from None
        kind = TransientError if error.code in _PASSING else BrokerError
        raise kind(f"it answered HTTP {error.code}") from None
    except urllib.error.URLError as error:
        raise _unreached(error.reason) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _unreached(error) from None


def _unreached(reason: Any) -> BrokerError:
    """What a failure of the connection means."""
    if isinstance(reason, ssl.SSLCertVerificationError):
        return BrokerError(f"its certificate is not trusted ({reason.verify_message})")
    if isinstance(reason, ssl.SSLError) and not isinstance(reason, ssl.SSLEOFError):
        return BrokerError(f"it does not speak TLS as expected ({reason.reason or 'no reason given'})")
    if isinstance(reason, TimeoutError):
        return TransientError(f"no answer within {ANSWER_S:.0f} s")
    if isinstance(reason, http.client.HTTPException):
        return TransientError(f"its answer is not HTTP ({type(reason).__name__})")
    return TransientError(getattr(reason, "strerror", None) or f"{type(reason).__name__}")


def _answered(request: urllib.request.Request) -> None:
    handlers: list[urllib.request.BaseHandler] = [NoRedirects()]
    if request.type == "https":  # the authorities take 0.1 s to load
        handlers.append(urllib.request.HTTPSHandler(context=ssl.create_default_context()))
    urllib.request.build_opener(*handlers).open(request, timeout=ANSWER_S).close()
