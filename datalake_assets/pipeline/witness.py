"""The comparison with the source's own adjusted bars and histories.

Belongs here: which securities to compare next, a budget of requests, and storing the results. Does
not belong here: comparing two series (`securities.witness`), and which side is right: nothing is
repaired here.

There are two kinds of requests, both with today's tickers, as users of the source send them:

- Fully adjusted bars of the securities with the newest actions. They must equal ours, within the
  source's rounding.
- The years in which the security of a ticker traded, under any ticker. If we have fewer years, or
  know of a rename, its whole history is requested. A session that the source has and we lack is
  under a ticker that neither a list nor an action names. Nothing else would reveal that gap.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datalake_assets import market_calendar
from datalake_assets.collection.collect import Fetch
from datalake_assets.collection.errors import PermanentError, RejectedSymbolError, StoppedError
from datalake_assets.collection.plan import Packing
from datalake_assets.collection.progress import many, verb
from datalake_assets.collection.rate_limit import Budget
from datalake_assets.collection.retry import Caller
from datalake_assets.collection.survey import AskYears
from datalake_assets.lake.files import LakeFiles
from datalake_assets.lake.lake import Lake
from datalake_assets.pipeline.publication import CollectionOptions
from datalake_assets.securities.holders import Held
from datalake_assets.securities.witness import gaps, partings
from datalake_assets.sources.alpaca import AlpacaSource
from datalake_assets.storage import layout
from datalake_assets.storage.store import Store

WINDOW = 63
"""How many sessions are compared: a quarter, which has one regular dividend."""

LOOKED_AT = 30
"""After how many days a difference is checked again."""

ADJUSTED, HISTORY = "adjusted bars", "history"

TESTIMONY = pa.schema(
    [
        pa.field("security", pa.string(), nullable=False),
        pa.field("symbol", pa.string(), nullable=False),
        pa.field("question", pa.string(), nullable=False),
        pa.field("asked_on", pa.date32(), nullable=False),
        pa.field("since", pa.date32(), nullable=False),
        pa.field("tickers", pa.int64(), nullable=False),
        pa.field("differences", pa.list_(pa.string()), nullable=False),
    ]
)
"""The last result for each security: the kind of request, its time, the session of the security's
newest action (or ticker) then, its number of tickers then, and each difference in a sentence."""

_DAY, _REQUESTS = b"datalake.day", b"datalake.requests"

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Testimony:
    """The results of all comparisons so far.

    Args:
        day: The day (UTC) of the last requests.
        requests: The requests sent on that day.
        answers: The last result for each security and kind of request, in `TESTIMONY`.
    """

    day: date
    requests: int
    answers: pa.Table = field(repr=False)

    @property
    def differences(self) -> list[tuple[str, str]]:
        """The differences, each with the security's ticker."""
        rows = self.answers.sort_by([("symbol", "ascending"), ("question", "ascending")])
        return [(row["symbol"], what) for row in rows.to_pylist() for what in row["differences"]]


def read_testimony(store: Store) -> Testimony | None:
    """The stored results; None if there are none, or the object is damaged.

    They can be fetched again at any time, so a damaged object is treated as missing.
    """
    try:
        data = store.get(layout.TESTIMONY)
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        told = file.metadata.metadata or {}
        day = date.fromisoformat(told[_DAY].decode())
        rows = file.read(use_threads=False).cast(TESTIMONY)
        return Testimony(day, int(told[_REQUESTS]), rows)
    except FileNotFoundError:
        return None
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return None


def ask_source(
    alpaca: AlpacaSource,
    lake: LakeFiles,
    options: CollectionOptions,
    *,
    requests: int,
    now: datetime,
) -> Testimony:
    """Send as many requests as the day's budget allows, and store the results.

    Args:
        alpaca: The source.
        lake: The lake, with its tables of securities and factors.
        options: The account's rate limit, the retry policy and the limits of one request.
        requests: Requests per day; those already sent today count.
        now: The time, UTC.

    Raises:
        NotInLakeError: The lake has no tables of securities.
        RefusedError: The source refuses every request.
    """
    before = read_testimony(lake.store)
    today = now.date()
    spent = before.requests if before and before.day == today else 0
    known = before.answers if before else TESTIMONY.empty_table()
    budget = Budget(options.limiter, max(0, requests - spent))
    witness = _Witness(
        alpaca, lake, Caller(budget, options.retry), known, today, budget, options.packing
    )
    with suppress(StoppedError):  # the budget is used up; the rest follows tomorrow
        witness.ask()
    told = Testimony(today, spent + budget.used, witness.answers())
    _keep(lake.store, told)
    return told


def _keep(store: Store, told: Testimony) -> None:
    table = told.answers.replace_schema_metadata(None)
    buffer = pa.BufferOutputStream()
    with pq.ParquetWriter(buffer, TESTIMONY, compression="zstd", write_page_checksum=True) as out:
        out.write_table(table)
        out.add_key_value_metadata({_DAY: told.day.isoformat(), _REQUESTS: str(told.requests)})
    store.put(layout.TESTIMONY, bytes(buffer.getvalue()))


