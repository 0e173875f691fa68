"""The Lambda function: collects one session without Dagster.

Belongs here: the event, the remaining time and memory, and the answer. Does not belong here: how a
session is collected, audited and written (`pipeline.publication`), which is the same everywhere.

It stops sending requests a minute before its end and keeps what it has as an incomplete session.
When invoked again with the same event, it requests only the rest. So however often it runs out of
time, the session is the same in the end. Several invocations, side by side or one after another,
can each collect a range of the symbols: the one that brings the last of them publishes the session.
Only the 24 bytes of the rate limit are written to /tmp.

When Dagster invokes it, it also reports to Dagster, through Pipes (`automation.lambda_session`).

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
from datalake_assets.collection.audit import Finding
from datalake_assets.collection.clock import Clock
from datalake_assets.collection.dataset import DAILY, MINUTE, Dataset, minute_dataset
from datalake_assets.collection.errors import CollectionError, PermanentError
from datalake_assets.collection.report import State
from datalake_assets.collection.retry import RetryPolicy
from datalake_assets.collection.universe import inactive, symbols_for
from datalake_assets.lake.coverage import loss
from datalake_assets.lake.files import WrongLakeError
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.pipeline.density import by_daily_bars
from datalake_assets.pipeline.listing import calendar_of, take_snapshot
from datalake_assets.pipeline.publication import CollectionOptions, Origin, Outcome, Publication
from datalake_assets.rate_limits.opening import TRADING_REQUESTS_PER_MINUTE, open_limiter
from datalake_assets.settings import Settings, SettingsError, read_symbols
from datalake_assets.sources.alpaca import DELAY, Account, AlpacaSource
from datalake_assets.sources.transport import Timeouts
from datalake_assets.storage.store import BrokenFileError, StoreError, open_store

if TYPE_CHECKING:
    from dagster_pipes import PipesContext

RESERVE = 60.0
"""How many seconds before its end the function stops sending requests: enough for pending answers,
the audit and the write."""

TIMEOUTS = Timeouts(connect=5, read=15, total=40)
"""Timeouts of each request: one sent at the last moment must end within the reserve."""

NEWEST = "newest"
"""In an event, instead of a session: the newest one that can be collected."""

PIPES = ("DAGSTER_PIPES_CONTEXT", "DAGSTER_PIPES_MESSAGES")
"""The keys that Dagster's Pipes adds to an event."""

_DATASETS = {dataset.name: dataset for dataset in (DAILY, MINUTE)}

_SHOWN = 100

_TAIL = 3000
"""The size limit of the report to Dagster, in bytes. Dagster reads it from the last 4 KB of the
function's log, which also has lines of Lambda and Pipes."""

log = logging.getLogger(__name__)


class EventError(ValueError):
    """The event is invalid. The message names the part, its value and what is valid."""


class NoTimeError(RuntimeError):
    """The function has no time to send a request. The message says how much it needs."""


class LambdaContext(Protocol):
    """The part of Lambda's context that the handler uses."""

    memory_limit_in_mb: int | str
    aws_request_id: str

    def get_remaining_time_in_millis(self) -> int:
        """The milliseconds until Lambda ends the function."""


@dataclass(frozen=True, slots=True)
class SymbolRange:
    """The symbols from one to another, both included, in alphabetical order.

    Args:
        first: The first one; None for no bound.
        last: The last one; None for no bound.
    """

    first: str | None
    last: str | None

    def __contains__(self, symbol: str) -> bool:
        return (self.first is None or self.first <= symbol) and (
            self.last is None or symbol <= self.last
        )


@dataclass(frozen=True, slots=True)
class Request:
    """A valid event.

    Args:
        session: The session.
        symbols: The symbols to request; None for those of the settings, or the universe.
        thresholds: Thresholds of the audit that differ from the defaults.
        dataset: The name of the dataset: `daily` or `minute`.
        part: The range of these symbols that this invocation collects; None for all of them.
        newest: Whether the event said `newest`: a session that is not served yet is then none.
    """

    session: date
    symbols: tuple[str, ...] | None
    thresholds: Mapping[str, Any]
    dataset: str = DAILY.name
    part: SymbolRange | None = None
    newest: bool = False

    @classmethod
    def of(cls, event: object, now: datetime) -> Request:
        """Read an event: `{"session": "2026-11-20", "symbols": ["AAPL"], "thresholds": {…}}`.

        Only the session is required; `newest` means the newest one that can be collected. With
        `"dataset": "minute"` its minute bars are collected. With `"symbols_from": "A"` or
        `"symbols_to": "CZZZ"` or both, only the symbols of this range are; the session is published
        when other invocations have brought the others.

        Args:
            event: The event.
            now: The time, UTC: the session must have closed, and its bars must be served.

        Raises:
            EventError: It has unknown keys or invalid values.
        """
        if not isinstance(event, Mapping):
            raise EventError(f"the event must be an object, not {type(event).__name__}")
        legal = ("session", "symbols", "thresholds", "dataset", "symbols_from", "symbols_to")
        if unknown := sorted(map(str, set(event) - {*legal, *PIPES})):
            raise EventError(f"unknown: {', '.join(unknown)}; an event has {', '.join(legal)}")
        dataset = _dataset(event.get("dataset", DAILY.name))
        return cls(
            _session(event.get("session"), now),
            _symbols(event.get("symbols")),
            _thresholds(event.get("thresholds"), dataset),
            dataset,
            _part(event.get("symbols_from"), event.get("symbols_to")),
            newest=event.get("session") == NEWEST,
        )


