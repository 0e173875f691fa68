"""Alpaca, through alpaca-py: its models, authentication and URLs; our transport and decoding.

Belongs here: the requests to Alpaca and the meaning of its answers. Does not belong here: which
requests to send, how fast, and whether to retry (`collection`).

alpaca-py's own transport has no timeout, a pool of ten connections and retries that ignore the
server, and its models decode 14 to 28 times slower than `pages`. So its clients are subclassed
at the one method that sends a request. That method is private, so the version is pinned, and a
contract test checks the members that we rely on.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from email.utils import parsedate_to_datetime
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import msgspec
import pyarrow as pa

from datalake_assets.actions.sweep import ActionsPage
from datalake_assets.collection.clock import Clock
from datalake_assets.collection.collect import Fetch, Page
from datalake_assets.collection.dataset import DAILY, Dataset
from datalake_assets.collection.errors import (
    BadRequestError,
    PermanentError,
    RefusedError,
    RejectedSymbolError,
    ThrottledError,
    TransientError,
)
from datalake_assets.collection.survey import AskYears
from datalake_assets.collection.universe import SCHEMA as UNIVERSE
from datalake_assets.collection.universe import with_odd
from datalake_assets.sources.action_pages import ACTIONS_PAGE_LIMIT, decode_actions
from datalake_assets.sources.pages import COMPILED, Parse, decode, decode_regular, decode_years
from datalake_assets.sources.text import line
from datalake_assets.sources.transport import Answer, Timeouts, Transport

if TYPE_CHECKING:
    from alpaca.common.rest import RESTClient
    from alpaca.data.timeframe import TimeFrame

PAGE_LIMIT = 10_000
"""The most bars on a page, by Alpaca's specification."""

AS_TRADED = "-"
"""Alpaca's `asof` that maps no ticker to its current holder.

With a day instead, a renamed company is returned under its new ticker and, if that is requested as
well, again under its old one; the bars of a ticker's first owner are not available; and a session
differs from what it was before the rename. As traded, each security occurs once in a session, and
a session is the same whenever it is collected."""

DELAY = timedelta(minutes=16)
"""Without a real-time subscription Alpaca refuses ranges that end within the last 15 minutes. One
minute is added for clock differences."""

MESSAGE_MOST = 200
"""How many characters of an error's text are kept: a maintenance page has many."""

MOST, MOST_ASSETS = 32 << 20, 256 << 20
"""The most bytes of an answer, compressed and decompressed. A full page of bars has 1 MiB, and no
other page has more. The list of assets is a single answer that grows with the market: 35,000 assets
of 500 bytes are 17 MiB."""

_HOSTS = {"": "alpaca", "data.alpaca.markets": "alpaca"}
_INVALID_SYMBOLS = re.compile(r"invalid symbols?: *(.*)", re.IGNORECASE)
_LASTING = frozenset({501, 505, 511})
"""Statuses from 500 that are not retried: not implemented, HTTP version not supported, network
login required. All others are transient, including non-standard ones (507, 509, 520 to 530, 598),
which gateways use for an origin that is down or slow."""


@dataclass(frozen=True, slots=True)
class Account:
    """The account and the hosts.

    Args:
        api_key, secret_key: The keys; never shown.
        data_url, trading_url: Hosts; None for Alpaca's own (the paper host for paper keys).
        feed: `sip`, `iex`, `otc` or `boats`.
    """

    api_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    data_url: str | None = None
    trading_url: str | None = None
    feed: str = "sip"

    @property
    def source(self) -> str:
        """The source's name in a lake: the host (`alpaca` for Alpaca's own) and the feed."""
        return f"{_HOSTS.get(host := urlsplit(self.data_url or '').netloc, host)}/{self.feed}"

    @property
    def mark(self) -> str:
        """A digest of the account, without its key, by which processes share a rate limit."""
        named = f"{self.data_url or 'alpaca'} {self.api_key}"
        return hashlib.sha256(named.encode()).hexdigest()[:16]


