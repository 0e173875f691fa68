"""The lake as an analyst reads it: one class, which only reads.

Belongs here: what can be asked of a lake, and what the answers mean. Does not belong here: how a
question is answered (`reader`, `security_reader`, `returns`, `panel`, `coverage`), the files that
programs look after (`files`), and writing (`writer`).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa

from datalake_assets.collection.clock import Clock
from datalake_assets.collection.dataset import DAILY, MINUTE, Dataset
from datalake_assets.lake.coverage import Coverage, coverage_between
from datalake_assets.lake.files import FORMAT, LakeFiles, WrongLakeError
from datalake_assets.lake.knowledge import KnownMinutes, KnownReader, KnownSecurities, instant
from datalake_assets.lake.minutes import Asked, AskedMinutes, Minutes
from datalake_assets.lake.panel import field_of, panel
from datalake_assets.lake.reader import NotInLakeError, Reader, as_day, span_of
from datalake_assets.lake.restatements import Restatements, undone
from datalake_assets.lake.returns import missing, total_returns
from datalake_assets.lake.security_reader import BARS, SecurityReader, Tables
from datalake_assets.lake.session_file import Session
from datalake_assets.securities.adjusting import KINDS, RAW, kinds, several
from datalake_assets.securities.security import Security
from datalake_assets.settings import Settings
from datalake_assets.storage import layout
from datalake_assets.storage.store import Store, open_store

Day = date | str | np.datetime64
"""A day: a date, text like "2024-07-03", a `numpy.datetime64`, or an instant that is a midnight
(`datetime`, `pandas.Timestamp`), as pandas has days."""


class Lake:
    """Bars of every US equity, to be read from Python. Nothing here writes.

    Open one with `Lake.open`, and ask:

        bars        bars of some securities, or all, raw or adjusted
        minutes     the same by the minute, or put together to N minutes or sessions
        panel       one field of the bars, as sessions × securities
        returns     total returns, with the payout at a security's end
        security    who held a ticker: its names over time, its actions, its end
        sessions    which sessions are there; `session` gives one with its ledger
        symbols     which tickers have bars; `universe` lists all that the source knows
        explain     why a symbol has no bar on a day; `missing` and `coverage` count such holes

    Tables are Arrow tables. A session is a `date32`, which pandas shows as objects unless it is
    told otherwise; as datetime64 it can be resampled:

        frame = lake.bars("AAPL").to_pandas(date_as_object=False)  # or polars.from_arrow(...)
        frame.set_index("session")["close"].resample("ME").last()

    Wherever a day is asked for, a date, text like "2024-07-03", a `numpy.datetime64`, or a
    `datetime` or `pandas.Timestamp` at midnight will do. Ranges include both of their ends.
    Symbols may be in any case of letters.

    What the lake holds is looked up once. Newer sessions are found automatically; `refresh` finds
    whatever else was published since. Several threads may share a lake, and it can be pickled.

    Args:
        store: Where it is; `Lake.open` makes one from a path or an address.
        clock: Time: files dated in the future are ignored.
    """

    def __init__(self, store: Store, clock: Clock | None = None) -> None:
        self.store, self._clock = store, clock or Clock()
        self._files = LakeFiles(store, self._clock)
        self._restatements = Restatements(store)

    def __repr__(self) -> str:
        return f"Lake({self.store.uri!r})"

    def __getstate__(self) -> dict[str, Any]:
        """Without the reader's threads: another process looks for itself."""
        readers = ("_reader", "_securities", "_minutes", "_firsts")
        return {name: value for name, value in vars(self).items() if name not in readers}

    @classmethod
    def open(cls, uri: str | Path | None = None) -> Self:
        """The lake at `uri`.

        Example:
            >>> lake = Lake.open(".datalake/embedded")
            >>> lake = Lake.open("s3://bucket/prefix")

        Args:
            uri: A local path or `s3://bucket/prefix`; None: where the settings say
                (`DATALAKE_URI`).

        Raises:
            ValueError: `uri` names no place that a lake can be in.
            NotInLakeError: There is no lake.
            StoreError: The store can't be reached, or refuses.
            WrongLakeError: The lake was made by another version of this program.
        """
        told: object = uri  # a notebook has no type checker
        if not isinstance(told, str | Path | None):
            raise ValueError(f"{uri!r} is no URI: give a local path, or s3://bucket/prefix")
        # An empty one is an unset variable: not a wish for whatever lake the settings have.
        lake = cls(open_store(str(Settings.load().lake_uri if uri is None else uri)))
        try:
            found = lake._files.marker()
        except FileNotFoundError as error:
            raise NotInLakeError(
                f"there is no lake at {lake.store.uri}: correct the URI (or DATALAKE_URI, when "
                "none is given), or make one: datalake demo, datalake backfill"
            ) from error
        if found.get("format") != FORMAT:
            raise WrongLakeError(
                f"the lake at {lake.store.uri} has layout {found.get('format')!r}, this program "
                f"reads {FORMAT}: use the version that made it"
            )
        return lake

    # Bars

    def bars(
        self,
        symbols: str | Iterable[str] | None = None,
        start: Day | None = None,
        end: Day | None = None,
        adjustment: str | Iterable[str] = RAW,
        known_at: datetime | None = None,
        asof: Day | None = None,
        follow: bool = True,
        columns: str | Iterable[str] | None = None,
    ) -> pa.Table:
        """Bars of these securities from `start` to `end`, both included, raw or adjusted.

        A symbol means the security that holds the ticker at the end of the range, or held it last
        before. You get its bars under all of its tickers: `bars("META")` begins with those that
        traded as FB. Another security that once had the ticker is left out, with a warning.

        Adjusted prices and vwap are in units of the security's newest session, which is as it
        traded: each earlier one is multiplied by a factor for each split, spin-off and cash
        dividend since (rule A: 1 - dividend / close before; gross, without taxes). Splits also
        multiply volume, which is then float64; else it is int64. The number of trades stays.
        An action that the prices contradict is not applied, with a warning, until somebody decides.

        Example:
            >>> bars = lake.bars(["META", "AAPL"], "2020-01-02", adjustment="all")
            >>> frame = bars.to_pandas(date_as_object=False)
            >>> lake.bars(start="2024-01-02", columns=["symbol", "session", "close"])  # all symbols
            >>> lake.bars("META", "2021-07-01", "2022-07-01", asof="2021-12-31")  # its holder then
            >>> lake.bars("TPG", adjustment="all", known_at=datetime(2026, 2, 20, tzinfo=UTC))

        Args:
            symbols: One, several (also as an array of numpy, pandas, Polars or Arrow), or None for
                all; in any case of letters.
            start: First day; None: as far back as there is anything.
            end: Last day; None: the newest session.
            adjustment: "raw", "all", or one or several of "split" (also stock dividends and unit
                splits), "spin-off" and "dividend": "split,spin-off" or ["split", "spin-off"].
            known_at: An instant with its zone: bars as the lake held them then, adjusted by the
                actions that were known then; the last bar by then is as it traded. Who held a
                ticker is told by what is known now. Slower: factors are derived for the question.
            asof: A day that tells which security a symbol means, instead of the end of the range.
            follow: False: the rows of the tickers alone, whosever they were. Raw only.
            columns: One or several of the columns below; None: all of them. Exactly these come, in
                this order, and the others are not read. The rows are in the same order whichever
                come.

        Returns:
            A table of `symbol` (the ticker as traded), `session` (date), `timestamp` (UTC),
            `open`, `high`, `low`, `close` (US dollars), `volume` (shares), `trade_count`, `vwap`
            (US dollars), and `security`: the identifier of the row's security, null while the
            table of securities doesn't know it. Rows are ordered by the security's newest ticker
            in the answer, and session.
            With `follow=False`, and in a lake without tables of securities, there is no column
            `security`, and rows are by ticker and session. A known symbol without a bar in the
            range has no row; `explain` tells why.

        Raises:
            ValueError: A day that is none, `end` before `start`, no symbol at all, an unknown
                adjustment or column, an instant without its zone, or options that exclude each
                other.
            NotInLakeError: A symbol that neither the lake nor its newest universe knows; nobody
                held the ticker on `asof`; or the tables of securities are needed and not there.
            BrokenFileError: A file is damaged.

        Warns:
            HoldersWarning: Another security had the ticker in the range, or nobody had it yet.
            UndecidedWarning: An action in the range is contradicted by prices and undecided.
            BehindWarning: There are newer bars than the factors were derived from.
            MissingSessionsWarning: The lake lacks sessions of the range, or did at the instant.
        """
        adjust, wanted = kinds(adjustment), _columns(columns)
        first, last, holder_on = _day(start), _day(end), _day(asof)
        reader, securities = self._readers(known_at)
        if not follow:
            _refuse_without_following(adjust, asof, wanted)
            rows = reader.bars(symbols, first, last, wanted)
            _warn(reader.holes(first, last))
            return rows
        if wanted and "security" in wanted:
            securities.required("the column security")
        answer = securities.bars(symbols, first, last, adjust, holder_on, wanted)
        if isinstance(answer, pa.Table):
            _warn(reader.holes(first, last))
            return answer if wanted is None else answer.select(wanted)
        _warn([*answer.warnings, *reader.holes(first, last)])
        bars = answer.spans.adjusted(answer.bars, answer.rows, adjust)
        return bars if wanted is None else bars.select(wanted)

    def minutes(
        self,
        symbols: str | Iterable[str] | None = None,
        start: Day | datetime | None = None,
        end: Day | datetime | None = None,
        adjustment: str | Iterable[str] = RAW,
        known_at: datetime | None = None,
        asof: Day | None = None,
        follow: bool = True,
        columns: str | Iterable[str] | None = None,
        hours: str = "regular",
        every: str | timedelta | None = None,
    ) -> pa.Table:
        """Minute bars of these securities, raw or adjusted, or put together to longer ones.

        Symbols mean securities, and are adjusted, as for `bars`: a minute has the factor of its
        session. A minute in which nothing traded has no bar.

        All minutes of the whole market in one session are three million rows, 250 MB. So ask for
        the whole market session by session, or for longer bars: they are put together while the
        minutes are read.

        Example:
            >>> minutes = lake.minutes("AAPL", "2024-07-03", "2024-07-03")
            >>> lake.minutes(["META", "AAPL"], "2024-01-02", every="5min", adjustment="all")
            >>> lake.minutes(start="2024-07-03", end="2024-07-03", every="session")  # all symbols
            >>> noon = datetime(2024, 7, 3, 16, tzinfo=UTC)
            >>> lake.minutes("AAPL", noon, noon + timedelta(hours=1), columns=["close"])
            >>> lake.minutes("AAPL", "2024-07-03", known_at=datetime(2024, 7, 4, tzinfo=UTC))

        Args:
            symbols: One, several, or None for all, as for `bars`.
            start: The first session, or an instant with its zone: the first minute's start. None:
                as far back as there are minutes.
            end: The last session, or the last minute's start. None: the newest one.
            adjustment: "raw", "all", or one or several of "split", "spin-off" and "dividend", as
                for `bars`.
            known_at: An instant with its zone: minutes as the lake held them then, adjusted by what
                was known then, as for `bars`. The minutes that changed later are read twice. Which
                hours were collected by then is not kept: no warning tells of missing ones where
                extended hours came later.
            asof: A day that tells which security a symbol means, instead of the end of the range.
            follow: False: the rows of the tickers alone, whosever they were. Raw only.
            columns: One or several of the columns below; None: all of them. Exactly these come, in
                this order.
            hours: "regular": the minutes from the open to the close; "extended": also those before
                and after, if they were collected with them (`DATALAKE_MINUTES=extended`).
            every: None: minutes. "5min", "1h" and so on, or a timedelta of whole minutes: bars of
                this length. "session": one bar for each session. `resample` tells how.

        Returns:
            A table with the columns that `bars` gives; `timestamp` is the start of the bar (UTC),
            `session` its trading day. Rows are ordered by the security's newest ticker in the
            answer, session and time; with `follow=False`, and in a lake without tables of
            securities, by ticker, session and time, without the column `security`.

        Raises:
            ValueError: As for `bars`; or a time without its zone, unknown hours, or `every` is no
                length of a bar.
            NotInLakeError: As for `bars`; or the lake has no minutes at all.
            BrokenFileError: A file is damaged.

        Warns:
            HoldersWarning, UndecidedWarning, BehindWarning: As for `bars`.
            MissingSessionsWarning: Sessions of the range have no minutes, or had none then.
            MissingHoursWarning: Sessions of the range have no minutes of the extended hours.
        """
        asked = Asked.of(start, end, hours, every)
        adjust, wanted, holder_on = kinds(adjustment), _columns(columns), _day(asof)
        _, securities = self._readers(known_at)
        reader = self._minutes_read(asked, known_at)
        if not follow:
            _refuse_without_following(adjust, asof, wanted)
            rows = reader.bars(symbols, asked.first, asked.last, wanted)
            _warn(reader.warnings())
            return rows
        securities = securities.over(reader)
        if wanted and "security" in wanted:
            securities.required("the column security")
        answer = securities.bars(symbols, asked.first, asked.last, adjust, holder_on, wanted)
        if isinstance(answer, pa.Table):
            _warn(reader.warnings())
            return answer if wanted is None else answer.select(wanted)
        _warn([*answer.warnings, *reader.warnings()])
        bars = answer.spans.adjusted(answer.bars, answer.rows, adjust)
        return bars if wanted is None else bars.select(wanted)

    def panel(
        self,
        field: str,
        symbols: str | Iterable[str] | None = None,
        start: Day | None = None,
        end: Day | None = None,
        adjustment: str | Iterable[str] = RAW,
        known_at: datetime | None = None,
        asof: Day | None = None,
    ) -> pa.Table:
        """One field of the bars as sessions × securities, ready for pandas and Polars.

        Example:
            >>> close = lake.panel("close", ["META", "AAPL"], "2020-01-02", adjustment="all")
            >>> frame = close.to_pandas(date_as_object=False).set_index("session")
            >>> frame["META"]["2021-01-04"]  # traded as FB then
            >>> frame.resample("ME").last()

        Args:
            field: A column of the bars, like close or volume.
            symbols: One, several, or None for all; each means a security, as for `bars`.
            start: First day; None: as far back as there is anything.
            end: Last day; None: the newest session.
            adjustment: "raw", "all", or one or several of "split", "spin-off" and "dividend", as
                for `bars`.
            known_at: An instant with its zone: as the lake held the bars then, as for `bars`.
            asof: A day that tells which security a symbol means, instead of the end of the range.

        Returns:
            A table with the column `session` first, a row for each session of the range that the
            lake holds, then a column for each security with a bar in the range, null where it has
            none. A column is named by the newest ticker that its security has in the range; when
            several had the same one, the latest keeps it and the others go by their identifiers.
            Each column's metadata tells its `security`.

        Raises:
            ValueError: As for `bars`, or bars have no such field.
            NotInLakeError: As for `bars`; a panel needs the tables of securities.
            BrokenFileError: A file is damaged.

        Warns:
            HoldersWarning, UndecidedWarning, BehindWarning, MissingSessionsWarning: As for `bars`.
        """
        name, adjust = field_of(field), kinds(adjustment)
        first, last, holder_on = _day(start), _day(end), _day(asof)
        reader, securities = self._readers(known_at)
        securities.required("a panel")
        answer = securities.bars(symbols, first, last, adjust, holder_on, [name])
        assert not isinstance(answer, pa.Table)
        _warn([*answer.warnings, *reader.holes(first, last)])
        bars = answer.spans.adjusted(answer.bars, answer.rows, adjust)
        sessions = list(reader.published(*span_of(first, last)))
        return panel(bars, name, answer.stretches, sessions)

    def returns(
        self,
        symbols: str | Iterable[str] | None = None,
        start: Day | None = None,
        end: Day | None = None,
        known_at: datetime | None = None,
        asof: Day | None = None,
    ) -> pa.Table:
        """Total returns per session, dividends reinvested, and the payout at a security's end.

        Dividends are reinvested at the close of their ex-date (rule B, close / (close + dividend)),
        as total return indices do; gross, without taxes. A security that ended has one more return,
        in the session after its last one: what its holders got for a share, in cash and at the
        first close of the acquirer's shares, if an action tells it. Nothing is filled in: the usual
        guesses of studies for delistings without a payout are -30 % (NYSE) and -55 % (Nasdaq).

        Example:
            >>> returns = lake.returns(["META", "TWTR"], "2022-01-03")
            >>> frame = returns.to_pandas(date_as_object=False)
            >>> frame.pivot(index="session", columns="security", values="total_return")
            >>> frame["status"].value_counts()  # traded, payout, and what is missing

        Args:
            symbols: One, several, or None for all; each means a security, as for `bars`.
            start: First day; None: as far back as there is anything.
            end: Last day; None: the newest session.
            known_at: An instant with its zone: as the lake held the bars then, as for `bars`.
            asof: A day that tells which security a symbol means, instead of the end of the range.

        Returns:
            A table in `lake.returns.RETURNS`: `session`, `security`, `symbol` as traded,
            `total_return` as a fraction since the close of the session `since`, and `status`:
            "traded"; "first bar" (null: there is nothing before it); "no bar" (null: the lake holds
            the session and no bar of the security; the next return is measured from the last
            close); "payout"; "payout unknown" (null). The first return of the range is measured
            from the last close before it.

        Raises:
            ValueError: As for `bars`.
            NotInLakeError: As for `bars`; returns need the tables of securities.
            BrokenFileError: A file is damaged.

        Warns:
            MissingReturnsWarning: How many returns are missing, and of which ends.
            HoldersWarning, UndecidedWarning, BehindWarning, MissingSessionsWarning: As for `bars`.
        """
        begin, stop, holder_on = _day(start), _day(end), _day(asof)
        begin = None if begin == date.min else begin  # no close can be before it
        reader, securities = self._readers(known_at)
        securities.required("a total return")
        first, last = span_of(begin, stop)
        adjust = tuple(KINDS)
        answer = securities.bars(symbols, begin, stop, adjust, holder_on, ["close"], lead=True)
        assert not isinstance(answer, pa.Table)
        sessions = list(reader.published(date.min, last))
        last = min(last, max(sessions, default=last))
        found = total_returns(answer, first, last, sessions, partial(_close, reader))
        _warn([*answer.warnings, *reader.holes(begin, stop), *missing(found)])
        return found

    # Securities

    def security(self, symbol: str, asof: Day | None = None) -> Security:
        """The security that holds a ticker: its names over time, its actions, and how it ended.

        Example:
            >>> lake.security("META")
            META-2016-01-04: Meta Platforms, Inc., NASDAQ
              FB 2016-01-04 to 2022-06-08, then rename
              META 2022-06-09 to today
              factors: 4 dividends
            >>> lake.security("META", asof="2021-12-31").names[-1].followed_by
            >>> lake.security("AAPL").factors.to_pandas()  # each split and dividend

        Args:
            symbol: The ticker, in any case of letters.
            asof: A day on which it held the ticker; None: now, or whoever had it last.

        Raises:
            ValueError: No symbol, or no day.
            NotInLakeError: No security ever had this ticker, or none on that day; or the lake has
                no table of securities.
            BrokenFileError: A file is damaged.
        """
        return self._securities.security(symbol, _day(asof))

    def securities(self) -> Tables:
        """The tables of all securities and of their factors, as they are now.

        Example:
            >>> lake.securities().securities.to_pandas()  # who held which ticker, and how it ended
            >>> lake.securities().factors.to_pandas()  # what each action does to prices

        Raises:
            NotInLakeError: They were not derived yet; says what to type.
            BrokenFileError: One of them is damaged.
        """
        return self._securities.required("what is known of securities")

    # What is there, and what is not

    def source(self) -> str | None:
        """The source that the bars come from, such as "alpaca sip"; None before the first run."""
        return self._files.source()

    def sessions(self) -> list[date]:
        """The published sessions, ascending; `bars` gives what is listed here."""
        days = self._files.sessions()
        self._reader.listed(days)
        return days

    def session(self, day: Day) -> Session:
        """A published session: its `bars`, its `ledger` and its `provenance`.

        The ledger tells the state of every symbol that was asked for, also of those without a bar;
        the provenance when and from where the session was collected.

        Raises:
            ValueError: No day.
            NotInLakeError: It is not published; says why: no session, before or after what the lake
                holds, never collected, or held back by its audit.
            BrokenFileError: Its file is damaged.
        """
        return self._reader.session(as_day(day))

    def minute_sessions(self) -> list[date]:
        """The sessions whose minutes are published, ascending; `minutes` gives them."""
        return list(self._minutes.sessions())

    def symbols(self, year: int | None = None) -> list[str]:
        """The tickers that have a bar, ascending: ever, or in this year.

        Raises:
            ValueError: No year.
            BrokenFileError: A file is damaged.
        """
        told: object = year
        if year is not None and (isinstance(told, bool) or not isinstance(told, int | np.integer)):
            raise ValueError(f"{year!r} is no year: give a number like 2024, or None for all")
        return self._reader.symbols(None if year is None else int(year))

    def universe(self, day: Day | None = None) -> pa.Table:
        """The source's list of assets, as it was taken last on or before a day.

        Args:
            day: The day; None: the newest list.

        Returns:
            A table of `symbol`, `status` (active, inactive, or former: on an earlier list only),
            `exchange`, `name`, `tradable` and `asset_id`, by symbol. The source gives no day of
            listing or delisting; `security` tells what bars and actions say of it.

        Raises:
            ValueError: No day.
            NotInLakeError: The lake has no list, or none that is so old.
            BrokenFileError: The file of the list is damaged.
        """
        days = self._files.universe_days()
        if not days:
            raise NotInLakeError(
                f"{self.store.uri} has no list of assets: each collection takes one: "
                "datalake collect"
            )
        wanted = days[-1] if day is None else as_day(day)
        taken = max((each for each in days if each <= wanted), default=None)
        if taken is None:
            raise NotInLakeError(
                f"the first list of assets in {self.store.uri} is of {days[0]}, and none "
                f"of {wanted} or before"
            )
        return self._files.universe_of(taken)

    def explain_minutes(self, symbol: str, day: Day) -> str:
        """Why there are minutes of this symbol in a session, or none, in a sentence.

        Raises:
            ValueError: No day, or no symbol.
            NotInLakeError: A symbol that neither the lake nor its newest universe knows.
            BrokenFileError: The session's file is damaged.
        """
        return self._minutes.explain(symbol, as_day(day))

    def explain(self, symbol: str, day: Day) -> str:
        """Why there is a bar of this symbol on this day, or none, in a sentence or two.

        Example:
            >>> lake.explain("AAPL", "2024-07-04")
            '2024-07-04 is not a trading session but a holiday'

        Raises:
            ValueError: No day, or no symbol.
            NotInLakeError: A symbol that neither the lake nor its newest universe knows.
            BrokenFileError: The session's file is damaged.
        """
        return self._reader.explain(symbol, as_day(day))

    def missing(
        self,
        symbols: str | Iterable[str],
        start: Day | None = None,
        end: Day | None = None,
    ) -> pa.Table:
        """The sessions of which nobody knows whether these symbols traded, and why.

        A symbol that did not trade, as the source says, is not missing; nor is one that the
        source calls no symbol.

        Args:
            symbols: One or several tickers; in any case of letters.
            start: First day; None: the first session of the lake.
            end: Last day; None: the newest session of the lake.

        Returns:
            A table in `lake.reader.MISSING`, by symbol and session, empty when every answer is
            there: `symbol`, `session`, `reason` ("not published", "incomplete", "failed",
            "pending", "never asked") and `error`, the source's own words.

        Raises:
            ValueError: A day that is none, `end` before `start`, or no symbol at all.
            NotInLakeError: A symbol that neither the lake nor its newest universe knows.
            BrokenFileError: The file of a session, or of the universe, is damaged.
        """
        return self._reader.missing(symbols, _day(start), _day(end))

    def coverage(self, start: Day | None = None, end: Day | None = None) -> Coverage:
        """Which sessions from `start` to `end` are published, incomplete or missing.

        Args:
            start: First day; None: the first session of the lake, published or not.
            end: Last day; None: its newest session, published or not.

        Returns:
            `sessions` (how the lake holds each), `gaps` (spans that are missing), `reasons` (why
            symbols failed), and more.

        Raises:
            ValueError: A day that is none, or outside the calendar, or `end` before `start`.
        """
        return coverage_between(self._files, _day(start), _day(end))

    def known(self, day: Day, at: datetime) -> pa.Table:
        """A session's bars as the lake had them published at an instant.

        Args:
            day: The session.
            at: The instant, with its zone.

        Returns:
            A table of bars by symbol, without the column `security`.

        Raises:
            ValueError: No day, or an instant without its zone.
            NotInLakeError: The session is not published, or was not yet then.
            BrokenFileError: A file is damaged.
        """
        instant(at)
        session = self.session(day)
        since = session.provenance.known_since or session.provenance.collected_at
        if at < since:
            raise NotInLakeError(
                f"{as_day(day)} was first published at {since:%Y-%m-%d %H:%M:%S} UTC: nothing of "
                f"it was known at {at:%Y-%m-%d %H:%M:%S %Z}"
            )
        return undone(session.bars, self._restatements.of(as_day(day)), at)

    def refresh(self) -> None:
        """Read the index again at the next call, so that what was published since is found."""
        self._reader.refresh()
        self._securities.refresh()

    # What answers

    @cached_property
    def _reader(self) -> Reader:
        return Reader(self.store, clock=self._clock)

    @cached_property
    def _securities(self) -> SecurityReader:
        return SecurityReader(self.store, self._reader)

    @cached_property
    def _minutes(self) -> Minutes:
        return Minutes(self.store, self._reader, self._clock)

    @cached_property
    def _firsts(self) -> dict[tuple[str, str], datetime]:
        return {}

    def _readers(self, known_at: datetime | None) -> tuple[Reader | KnownReader, SecurityReader]:
        """What reads bars as they are, or as they were known at an instant."""
        if known_at is None:
            return self._reader, self._securities
        since = partial(self._first_published, DAILY)
        known = KnownReader(self._reader, self._restatements, since, instant(known_at))
        return known, KnownSecurities(self.store, known, known_at)

    def _minutes_read(self, asked: Asked, known_at: datetime | None) -> AskedMinutes:
        """What reads minutes as they are, or as they were known at an instant."""
        if known_at is None:
            return self._minutes.asked(asked)
        log, since = Restatements(self.store, MINUTE), partial(self._first_published, MINUTE)
        return KnownMinutes(self._minutes, self._reader, asked, log, since, known_at)

    def _first_published(
        self, dataset: Dataset, sessions: Mapping[date, str]
    ) -> Mapping[date, datetime]:
        """When these sessions of a dataset, in these versions, were first published."""
        keys = {day: layout.session_key(day, layout.FOLDERS[dataset.name]) for day in sessions}
        new = [day for day in sessions if (keys[day], sessions[day]) not in self._firsts]
        for day, told in zip(new, self._files.summaries(keys[day] for day in new), strict=True):
            if isinstance(told, Exception):
                raise told
            since = told.provenance.known_since or told.provenance.collected_at
            self._firsts[keys[day], sessions[day]] = since
        return {day: self._firsts[keys[day], version] for day, version in sessions.items()}