def lambda_handler(event: object, context: LambdaContext) -> dict[str, Any]:
    """Collect a session and publish it, as far as the remaining time allows.

    A session that is in the lake is repaired; for a complete published session nothing is
    requested. A session with fewer symbols than requested is collected from scratch, unless chosen
    symbols would replace a session of many.

    Args:
        event: What to collect (`Request.of`).
        context: Lambda's context.

    Returns:
        `statusCode` and `body`, which is JSON. 200: the session is published. 207: it is in
        `incomplete/`; if `pending` in the body's counts is above 0, invoke again with the same
        event. Of an event with a range of symbols, `range.missing` in the body says how many of
        them failed or are pending: if there are none, it is for the events of the other ranges to
        finish the session. 400: the event is invalid. 500: the collection failed; `error` says why.
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
    except EventError as error:  # by the settings
        return 400, {"error": str(error)}
    except _TOLD as error:
        log.exception("the session %s was not collected", request.session)
        return 500, {"session": request.session.isoformat(), "error": str(error)}
    told = _told(outcome, lake, request.part)
    log.info(json.dumps({name: told[name] for name in ("session", "published", "counts")}))
    return 200 if outcome.published else 207, told


def workers(memory_mb: int) -> int:
    """The number of threads for this much memory: one per 128 MB, from 1 to 50.

    A function gets CPU in proportion to its memory.
    """
    return max(1, min(50, memory_mb // 128))


def _collect(request: Request, context: LambdaContext) -> tuple[Outcome, LakeWriter]:
    if not (seconds := _seconds(context)):
        raise NoTimeError(
            f"nothing was requested: the last {RESERVE:.0f} seconds are reserved for pending "
            "answers, the audit and the write, and no more are left. Give the function a longer "
            "timeout, at most 900 seconds"
        )
    settings = Settings.load()
    account = _account(settings)
    request, dataset = _served(request, settings, Clock().now())
    lake = LakeWriter(open_store(settings.lake_uri), dataset=dataset)
    lake.claim(account.source)
    threads = workers(int(context.memory_limit_in_mb))
    # A request that retries until the deadline must still leave the reserve.
    retry = RetryPolicy(seconds=min(RESERVE, seconds))
    with closing(AlpacaSource(account, connections=threads, timeouts=TIMEOUTS)) as alpaca:
        trading = (TRADING_REQUESTS_PER_MINUTE, account.mark, "trading", settings.rate_limit)
        days = lake.universe_days()
        taken = days[-1] if days else None
        if taken is None or taken < request.session:
            with open_limiter(*trading) as limiter:
                taken, _, _ = take_snapshot(alpaca, lake, limiter, retry)
        chosen = request.symbols or settings.read_symbols(minutes=dataset.several)
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
                thresholds=replace(
                    dataset.limits.of_feed(settings.alpaca_feed), **request.thresholds
                ),
            )
            part = request.part
            # A repair of an earlier invocation's session, unless that requested fewer symbols.
            repair = part is not None or _knows(lake, wanted)
            if chosen and not repair and (found := loss(lake, [request.session], chosen)):
                raise PermanentError(
                    f"{found}. Add the symbols that it lacks with datalake collect --session "
                    f"{request.session} --repair, or give the chosen symbols a lake of their own"
                )
            publication = Publication(
                wanted,
                lake,
                options,
                expected=None if dataset is DAILY else by_daily_bars(lake.of(DAILY), dataset),
                repair=repair,
                inactive=inactive(lake.universe_of(taken)),
                part=None if part is None else part.__contains__,
            )
            # Computed after reading the lake, which must not use up the reserve.
            left = _seconds(context)
            calendar = calendar_of(alpaca, lambda: open_limiter(*trading), retry)
            (outcome,) = publication.run(
                alpaca.bars(dataset), origin, clock=Clock(), seconds=left, calendar=calendar
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
    """The seconds in which it may send requests."""
    return max(0.0, context.get_remaining_time_in_millis() / 1000 - RESERVE)


def _account(settings: Settings) -> Account:
    if not settings.alpaca_api_key or not settings.alpaca_secret_key:
        missing = (
            "ALPACA_API_KEY and ALPACA_SECRET_KEY are not set: the function collects only "
            "from Alpaca"
        )
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
        # fromisoformat() also accepts "20261120" and "2026-W47-5".
        if day.isoformat() != given:
            raise ValueError("not in the form YYYY-MM-DD")
        closed = market_calendar.why_closed(day)
    except ValueError as error:
        raise EventError(f"{legal}, not {given!r}: {error}") from error
    if closed:
        raise EventError(f"{legal}; {given} is {closed}")
    if (served := market_calendar.session_close(day) + DELAY) > now:
        raise EventError(f"{legal}; the bars of {given} are served from {served:%H:%M} UTC")
    return day


def _dataset(given: object) -> str:
    if given not in tuple(_DATASETS):
        raise EventError(f"`dataset` must be {' or '.join(_DATASETS)}, not {given!r}")
    return str(given)


def _part(first: object, last: object) -> SymbolRange | None:
    for name, given in (("symbols_from", first), ("symbols_to", last)):
        if given is not None and not (isinstance(given, str) and given):
            raise EventError(f'`{name}` must be a ticker or its beginning, like "C", not {given!r}')
    if first is None and last is None:
        return None
    found = SymbolRange(*(str(each).upper() if each else None for each in (first, last)))
    if found.first and found.last and found.last < found.first:
        raise EventError(
            f"`symbols_to` must not be before `symbols_from`: {found.last} is before {found.first}"
        )
    return found


def _served(request: Request, settings: Settings, now: datetime) -> tuple[Request, Dataset]:
    """What an event asks for by the hours of the settings, which end later than the session may.

    Returns:
        The request, whose `newest` session is one that is served by now; and its dataset.

    Raises:
        EventError: The settings have no minute bars, or those of the session are not served yet.
    """
    if request.dataset == DAILY.name:
        return request, DAILY
    found = minute_dataset(settings.minutes)
    if found is None:
        raise EventError("minute bars are off: set DATALAKE_MINUTES to regular or extended")
    served = found.hours(request.session).end + DELAY
    if served > now and request.newest:
        (before,) = market_calendar.previous_sessions(request.session, 1)
        return replace(request, session=before), found
    if served > now:
        raise EventError(
            f"the minute bars of {request.session} are served from {served:%Y-%m-%d %H:%M} UTC"
        )
    return request, found


def _symbols(given: object) -> tuple[str, ...] | None:
    if given is None:
        return None
    if not isinstance(given, list) or not given or not all(isinstance(one, str) for one in given):
        raise EventError(f'`symbols` must be a list like ["AAPL", "BRK.B"], not {given!r}')
    if any(one.startswith("@") or "," in one for one in given):
        raise EventError("`symbols` must be tickers, not a file or a comma-separated text")
    try:
        return read_symbols(",".join(given))
    except SettingsError as error:
        raise EventError(f"`symbols`: {error}") from error


def _thresholds(given: object, dataset: str) -> Mapping[str, Any]:
    kinds = {field.name: type(field.default) for field in fields(_DATASETS[dataset].limits)}
    if given is None:
        return {}
    if not isinstance(given, Mapping) or set(given) - set(kinds):
        raise EventError(
            f"`thresholds` of {dataset} bars must be an object of {', '.join(kinds)}, not {given!r}"
        )
    for name, value in given.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if kinds[name] is float and not (number and 0 <= value <= 1):
            raise EventError(f"`thresholds.{name}` must be a number from 0 to 1, not {value!r}")
        if kinds[name] is int and not (number and isinstance(value, int) and value >= 0):
            raise EventError(f"`thresholds.{name}` must be a whole number from 0, not {value!r}")
    return dict(given)


def _told(outcome: Outcome, lake: LakeWriter, part: SymbolRange | None) -> dict[str, Any]:
    ledger = outcome.ledger
    key = lake.session_key if outcome.published else lake.incomplete_key
    told: dict[str, Any] = {
        "session": ledger.session.isoformat(),
        "dataset": lake.dataset.name,
        "published": outcome.published,
        "object": lake.store.url(key(ledger.session)) if outcome.written else None,
        "file_size_bytes": outcome.written.size if outcome.written else None,
        "rows": outcome.rows,
        "counts": {state.value: ledger.counts[state] for state in State},
        "requested": ledger.requested,
        "asked": outcome.asked,
        "success_rate": ledger.success_rate,
        "audit": [_finding(finding) for finding in outcome.findings],
        "statistics": outcome.statistics.to_dict(),
        "failures": dict(list(outcome.failed.items())[:_SHOWN]),
    }
    if part is not None:
        missing = sum(symbol in part for symbol in ledger.missing)
        told["range"] = {"from": part.first, "to": part.last, "missing": missing}
    return told


def _finding(finding: Finding) -> dict[str, Any]:
    return asdict(finding) | {"verdict": finding.verdict.value}


def _pipes(event: Mapping[str, Any]) -> PipesContext:
    """The connection to Dagster.

    It is not opened by `open_dagster_pipes`, which remembers the first connection of the process.
    That one is closed when Lambda uses the process again.
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
    """The status and the answer, shortened to fit the end of a log."""
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
    """The text, shortened to at most this many bytes as JSON."""
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
"""Expected errors; any other is a defect, which Lambda counts as a failed invocation."""