class AlpacaSource:
    """Bars and the list of assets, from Alpaca or a server that speaks its protocol.

    Thread-safe, for as many threads as it has connections.

    Args:
        account: The account and the hosts.
        connections: The number of threads that send requests.
        timeouts: The timeouts of each request.
        clock: The clock, to know which sessions are over.
        parse: Reads a regular page without Python's lock; None: all are decoded in Python.
    """

    def __init__(
        self,
        account: Account,
        *,
        connections: int = 20,
        timeouts: Timeouts | None = None,
        clock: Clock | None = None,
        parse: Parse | None = COMPILED,
    ) -> None:
        self._account = account
        self._parse = parse
        self._transport = Transport(connections, timeouts)
        self._clock = clock or Clock()
        # For pages that C does not decode, which holds the GIL. One thread for it is faster than
        # all workers at once (+39 % pages per second) and needs less than half the memory.
        self._decoding = ThreadPoolExecutor(1, thread_name_prefix="decode")

    def close(self) -> None:
        """Close connections and threads."""
        self._decoding.shutdown(wait=False, cancel_futures=True)
        self._transport.close()

    def bars(
        self,
        dataset: Dataset = DAILY,
        *,
        adjustment: str = "raw",
        asof: str | None = AS_TRADED,
    ) -> Fetch:
        """The function that fetches one page of a dataset's bars: `collection`'s `Fetch`.

        Args:
            dataset: Whose bars.
            adjustment: `raw`, which a lake stores, or Alpaca's own: `split`, `dividend`,
                `spin-off`, `all`.
            asof: What a symbol means: by default the bars that traded under it. None: the
                security that has it today, with its bars under earlier tickers.
        """
        self._import_client()

        def fetch(
            symbols: tuple[str, ...], first: date, last: date, page_token: str | None
        ) -> Page:
            # Imported here because it takes two seconds, which `dagster dev` should not.
            from alpaca.data.timeframe import TimeFrame

            unit = TimeFrame.Minute if dataset.several else TimeFrame.Day
            start, end = self._bounds(dataset, first, last)
            body = self._bars(unit, symbols, start, end, page_token, adjustment, asof)
            page = decode_regular(body, self._parse, dataset)
            if page is None:
                page = self._decoding.submit(decode, body, dataset).result()
            return page

        return fetch

    def years(self, *, asof: str | None = AS_TRADED) -> AskYears:
        """The function that fetches one page of yearly bars, for `collection.survey`.

        Args:
            asof: As for `bars`.
        """
        self._import_client()

        def ask(
            symbols: tuple[str, ...], first: int, last: int, page_token: str | None
        ) -> tuple[Mapping[str, Sequence[int] | None] | None, str | None]:
            from alpaca.data.timeframe import TimeFrame, TimeFrameUnit

            start = datetime(first, 1, 1, tzinfo=UTC)
            end = min(datetime(last, 12, 31, 23, 59, 59, tzinfo=UTC), self._clock.now() - DELAY)
            year = TimeFrame(12, TimeFrameUnit.Month)
            return decode_years(self._bars(year, symbols, start, end, page_token, asof=asof))

        return ask

    def _bars(
        self,
        timeframe: TimeFrame,
        symbols: tuple[str, ...],
        start: datetime,
        end: datetime,
        page_token: str | None,
        adjustment: str = "raw",
        asof: str | None = AS_TRADED,
    ) -> bytes:
        from alpaca.data.enums import Adjustment, DataFeed
        from alpaca.data.requests import StockBarsRequest

        request = StockBarsRequest(
            symbol_or_symbols=list(symbols),
            timeframe=timeframe,
            start=start,
            end=end,
            limit=PAGE_LIMIT,
            adjustment=Adjustment(adjustment),
            feed=DataFeed(self._account.feed),
            asof=asof,
        )
        params = request.to_request_fields()
        if page_token is not None:
            params["page_token"] = page_token
        return self._ask(self._data, "/stocks/bars", params)

    def assets(self) -> pa.Table:
        """Every US equity on the source's list, active and inactive, by symbol.

        It decodes the raw answer, since alpaca-py's model rejects the whole list if one asset has
        an unknown exchange or lacks a field. Missing fields are null here. An asset without a
        symbol or a status is left out and named in the table's metadata (`universe.odd`).

        Raises:
            TransientError, PermanentError, RefusedError: As `classify` says.
        """
        from alpaca.trading.enums import AssetClass
        from alpaca.trading.requests import GetAssetsRequest

        request = GetAssetsRequest(asset_class=AssetClass.US_EQUITY)
        body = self._ask(self._trading, "/assets", request.to_request_fields())
        try:
            listed = msgspec.json.decode(body)
        except msgspec.DecodeError as error:
            raise TransientError(f"the list of assets can't be read: {error}") from error
        if not isinstance(listed, list):
            raise TransientError("the list of assets can't be read: it is not a list")
        rows, odd = [], []
        for place, asset in enumerate(listed):
            try:
                rows.append(_asset(asset))
            except (KeyError, TypeError, AttributeError):
                odd.append(f"no. {place + 1}: {line(str(asset), 100)}")
        if odd and not rows:
            raise TransientError(
                f"the list of assets can't be read: it has no valid asset ({odd[0]})"
            )
        rows.sort(key=lambda asset: (asset["symbol"], asset["status"], asset["asset_id"] or ""))
        return with_odd(pa.Table.from_pylist(rows, schema=UNIVERSE), odd)

    def calendar(self, first: date, last: date) -> frozenset[date]:
        """The sessions from `first` to `last` in the source's own calendar.

        Raises:
            TransientError, PermanentError, RefusedError: As `classify` says.
        """
        span = {"start": first.isoformat(), "end": last.isoformat()}
        body = self._ask(self._trading, "/calendar", span)
        try:
            return frozenset(day.date for day in _calendar.decode(body))
        except msgspec.DecodeError as error:
            raise TransientError(f"the calendar can't be read: {error}") from error

    def actions(self, first: date, last: date, page_token: str | None) -> ActionsPage:
        """One page of the corporate actions that are processed from `first` to `last`.

        This includes those that Alpaca calls incomplete (`data_quality=all`): a split without a
        CUSIP is still a split. Rows without a date or symbol are skipped and named by
        `action_pages`.

        Raises:
            TransientError, PermanentError, RefusedError: As `classify` says.
        """
        params: dict[str, Any] = {
            "start": first.isoformat(),
            "end": last.isoformat(),
            "limit": ACTIONS_PAGE_LIMIT,
            "data_quality": "all",
            "sort": "asc",
        }
        if page_token is not None:
            params["page_token"] = page_token
        return decode_actions(self._ask(self._actions, "/corporate-actions", params))

    def actions_by_id(self, ids: Sequence[str]) -> ActionsPage:
        """The corporate actions with these identifiers that still exist, whatever their dates.

        Args:
            ids: At most `sweep.IDS_AT_ONCE`. The source accepts no other filter with them.

        Raises:
            TransientError, PermanentError, RefusedError: As `classify` says.
        """
        params = {"ids": ",".join(ids), "limit": ACTIONS_PAGE_LIMIT}
        return decode_actions(self._ask(self._actions, "/corporate-actions", params))

    def _bounds(self, dataset: Dataset, first: date, last: date) -> tuple[datetime, datetime]:
        """The range from the first to the last session, within what the source serves now.

        Both ends are inclusive. A bare date would end it at 00:00Z, before the daily bar of that
        day (04:00Z), and the end of the hours would bring the minute after them.
        """
        latest = self._clock.now() - DELAY
        close = dataset.hours(last).end
        if latest < close:
            raise RefusedError(
                f"the session of {last} is not available yet: it closes at "
                f"{close:%Y-%m-%d %H:%M} UTC and its bars are served {DELAY.seconds // 60} "
                "minutes later; collect it then"
            )
        if not dataset.several:
            end = datetime.combine(last, time(23, 59, 59), UTC)
            return datetime.combine(first, time(), UTC), min(latest, end)
        return dataset.hours(first).first, close - timedelta(milliseconds=1)

    def _import_client(self) -> None:
        """Import alpaca-py's client in this thread, before threads use it.

        Its packages import each other, and threads that import them at the same time can fail with
        "deadlock detected by _ModuleLock".
        """
        _ = self._data

    @cached_property
    def _data(self) -> RESTClient:
        from alpaca.data.historical import StockHistoricalDataClient

        client: RESTClient = _over(self._transport, StockHistoricalDataClient)(
            self._account.api_key, self._account.secret_key, url_override=self._account.data_url
        )
        return client

    @cached_property
    def _actions(self) -> RESTClient:
        from alpaca.data.historical.corporate_actions import CorporateActionsClient

        client: RESTClient = _over(self._transport, CorporateActionsClient)(
            self._account.api_key, self._account.secret_key, url_override=self._account.data_url
        )
        return client

    @cached_property
    def _trading(self) -> RESTClient:
        from alpaca.trading.client import TradingClient

        client: RESTClient = _over(self._transport, TradingClient)(
            self._account.api_key,
            self._account.secret_key,
            # The keys of a paper account begin with PK and are known to the paper host only.
            paper=self._account.api_key.startswith("PK"),
            url_override=self._account.trading_url,
        )
        return client

    def _ask(self, client: RESTClient, path: str, params: dict[str, Any]) -> bytes:
        answer = cast(Answer, client.get(path, params))
        if answer.status == 200:
            return answer.body
        raise classify(answer, f"GET {path}", self._clock.now())


