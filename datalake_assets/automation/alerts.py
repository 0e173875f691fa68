"""Alerts: messages to people, by a webhook in Slack's format, when something is wrong.

Belongs here: sending a text, and the sensor that reports failed runs. Does not belong here: when
a lake is stale (`freshness`, which sends its own texts with this).

https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks
"""

import html
import json
import threading
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import quote, urlsplit

import dagster as dg

from datalake_assets.assets.daily_ticks import KEY as DAILY_TICKS
from datalake_assets.assets.failure import reason as reason_of
from datalake_assets.assets.symbol_year_ticks import KEY as SYMBOL_YEAR_TICKS
from datalake_assets.assets.year_ticks import KEY as YEAR_TICKS
from datalake_assets.automation import runs
from datalake_assets.automation.jobs import repair_job, sensor_status
from datalake_assets.automation.sensors import COLLECTING, YEARS_JOBS
from datalake_assets.collection.clock import Clock
from datalake_assets.settings import Settings

LINES, WIDTH = 8, 500
"""How many lines of a run's reason are sent, and how many characters of each."""


class AlertError(RuntimeError):
    """An alert could not be sent."""


class Webhook:
    """The webhook that receives alerts.

    Its URL is a secret, so errors and logs contain only the host. That is why it is called with the
    standard library's client: urllib3 logs the path of each request, at warning level when it
    retries.

    Args:
        address: The webhook's URL.
        attempts: How often a text is sent at most.
        timeout: Seconds for connecting, and for the answer. All attempts together must take a
            fraction of the minute that Dagster gives to a tick, in which up to five failed runs are
            reported.
        clock: The clock that waits between attempts.
    """

    def __init__(
        self, address: str, attempts: int = 3, timeout: float = 3.0, clock: Clock | None = None
    ) -> None:
        self._parts = urlsplit(address)
        self._attempts, self._timeout, self._clock = attempts, timeout, clock or Clock()

    def __repr__(self) -> str:
        return f"Webhook({self._parts.hostname})"

    def tell(self, text: str) -> None:
        """Send a text. An answer of 2xx means that it was delivered.

        Raises:
            AlertError: It was not delivered.
        """
        # Slack treats these three characters as markup.
        body = json.dumps({"text": html.escape(text, quote=False)}).encode()
        for attempt in range(1, self._attempts + 1):
            cause: Exception | None = None
            try:
                status = self._post(body)
                if 200 <= status < 300:
                    return
                reason, may_pass = f"it answered HTTP {status}", status == 429 or status >= 500
            except (OSError, HTTPException) as error:
                cause, may_pass = error, True
                reason = f"it could not be reached: {type(error).__name__}: {error}"
            if not may_pass or attempt == self._attempts:
                raise AlertError(
                    f"an alert could not be sent to {self._parts.hostname} (attempt {attempt} of "
                    f"{self._attempts}): {reason}; check DATALAKE_ALERT_WEBHOOK"
                ) from cause
            self._clock.wait(0.5 * attempt, threading.Event())

    def _post(self, body: bytes) -> int:
        """The status of one attempt. Redirects are not followed: they would drop the body."""
        kind = HTTPSConnection if self._parts.scheme == "https" else HTTPConnection
        connection = kind(self._parts.netloc.rpartition("@")[2], timeout=self._timeout)
        try:
            # Quoted, as the error about an invalid character would show the whole path.
            path = quote(self._parts.path or "/", safe="/%:@!$&'()*+,;=~")
            if self._parts.query:
                path += "?" + quote(self._parts.query, safe="/%:@!$&'()*+,;=~?")
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            return connection.getresponse().status
        finally:
            connection.close()


def webhook(settings: Settings) -> Webhook | None:
    """The webhook of the settings; None if there is none."""
    return Webhook(settings.alert_webhook) if settings.alert_webhook else None


def build_failure_sensor(settings: Settings) -> dg.SensorDefinition:
    """The sensor that reports each failed run; it starts automatically if there is a webhook.

    Runs of `datalake` in a terminal are not reported: the user sees them fail.

    Args:
        settings: The webhook, and whether sensors start automatically.
    """
    receiver = webhook(settings)
    status = sensor_status(settings) if receiver else dg.DefaultSensorStatus.STOPPED

    @dg.run_failure_sensor(
        name="failed_runs",
        default_status=status,
        description="Send an alert to the webhook (DATALAKE_ALERT_WEBHOOK) for each failed run, "
        "with the reason and the command to run.",
    )
    def failed_runs(context: dg.RunFailureSensorContext) -> dg.SkipReason | None:
        if receiver is None:
            return dg.SkipReason("DATALAKE_ALERT_WEBHOOK is not set: no alert is sent")
        if runs.TERMINAL in context.dagster_run.tags:
            return dg.SkipReason("the run was started in a terminal, where its failure is shown")
        receiver.tell(failure_text(context))
        return None

    return failed_runs


def failure_text(context: dg.RunFailureSensorContext) -> str:
    """The text about a failed run: job, partitions, reason, run, and the command to run."""
    run = context.dagster_run
    about = runs.partitions_of(run.tags)
    which = f" of {about[0]}" if about else ""
    if len(about) > 1:
        which = f" of {about[0]} … {about[-1]}"
    reasons = [reason_of(event) for event in context.get_step_failure_events()]
    # A run can fail outside its steps: its process was killed, or never started.
    reason = "\n".join(reasons) or context.failure_event.message or "no reason given"
    lines = [line[:WIDTH] for line in reason.splitlines() if line.strip()]
    if len(lines) > LINES:
        lines[LINES - 1 :] = ["…"]
    again = ""
    if purpose := run.tags.get(runs.PURPOSE):
        again = f"\nA sensor requested it ({purpose}), and retries automatically until it gives up."
    return (
        f"{run.job_name}{which} failed:\n"
        + "\n".join(lines)
        + f"\nRun {run.run_id}{again}\n{_advice(run, about)}"
    )


def _advice(run: dg.DagsterRun, about: list[str]) -> str:
    assets = run.asset_selection or frozenset()
    if about and (run.job_name in YEARS_JOBS or assets & {SYMBOL_YEAR_TICKS, YEAR_TICKS}):
        return "Run: " + "; ".join(f"datalake publish --year {year}" for year in about[:LINES])
    if about and (run.job_name in COLLECTING or DAILY_TICKS in assets):
        if len(about) > 1:
            return f"Run: datalake backfill --from {about[0]} --to {about[-1]}"
        repair = " --repair" if run.job_name == repair_job.name else ""
        return f"Run: datalake collect --session {about[0]}{repair}"
    return "See the run in Dagster's UI."
