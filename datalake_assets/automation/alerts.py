"""Alerts: messages to people when something is wrong.

Belongs here: who receives them, the webhook in Slack's format, and the sensor that reports failed
runs. Does not belong here: the other services (`services`), and when a lake is stale (`freshness`,
which sends its own texts with this).

https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks
"""

import html
import json
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import quote, urlsplit

import dagster as dg

from datalake_assets.assets.failure import reason as reason_of
from datalake_assets.assets.failure import run_reason
from datalake_assets.assets.session_ticks import DAILY_TICKS, MINUTE_TICKS
from datalake_assets.assets.symbol_year_ticks import KEY as SYMBOL_YEAR_TICKS
from datalake_assets.assets.year_ticks import KEY as YEAR_TICKS
from datalake_assets.automation import runs
from datalake_assets.automation.jobs import OUR_JOBS, Jobs, sensor_status
from datalake_assets.automation.sending import AlertError, Attempt, send
from datalake_assets.automation.sensors import REPAIR
from datalake_assets.automation.services import Service, services
from datalake_assets.collection.clock import Clock
from datalake_assets.settings import Settings

LINES, WIDTH = 8, 500
"""How many lines of a run's reason are sent, and how many characters of each."""


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

    def tell(self, text: str, good: bool = False) -> None:
        """Send a text. An answer of 2xx means that it was delivered.

        Args:
            text: The text.
            good: Whether it is good news; makes no difference here.

        Raises:
            AlertError: It was not delivered.
        """
        # Slack treats these three characters as markup.
        body = json.dumps({"text": html.escape(text, quote=False)}).encode()

        def attempt() -> Attempt:
            try:
                status = self._post(body)
            except (OSError, HTTPException) as error:
                reason = f"it could not be reached: {type(error).__name__}: {error}"
                return Attempt.failed(reason, error)
            return Attempt.delivered() if 200 <= status < 300 else Attempt.answered(status)

        host = str(self._parts.hostname)
        send(attempt, host, "DATALAKE_ALERT_WEBHOOK", self._attempts, self._clock)

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


NOBODY = "neither DATALAKE_ALERT_WEBHOOK nor DATALAKE_ALERT_URLS is set"


class Receivers:
    """Everybody who receives alerts.

    Args:
        receivers: At least one.
    """

    def __init__(self, *receivers: Webhook | Service) -> None:
        self._receivers = receivers

    def __repr__(self) -> str:
        return f"Receivers{self._receivers!r}"

    def tell(self, text: str, good: bool = False) -> None:
        """Send a text to each of them, also when one can't be reached.

        Args:
            text: The text.
            good: Whether it is good news.

        Raises:
            AlertError: At least one did not get it. `delivered` tells whether another one did.
        """
        errors = []
        for receiver in self._receivers:
            try:
                receiver.tell(text, good)
            except AlertError as error:
                errors.append(error)
        if errors:
            delivered = len(errors) < len(self._receivers)
            raise AlertError("; ".join(map(str, errors)), delivered) from errors[0]


def receivers(settings: Settings) -> Receivers | None:
    """Those of the settings; None if there are none.

    Raises:
        SettingsError: Apprise is needed and not installed, or can't use one of its URLs.
    """
    found: list[Webhook | Service] = []
    if settings.alert_webhook:
        found.append(Webhook(settings.alert_webhook))
    found += services(settings)
    return Receivers(*found) if found else None


def build_failure_sensor(settings: Settings, jobs: Jobs = OUR_JOBS) -> dg.SensorDefinition:
    """The sensor that reports each failed run; it starts automatically if there is a receiver.

    Runs of `datalake` in a terminal are not reported: the user sees them fail.

    Args:
        settings: The receivers, and whether sensors start automatically.
        jobs: The lake's jobs.
    """
    told = receivers(settings)
    status = sensor_status(settings) if told else dg.DefaultSensorStatus.STOPPED

    @dg.run_failure_sensor(
        name=jobs.names.of("failed_runs"),
        default_status=status,
        description="Send an alert for each failed run (DATALAKE_ALERT_WEBHOOK, "
        "DATALAKE_ALERT_URLS), with the reason and the command to run.",
    )
    def failed_runs(context: dg.RunFailureSensorContext) -> dg.SkipReason | None:
        if told is None:
            return dg.SkipReason(f"{NOBODY}: no alert is sent")
        if jobs.names.lake and not jobs.made(context.dagster_run):
            return dg.SkipReason(f"the run is not of the lake {jobs.names.lake}")
        if runs.TERMINAL in context.dagster_run.tags:
            return dg.SkipReason("the run was started in a terminal, where its failure is shown")
        told.tell(failure_text(context, jobs))
        return None

    return failed_runs


def failure_text(context: dg.RunFailureSensorContext, jobs: Jobs = OUR_JOBS) -> str:
    """The text about a failed run: job, partitions, reason, run, and the command to run."""
    run = context.dagster_run
    about = runs.partitions_of(run.tags)
    which = f" of {about[0]}" if about else ""
    if len(about) > 1:
        which = f" of {about[0]} … {about[-1]}"
    reasons = [reason_of(event) for event in context.get_step_failure_events()]
    reason = "\n".join(reasons) or run_reason(context.failure_event)
    lines = [line[:WIDTH] for line in reason.splitlines() if line.strip()]
    if len(lines) > LINES:
        lines[LINES - 1 :] = ["…"]
    again = ""
    if purpose := run.tags.get(runs.PURPOSE):
        again = f"\nA sensor requested it ({purpose}), and retries automatically until it gives up."
    return (
        f"{run.job_name}{which} failed:\n"
        + "\n".join(lines)
        + f"\nRun {run.run_id}{again}\n{_advice(run, about, jobs)}"
    )


def _advice(run: dg.DagsterRun, about: list[str], jobs: Jobs) -> str:
    assets, key = run.asset_selection or frozenset(), jobs.names.key
    for asset, job in (SYMBOL_YEAR_TICKS, jobs.symbol_year_ticks), (YEAR_TICKS, jobs.year_ticks):
        if about and (run.job_name == job.name or key(asset) in assets):
            return "Run: " + "; ".join(
                jobs.names.command(f"datalake publish --year {year}", asset, year)
                for year in about[:LINES]
            )
    for asset, collecting, option in (
        (DAILY_TICKS, jobs.collecting, ""),
        (MINUTE_TICKS, jobs.collecting_minutes, " --minutes"),
    ):
        if not about or not (run.job_name in collecting or key(asset) in assets):
            continue
        if len(about) > 1:
            ours = f"datalake backfill{option} --from {about[0]} --to {about[-1]}"
            return f"Run: {jobs.names.command(ours, asset, about[0], about[-1])}"
        # A repair of minute bars runs in the job that collects them.
        repair = run.job_name == jobs.repair.name or (
            run.tags.get(runs.PURPOSE) == jobs.names.purpose(REPAIR)
        )
        ours = f"datalake collect{option} --session {about[0]}{' --repair' * repair}"
        return f"Run: {jobs.names.command(ours, asset, about[0], repair=repair)}"
    return "See the run in Dagster's UI."