def classify(answer: Answer, request: str, now: datetime) -> Exception:
    """The error for an answer other than 200.

    Args:
        answer: The answer.
        request: The request, for the message.
        now: The current time; a Retry-After can be a date.

    Returns:
        ThrottledError for 429; TransientError for temporary failures; RejectedSymbolError for
        invalid symbols; RefusedError if keys, plan, time range or a proxy prevent every request;
        BadRequestError for another refusal; PermanentError for the rest.
    """
    said = _message(answer)
    told = f"{request}: HTTP {answer.status}: {said}"
    if answer.status == 429:
        return ThrottledError(told, _retry_after(answer.headers, now))
    if answer.status in (408, 425) or (answer.status >= 500 and answer.status not in _LASTING):
        return TransientError(told, _retry_after(answer.headers, now))
    if answer.status == 401:
        return RefusedError(
            f"{told}. The source does not accept ALPACA_API_KEY and ALPACA_SECRET_KEY: check both, "
            "and whether they belong to this host (paper and live keys differ)"
        )
    if answer.status == 403:
        return RefusedError(
            f"{told}. The account has no access to this data: check ALPACA_FEED against its "
            "plan, and this machine's clock (bars of the last 15 minutes need a real-time "
            "subscription)"
        )
    if answer.status == 407:
        return RefusedError(
            f"{told}. The proxy in the environment requires a login: "
            "HTTPS_PROXY=http://user:password@host:port"
        )
    if answer.status in (400, 422) and (found := _INVALID_SYMBOLS.search(said)):
        return RejectedSymbolError(said, *re.findall(r"[^\s,;\[\]\"']+", found[1]))
    if 400 <= answer.status < 500:
        return BadRequestError(told)
    return PermanentError(told)


