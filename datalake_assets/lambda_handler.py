"""The Lambda function: one session, collected where there is no Dagster.

Belongs here: the event, the time and memory that are left, and the answer. Does not belong here:
how a session is collected, judged and written (`publication`), which is the same everywhere.

It stops asking a minute before its end and keeps what it has as an incomplete session; invoked
again with the same event, it asks only for the rest. So however often it runs out of time, the
session is the same in the end. Nothing is written to /tmp but the 24 bytes of the rate limit.

When Dagster invokes it, it tells Dagster, too, through Pipes (`automation.lambda_session`).

https://docs.aws.amazon.com/lambda/latest/dg/python-handler.html
https://docs.dagster.io/guides/build/external-pipelines/aws/aws-lambda-pipeline
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, fields, replace
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Protocol

from datalake_assets import market_calendar
from datalake_assets.collection.audit import Finding, Thresholds
from datalake_assets.collection.clock import Clock
from datalake_assets.collection.errors import CollectionError
from datalake_assets.collection.report import State
from datalake_assets.collection.retry import RetryPolicy
from datalake_assets.collection.universe import inactive, symbols_for
from datalake_assets.lake.files import WrongLakeError
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.pipeline.listing import calendar_of, take_snapshot
from datalake_assets.pipeline.publication import CollectionOptions, Origin, Outcome, Publication
from datalake_assets.rate_limits.opening import TRADING_REQUESTS_PER_MINUTE, open_limiter
from datalake_assets.settings import Settings, SettingsError, read_symbols
from datalake_assets.sources.alpaca import DELAY, Account, AlpacaSource
from datalake_assets.sources.transport import Timeouts
from datalake_assets.storage import layout
from datalake_assets.storage.store import BrokenFileError, StoreError, open_store

if TYPE_CHECKING:
    from dagster_pipes import PipesContext

RESERVE = 60.0
"""Seconds before its end at which the function stops asking: the answers that are under way, the
audit and the write must fit in."""

TIMEOUTS = Timeouts(connect=5, read=15, total=40)
"""Of each request: one sent at the last moment must have ended before the reserve has."""

NEWEST = "newest"
"""In an event, in the place of a session: the newest whose bars can be had."""

PIPES = ("DAGSTER_PIPES_CONTEXT", "DAGSTER_PIPES_MESSAGES")
"""What Dagster's Pipes adds to an event."""

_SHOWN = 100

_TAIL = 3000
"""Bytes of what is told to Dagster, which finds it in the last 4 KB of the function's log, among
Lambda's own lines and those of Pipes."""

log = logging.getLogger(__name__)


class EventError(ValueError):
    """The event can't be used: which part, what it was, what is legal."""


class NoTimeError(RuntimeError):
    """The function has no time to ask for anything: what it needs."""