class _Witness:
    """The comparisons of one day."""

    def __init__(
        self,
        alpaca: AlpacaSource,
        lake: LakeFiles,
        caller: Caller,
        known: pa.Table,
        today: date,
        budget: Budget,
        packing: Packing,
    ) -> None:
        self._alpaca, self._lake, self._caller = alpaca, lake, caller
        self._reader = Lake(lake.store)
        self._today, self._budget, self._packing = today, budget, packing
        self._answers = {(row["security"], row["question"]): row for row in known.to_pylist()}
        tables = self._reader.securities()
        self._factors = tables.factors
        self._securities = tables.holders.securities
        newest = tables.holders.newest or date.min
        self._sessions = [day for day in lake.sessions() if day <= newest]
        # Only those that still trade: the ticker of an ended one may belong to another by now.
        self._trading = {
            security: tickers
            for security, tickers in self._securities.items()
            if tickers[-1].followed_by is None
        }

    def answers(self) -> pa.Table:
        """The last result for each security that the lake still has."""
        kept = [row for row in self._answers.values() if row["security"] in self._securities]
        return pa.Table.from_pylist(kept, TESTIMONY)

    def ask(self) -> None:
        """Send all requests, the most urgent first, until the budget is used up."""
        if not self._sessions:
            return
        # A third is reserved for histories, however many actions there are.
        self._adjusted(self._budget.left // 3)
        self._histories()

    # Adjusted bars

    def _adjusted(self, leave: int) -> None:
        days = self._sessions[-WINDOW:]
        acting = self._newest_actions(days[0], days[-1])
        due = [s for s in acting if self._is_due(s, ADJUSTED, acting[s])]
        due.sort(key=lambda security: acting[security], reverse=True)
        width = max(1, min(self._packing.symbols, self._packing.bars // len(days)))
        fetch = self._alpaca.bars(adjustment="all", asof=None)
        for some in _batches(due, width):
            if self._budget.left <= leave:
                return
            for security, symbol, mine, other in self._pairs(fetch, some, days[0], days[-1], "all"):
                factors = self._factors.filter(pc.equal(self._factors["security"], security))
                told = [str(one) for one in partings(mine, other, factors)]
                if mine.num_rows and not other.num_rows:
                    told = [f"the source has no bar of {symbol} from {days[0]} to {days[-1]}"]
                self._answered(security, ADJUSTED, acting[security], told)

    def _newest_actions(self, first: date, last: date) -> dict[str, date]:
        """The trading securities with an action in these sessions, and its session."""
        rows = self._factors.select(["security", "session"]).to_pylist()
        acting: dict[str, date] = {}
        for row in rows:
            day, security = row["session"], row["security"]
            if day is not None and first < day <= last and security in self._trading:
                acting[security] = max(day, acting.get(security, day))
        return acting

    # Histories

    def _histories(self) -> None:
        due = [s for s in self._trading if self._is_due(s, HISTORY, self._began(s))]
        renamed = [security for security in due if len(self._trading[security]) > 1]
        never = [security for security in due if len(self._trading[security]) == 1]
        # Years are requested for 500 tickers at once; half of the rest is for whole histories.
        due = [*self._lacking_years(never, self._budget.left // 2), *renamed]
        due.sort(key=self._began, reverse=True)
        first, last = self._sessions[0], self._sessions[-1]
        count = len(market_calendar.sessions(first, last))
        fetch = self._alpaca.bars(asof=None)
        for some in _batches(due, max(1, self._packing.bars // count)):
            for security, symbol, mine, other in self._pairs(fetch, some, first, last, "raw"):
                told = list(self._holes(symbol, mine, other))
                self._answered(security, HISTORY, self._began(security), told)

    def _began(self, security: str) -> date:
        """The first session of its newest ticker."""
        return self._trading[security][-1].first

    def _lacking_years(self, securities: Sequence[str], leave: int) -> list[str]:
        """Those that, by the source, traded in years in which we have no bar of them."""
        held = {day.year for day in self._sessions}
        ask = self._alpaca.years(asof=None)
        found: list[str] = []
        for some in _batches(securities, self._packing.symbols):
            if self._budget.left <= leave:
                break
            tickers = {self._trading[security][-1].symbol: security for security in some}
            with suppress(PermanentError):  # requested again on another day
                years = self._years(ask, tickers, min(held), max(held))
                for symbol, traded in years.items():
                    security = tickers[symbol]
                    if _years_of(self._trading[security]).issuperset(held & traded):
                        self._answered(security, HISTORY, self._began(security), [])
                    else:
                        found.append(security)
        return found

    def _holes(self, symbol: str, ours: pa.Table, theirs: pa.Table) -> Iterator[str]:
        """What the source's history of a security has and ours lacks, in sentences."""
        published = frozenset(self._sessions)
        days = [day for day in theirs["session"].to_pylist() if day in published]
        held = ours["session"].to_pylist()
        for first, last, count in gaps(held, days):
            began = next((day for day in held if day > last), None)
            told = (
                f"the source has {many(count, 'bar')} of {symbol} from {first} to {last} that "
                f"{verb(count, 'is not one', 'are not bars')} of this security here"
            )
            if ticker := self._whose(_at(theirs, last), last):
                yield (
                    f"{told}: they are under {ticker}, which counts as another security. If it "
                    f"is the same one: datalake decide add rename {ticker} "
                    f"{began or last} --to {symbol}"
                )
            else:
                yield (
                    f"{told}, nor of any other: they traded under a ticker that neither a list "
                    "nor an action names. If you know it: datalake decide add rename TICKER "
                    f"{began or last} --to {symbol}, then datalake collect --from {first} "
                    f"--to {last}"
                )
        none = self._factors.slice(0, 0)
        yield from (f"unadjusted, {one}" for one in partings(ours, theirs, none))

    def _whose(self, bar: Mapping[str, object], day: date) -> str | None:
        """The ticker under which the lake has this bar, if any."""
        bars = self._lake.read(day).bars
        same = pc.and_(
            pc.equal(bars["close"], bar["close"]), pc.equal(bars["volume"], bar["volume"])
        )
        found = bars["symbol"].filter(same).to_pylist()
        return str(found[0]) if len(found) == 1 else None

    # Asking

    def _is_due(self, security: str, question: str, since: date) -> bool:
        """Whether it was not compared since this session, or differed a while ago."""
        last = self._answers.get((security, question))
        if last is None or last["since"] < since:
            return True
        if last["tickers"] != len(self._securities[security]):
            return True
        again = (self._today - last["asked_on"]).days >= (1 if question == ADJUSTED else LOOKED_AT)
        return bool(last["differences"]) and again

    def _answered(self, security: str, question: str, since: date, told: list[str]) -> None:
        self._answers[security, question] = {
            "security": security,
            "symbol": self._trading[security][-1].symbol,
            "question": question,
            "asked_on": self._today,
            "since": since,
            "tickers": len(self._securities[security]),
            "differences": told,
        }

    def _pairs(
        self, fetch: Fetch, securities: Sequence[str], first: date, last: date, adjustment: str
    ) -> Iterator[tuple[str, str, pa.Table, pa.Table]]:
        """Each security in the source's answer, with its ticker, our bars and the source's."""
        tickers = {self._trading[security][-1].symbol: security for security in securities}
        with suppress(PermanentError):  # requested again on another day
            names, theirs = self._bars(fetch, tickers, first, last)
            with warnings.catch_warnings():
                # Open decisions and missing sessions are reported elsewhere.
                warnings.simplefilter("ignore")
                ours = self._reader.bars(list(tickers), first, last, adjustment=adjustment)
            for name in names:
                mine = ours.filter(pc.equal(ours["security"], tickers[name]))
                yield tickers[name], name, mine, theirs.filter(pc.equal(theirs["symbol"], name))

    def _bars(
        self, fetch: Fetch, symbols: Iterable[str], first: date, last: date
    ) -> tuple[tuple[str, ...], pa.Table]:
        """The source's bars of these tickers, by session, and the tickers that it accepted."""

        def pages(names: tuple[str, ...]) -> pa.Table:
            found: list[pa.Table] = []
            token: str | None = None
            while not found or token is not None:
                after = token
                page = self._caller.call(lambda: fetch(names, first, last, after))  # noqa: B023
                found.append(page.bars)
                token = page.next_token
            return pa.concat_tables(found).sort_by("session")

        return self._asked(pages, symbols)

    def _years(
        self, ask: AskYears, symbols: Iterable[str], first: int, last: int
    ) -> dict[str, set[int]]:
        """The years in which each accepted ticker traded, by the source."""

        def pages(names: tuple[str, ...]) -> dict[str, set[int]]:
            found: dict[str, set[int]] = {name: set() for name in names}
            token: str | None = None
            more = True
            while more:
                after = token
                page, token = self._caller.call(lambda: ask(names, first, last, after))  # noqa: B023
                for symbol, years in (page or {}).items():
                    if symbol in found:
                        found[symbol].update(years or ())
                more = token is not None
            return found

        return self._asked(pages, symbols)[1]

    def _asked(
        self, pages: Callable[[tuple[str, ...]], _Item], symbols: Iterable[str]
    ) -> tuple[tuple[str, ...], _Item]:
        """The answer for as many of these as the source accepts, and which those are."""
        names = tuple(sorted(symbols))
        while True:
            try:
                return names, pages(names)
            except RejectedSymbolError as error:
                # Today's list may lack them; the others are requested without them.
                refused = error.of(names)
                names = tuple(name for name in names if name not in refused)
                if not refused or not names:
                    raise


def _years_of(tickers: Sequence[Held]) -> frozenset[int]:
    return frozenset(
        year for held in tickers for year in range(held.first.year, held.last.year + 1)
    )


def _at(bars: pa.Table, day: date) -> Mapping[str, object]:
    row: Mapping[str, object] = bars.filter(pc.equal(bars["session"], day)).to_pylist()[0]
    return row


def _batches(items: Sequence[_Item], size: int) -> Iterator[Sequence[_Item]]:
    return (items[start : start + size] for start in range(0, len(items), size))