def _message(answer: Answer) -> str:
    """The text of the body: Alpaca's `message`, or the text of a page without its tags."""
    try:
        text = str(msgspec.json.decode(answer.body)["message"])
    except (msgspec.DecodeError, KeyError, TypeError):
        text = re.sub(r"<[^>]*>", " ", answer.body[: 1 << 16].decode("utf-8", "replace"))
    return line(text, MESSAGE_MOST) or "no message"


def _retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds to wait, from Retry-After (seconds or a date) or X-RateLimit-Reset."""
    try:
        if after := headers.get("retry-after"):
            if after.strip().isdigit():
                return float(after)
            return (parsedate_to_datetime(after) - now).total_seconds()
        if reset := headers.get("x-ratelimit-reset"):
            return float(reset) - now.timestamp()
    except (ValueError, TypeError):
        pass  # ignore a header that can't be read
    return None


def _asset(told: Any) -> dict[str, Any]:
    """An asset of the list as a row of the universe.

    Raises:
        KeyError, TypeError, AttributeError: It has no symbol or no status.
    """
    row = {name: line(told[name].strip()) for name in ("symbol", "status")}
    if not all(row.values()):
        raise KeyError("symbol")
    tradable = told.get("tradable")
    return {
        **row,
        "exchange": _text(told.get("exchange")),
        "name": _text(told.get("name")),
        "tradable": tradable if isinstance(tradable, bool) else None,
        "asset_id": _text(told.get("id")),
    }


def _text(value: Any) -> str | None:
    """A text of the list, or a number as text; None for anything else."""
    known = isinstance(value, str | int) and not isinstance(value, bool)
    return line(str(value)) if known else None


class _Day(msgspec.Struct):
    date: date


_calendar = msgspec.json.Decoder(list[_Day])


def _over(transport: Transport, client: type[Any]) -> type[Any]:
    """The alpaca-py client, with requests sent over `transport`."""

    class Client(client):  # type: ignore[misc]
        def _one_request(self, method: str, url: str, opts: dict[str, Any], retry: int) -> Answer:
            assert method == "GET", method
            # alpaca-py leaves enums in the parameters; their str() is the member's name.
            given = (opts["params"] or {}).items()
            params = {k: str(v.value) if isinstance(v, Enum) else str(v) for k, v in given}
            most = MOST_ASSETS if url.endswith("/assets") else MOST
            return transport.get(url, params, opts["headers"], most)

    return Client