class LambdaContext(Protocol):
    """What the handler uses of the context that Lambda gives it."""

    memory_limit_in_mb: int | str
    aws_request_id: str

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until Lambda ends the function."""


@dataclass(frozen=True, slots=True)
class Request:
    """What an event asks for.

    Args:
        session: The session.
        symbols: The symbols to ask for; None for those of the settings, or the universe.
        thresholds: What the session must reach, where it is other than usual.
    """

    session: date
    symbols: tuple[str, ...] | None
    thresholds: Mapping[str, Any]

    @classmethod
    def of(cls, event: object, now: datetime) -> Request:
        """Read an event: `{"session": "2026-11-20", "symbols": ["AAPL"], "thresholds": {…}}`.

        Only the session is needed; `newest` stands for the newest that can be had.

        Args:
            event: What was given.
            now: The time, UTC: a session must have closed, and its bars be served.

        Raises:
            EventError: It has something else in it, or something that can't be.
        """
        if not isinstance(event, Mapping):
            raise EventError(f"the event must be an object, not {type(event).__name__}")
        legal = ("session", "symbols", "thresholds")
        if unknown := sorted(map(str, set(event) - {*legal, *PIPES})):
            raise EventError(f"unknown: {', '.join(unknown)}; an event has {', '.join(legal)}")
        return cls(
            _session(event.get("session"), now),
            _symbols(event.get("symbols")),
            _thresholds(event.get("thresholds")),
        )


def lambda_handler(event: object, context: LambdaContext) -> dict[str, Any]:
    """Collect a session and publish it, as far as the time that is left allows.

    A session that the lake holds is repaired: of a published one that lacks nothing, nothing is
    asked. One that knows fewer symbols than are wanted is collected whole.

    Args:
        event: What to collect (`Request.of`).
        context: Lambda's.

    Returns:
        `statusCode` and `body`, which is JSON. 200: the session is published. 207: it waits in
        `incomplete/`; with `pending` above 0 in the body's counts, invoke again with the same
        event. 400: the event can't be used. 500: nothing could be done; `error` says why.
    """
    if isinstance(event, Mapping) and PIPES[0] in event:
        with _pipes(event) as pipes:
            status, told = _handle(event, context)
            pipes.report_custom_message(_brief(status, told))
    else:
        status, told = _handle(event, context)
    return {"statusCode": status, "body": json.dumps(told)}


def _handle(event: object, context: LambdaContext) -> tuple[int, dict[str, Any]]:
    try:
        request = Request.of(event, Clock().now())
    except EventError as error:
        return 400, {"error": str(error)}
    try:
        outcome, lake = _collect(request, context)
    except _TOLD as error:
        log.exception("the session %s was not collected", request.session)
        return 500, {"session": request.session.isoformat(), "error": str(error)}
    told = _told(outcome, lake)
    log.info(json.dumps({name: told[name] for name in ("session", "published", "counts")}))
    return 200 if outcome.published else 207, told


def workers(memory_mb: int) -> int:
    """Threads for this much memory: one for each 128 MB, 50 at most, and always one.

    A function gets CPU in proportion to its memory.
    """
    return max(1, min(50, memory_mb // 128))


def _collect(request: Request, context: LambdaContext) -> tuple[Outcome, LakeWriter]:
    if not (seconds := _seconds(context)):
        raise NoTimeError(
            f"the last {RESERVE:.0f} seconds are kept for the answers under way, the audit and the "
            "write, and no more are left, so nothing was asked for: give the function a longer "
            "timeout, at most 900 seconds"
        )
    settings = Settings.load()
    account = _account(settings)
    lake = LakeWriter(open_store(settings.lake_uri))
    lake.claim(account.source)
    threads = workers(int(context.memory_limit_in_mb))
    # A request that fails to the end of this must still leave its reserve.
    retry = RetryPolicy(seconds=min(RESERVE, seconds))
    with closing(AlpacaSource(account, connections=threads, timeouts=TIMEOUTS)) as alpaca:
        trading = (TRADING_REQUESTS_PER_MINUTE, account.mark, "trading", settings.rate_limit)
        days = lake.universe_days()
        taken = days[-1] if days else None
        if taken is None or taken < request.session:
            with open_limiter(*trading) as limiter:
                taken, _, _ = take_snapshot(alpaca, lake, limiter, retry)
        chosen = request.symbols or (read_symbols(settings.symbols) if settings.symbols else None)
        wanted = (
            {request.session: chosen}
            if chosen
            else symbols_for([request.session], lake.snapshots())
        )
        origin = Origin(account.source, listed=taken, run_id=context.aws_request_id)
        per_minute = settings.requests_per_minute
        with open_limiter(per_minute, account.mark, "data", settings.rate_limit) as limiter:
            options = CollectionOptions(
                limiter=limiter,
                retry=retry,
                workers=threads,
                thresholds=replace(Thresholds.of_feed(settings.alpaca_feed), **request.thresholds),
            )
            # A repair of what an earlier invocation left, unless it was asked for fewer symbols.
            repair = _knows(lake, wanted)
            publication = Publication(
                wanted, lake, options, repair=repair, inactive=inactive(lake.universe_of(taken))
            )
            # What is left now: the lake was read meanwhile, which must take nothing of the reserve.
            left = _seconds(context)
            calendar = calendar_of(alpaca, lambda: open_limiter(*trading), retry)
            (outcome,) = publication.run(
                alpaca.bars(), origin, clock=Clock(), seconds=left, calendar=calendar
            )
    return outcome, lake


def _knows(lake: LakeWriter, wanted: Mapping[date, tuple[str, ...]]) -> bool:
    """Whether the lake's session has a state for each of these symbols."""
    ((day, symbols),) = wanted.items()
    with suppress(BrokenFileError):
        standing = lake.stored(day)
        return bool(standing and standing.session.ledger.symbols.issuperset(symbols))
    return False


def _seconds(context: LambdaContext) -> float:
    """Seconds for which it may ask."""
    return max(0.0, context.get_remaining_time_in_millis() / 1000 - RESERVE)


def _account(settings: Settings) -> Account:
    if not settings.alpaca_api_key or not settings.alpaca_secret_key:
        missing = "ALPACA_API_KEY and ALPACA_SECRET_KEY are not set: the function asks Alpaca only"
        raise SettingsError([missing])
    return Account(
        api_key=settings.alpaca_api_key,
        secret_key=settings.alpaca_secret_key,
        data_url=settings.alpaca_data_url,
        trading_url=settings.alpaca_trading_url,
        feed=settings.alpaca_feed,
    )