def _day(day: Day | None) -> date | None:
    return None if day is None else as_day(day)


def _columns(columns: str | Iterable[str] | None) -> list[str] | None:
    """The columns of bars that are meant; None for all."""
    if columns is None:
        return None
    wanted = several("columns", columns)
    if unknown := [name for name in wanted if name not in BARS.names]:
        raise ValueError(
            f"bars have no column {unknown[0]!r}: give one or more of {', '.join(BARS.names)}"
        )
    if not wanted or len(set(wanted)) < len(wanted):
        raise ValueError(f"columns {wanted!r}: give one or more, each once, or None for all")
    return wanted


def _refuse_without_following(
    adjust: Sequence[str], asof: Day | None, wanted: Sequence[str] | None
) -> None:
    """Refuse what needs a security, where rows of tickers are wanted."""
    if adjust or asof is not None:
        raise ValueError(
            "follow=False gives the raw rows of tickers: leave out adjustment and asof, "
            "or follow the security"
        )
    if wanted and "security" in wanted:
        raise ValueError(
            "follow=False gives the rows of tickers, which have no column 'security': "
            "leave it out of columns, or follow the security"
        )


def _close(reader: Reader | KnownReader, symbol: str, day: date) -> float | None:
    """The close of a ticker on a day, or in the week after it."""
    try:
        bars = reader.bars(symbol, day, day + timedelta(days=7))
    except NotInLakeError:
        return None
    return bars["close"][0].as_py() if bars.num_rows else None


def _warn(warned: Iterable[Warning]) -> None:
    """Warn whoever called the method that calls this."""
    for warning in warned:
        warnings.warn(warning, stacklevel=3)
