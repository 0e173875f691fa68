"""Alerts by mail, Teams, PagerDuty, Telegram and others, through Apprise (the extra `alerts`).

Belongs here: one service that is named by a URL of Apprise, and keeping that URL secret. Does not
belong here: which alerts there are and who receives them (`alerts`).

https://appriseit.com
"""

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from datalake_assets.automation.sending import Attempt, send
from datalake_assets.collection.clock import Clock
from datalake_assets.settings import Settings, SettingsError

VARIABLE = "DATALAKE_ALERT_URLS"
SUBJECT = "US Equity Data Lake"
"""The title of an alert of one line; of a longer one, its first line is the title."""

_SENDING = threading.Lock()
_STATUS = re.compile(r"\berror=(\d{3})\b")
"""How Apprise logs the status that a service answered with."""


class Service:
    """A service that receives alerts.

    Its URL is a secret: it holds a password or a token. Errors and the repr contain only its
    position in the setting, and its scheme if that is one of Apprise's. What Apprise and urllib3
    log meanwhile is dropped, as they log URLs and answers. Of Apprise's messages only the HTTP
    status is kept.

    Args:
        url: The URL, as Apprise has it.
        position: Which one of the setting it is, from 1.
        attempts: How often a text is sent at most.
        timeout: Seconds for connecting, and for each answer, unless the URL has its own.
        clock: The clock that waits between attempts.

    Raises:
        SettingsError: Apprise is not installed, or can't use the URL.
    """

    def __init__(
        self,
        url: str,
        position: int = 1,
        attempts: int = 3,
        timeout: float = 3.0,
        clock: Clock | None = None,
    ) -> None:
        self._name = f"number {position}"
        self._attempts, self._clock = attempts, clock or Clock()
        if find_spec("apprise") is None:
            raise _wrong(
                "needs Apprise, which is not installed: pip install 'us-equity-datalake[alerts]'"
            )
        with _quiet():
            import apprise  # an extra, and heavy: only for those who have set the variable

            # Without threads of its own, and with URLs shortened wherever it shows them.
            asset = apprise.AppriseAsset(async_mode=False, secure_logging=True)
            known: set[str] = apprise.plugins.N_MGR.schemas()  # type: ignore[no-untyped-call]
            scheme = url.partition("://")[0].lower()
            # Any other word there may be a part of a secret, as in TOKEN://host.
            if scheme in known:
                self._name = f"{scheme}:// ({self._name})"
            service: Any = apprise.Apprise.instantiate(url, asset=asset)
            self._apprise = apprise.Apprise(asset=asset)
        if service is None:
            raise _wrong(
                f"has a URL that Apprise can't use: {self._name}; each service has its own form, "
                "see https://appriseit.com, and a space inside a URL is %20"
            )
        for name in ("socket_connect_timeout", "socket_read_timeout"):
            if name not in vars(service):  # the URL has none: cto=, rto=
                setattr(service, name, timeout)
        self._apprise.add(service)

    def __repr__(self) -> str:
        return f"Service({self._name})"

    def tell(self, text: str, good: bool = False) -> None:
        """Send a text; the first of several lines becomes the title, which is a mail's subject.

        Args:
            text: The text.
            good: Whether it is good news; services with severities show the other as a failure.

        Raises:
            AlertError: It was not delivered.
        """
        title, newline, body = text.partition("\n")
        title, body = (title.rstrip(":"), body) if newline else (SUBJECT, text)
        kind = "success" if good else "failure"

        def attempt() -> Attempt:
            with _quiet() as statuses:
                delivered = self._apprise.notify(
                    body, title=title, notify_type=kind, body_format="text"
                )
            if delivered:
                return Attempt.delivered()
            if statuses:
                return Attempt.answered(statuses[-1])
            return Attempt.failed("it was not reached, or refused")

        send(attempt, self._name, VARIABLE, self._attempts, self._clock)


def services(settings: Settings) -> list[Service]:
    """Those of the settings, in their order.

    Raises:
        SettingsError: Apprise is needed and not installed, or can't use one of the URLs.
    """
    return [Service(url, position) for position, url in enumerate(settings.alert_urls or (), 1)]


def _wrong(problem: str) -> SettingsError:
    return SettingsError([f"{VARIABLE} (not shown) {problem}"])


@contextmanager
def _quiet() -> Iterator[list[int]]:
    """Drop what is logged by Apprise, and by urllib3 for it; one service at a time.

    Yields:
        The HTTP statuses that Apprise logs inside the context.
    """
    statuses: list[int] = []

    def keep(record: logging.LogRecord) -> bool:
        if record.name == "apprise":
            statuses.extend(map(int, _STATUS.findall(record.getMessage())))
        return False

    with _SENDING:
        # A filter sees the records of its own logger only, so each one gets it.
        known = [name for name in logging.root.manager.loggerDict if name.startswith("urllib3")]
        loggers = [logging.getLogger(name) for name in ("apprise", *known)]
        for logger in loggers:
            logger.addFilter(keep)
        try:
            yield statuses
        finally:
            for logger in loggers:
                logger.removeFilter(keep)