def _session(given: object, now: datetime) -> date:
    legal = f"`session` must be a trading session like 2026-11-20, or {NEWEST!r}"
    if not isinstance(given, str):
        raise EventError(f"{legal}, not {given!r}")
    try:
        if given == NEWEST:
            return market_calendar.latest_closed_session(now - DELAY)
        day = date.fromisoformat(given)
        # fromisoformat() alone would take "20261120" and "2026-W47-5".
        if day.isoformat() != given:
            raise ValueError("another form of a date")
        closed = market_calendar.why_closed(day)
    except ValueError as error:
        raise EventError(f"{legal}, not {given!r}: {error}") from error
    if closed:
        raise EventError(f"{legal}; {given} is {closed}")
    if (served := market_calendar.session_close(day) + DELAY) > now:
        raise EventError(f"{legal}; the bars of {given} are served from {served:%H:%M} UTC on")
    return day


def _symbols(given: object) -> tuple[str, ...] | None:
    if given is None:
        return None
    if not isinstance(given, list) or not given or not all(isinstance(one, str) for one in given):
        raise EventError(f'`symbols` must be a list like ["AAPL", "BRK.B"], not {given!r}')
    if any(one.startswith("@") or "," in one for one in given):
        raise EventError("`symbols` must be tickers: a file or a list in one text is not read here")
    try:
        return read_symbols(",".join(given))
    except SettingsError as error:
        raise EventError(f"`symbols`: {error}") from error


def _thresholds(given: object) -> Mapping[str, Any]:
    kinds = {field.name: type(field.default) for field in fields(Thresholds)}
    if given is None:
        return {}
    if not isinstance(given, Mapping) or set(given) - set(kinds):
        raise EventError(f"`thresholds` must be an object of {', '.join(kinds)}, not {given!r}")
    for name, value in given.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if kinds[name] is float and not (number and 0 <= value <= 1):
            raise EventError(f"`thresholds.{name}` must be a number from 0 to 1, not {value!r}")
        if kinds[name] is int and not (number and isinstance(value, int) and value >= 0):
            raise EventError(f"`thresholds.{name}` must be a whole number from 0, not {value!r}")
    return dict(given)


def _told(outcome: Outcome, lake: LakeWriter) -> dict[str, Any]:
    ledger = outcome.ledger
    key = layout.session_key if outcome.published else layout.incomplete_key
    return {
        "session": ledger.session.isoformat(),
        "published": outcome.published,
        "object": lake.store.url(key(ledger.session)) if outcome.written else None,
        "file_size_bytes": outcome.written.size if outcome.written else None,
        "counts": {state.value: ledger.counts[state] for state in State},
        "requested": ledger.requested,
        "asked": outcome.asked,
        "success_rate": ledger.success_rate,
        "audit": [_finding(finding) for finding in outcome.findings],
        "statistics": outcome.statistics.to_dict(),
        "failures": dict(list(outcome.failed.items())[:_SHOWN]),
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return asdict(finding) | {"verdict": finding.verdict.value}


def _pipes(event: Mapping[str, Any]) -> PipesContext:
    """Where Dagster is told.

    Not opened by `open_dagster_pipes`: that remembers the first one of the process, which is closed
    when Lambda uses the process again.
    """
    from dagster_pipes import (
        PipesContext,
        PipesDefaultContextLoader,
        PipesDefaultMessageWriter,
        PipesMappingParamsLoader,
    )

    return PipesContext(
        PipesMappingParamsLoader(event), PipesDefaultContextLoader(), PipesDefaultMessageWriter()
    )


def _brief(status: int, told: Mapping[str, Any]) -> dict[str, Any]:
    """The status and the answer, without what is too long for the end of a log."""
    brief = {"status": status, **told}
    if "error" in told:
        brief["error"] = _cut(told["error"], _TAIL // 2)
        return brief
    brief["audit"] = [
        {
            **{name: finding[name] for name in ("rule", "verdict", "value", "threshold")},
            **({} if finding["verdict"] == "pass" else {"detail": _cut(finding["detail"], 200)}),
        }
        for finding in told["audit"]
    ]
    brief["failures"] = {}
    for symbol, error in told["failures"].items():
        more = brief["failures"] | {symbol: _cut(error, 160)}
        if len(json.dumps(brief | {"failures": more})) > _TAIL:
            break
        brief["failures"] = more
    return brief


def _cut(text: str, size: int) -> str:
    """The text, or its beginning, so that it takes no more than this in JSON."""
    while len(json.dumps(text)) > size:
        text = f"{text[: len(text) * 9 // 10 - 1]}…"
    return text


_TOLD = (
    SettingsError,
    NoTimeError,
    CollectionError,
    StoreError,
    WrongLakeError,
    BrokenFileError,
    OSError,
)
"""What may go wrong; anything else is a defect, which Lambda counts as a failed invocation."""
