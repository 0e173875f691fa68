"""The recorded market: replays daily bars from a CSV or Parquet file, exactly as they stand there.

Nothing is invented but what the file lacks and the wire demands: without `vwap` it is the mean of
high, low and close to four decimals, without `trade_count` each hundred shares are a trade. Bars
that break the rules of OHLC are replayed too: the real exchange serves such a bar now and then.
"""

from bisect import bisect_left
from collections.abc import Sequence
from datetime import date, datetime
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from datalake_assets import market_calendar
from datalake_assets.exchange.actions import ListedActions
from datalake_assets.exchange.market import DOLLAR, Bars, Ints, asset, is_ticker
from datalake_assets.exchange.recorded_actions import recorded_actions
from datalake_assets.exchange.recorded_names import FOREVER, Holding, RecordedNames

_NAMES = {
    "symbol": ("symbol", "ticker"),
    "session": ("session", "date", "timestamp"),
    "open": ("open",),
    "high": ("high",),
    "low": ("low",),
    "close": ("close",),
    "volume": ("volume",),
    "vwap": ("vwap",),
    "trade_count": ("trade_count",),
}
_OPTIONAL = ("vwap", "trade_count")


class RecordingError(ValueError):
    """A file that cannot be replayed; the message names the file, the fault and the row."""


def market_id(path: Path, actions: Path | None = None, names: Path | None = None) -> str:
    """The name of the market that `RecordedMarket` makes of the files: by their content."""
    digest = sha256()
    for each in (path, actions, names):
        if each is not None:
            with each.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    return f"recorded/{digest.hexdigest()[:16]}"


class RecordedMarket:
    """The bars of a file, and if there are such files, corporate actions and changes of names.

    Assets are the tickers that nobody has left by the end of the recording, all of them active.

    Args:
        path: `.parquet`, or CSV with a header, also gzipped. Columns, in any case: `symbol` (or
            `ticker`), `session` (or `date`, or `timestamp`), `open`, `high`, `low`, `close`,
            `volume`, and if there `vwap`, `trade_count`; others are ignored. Prices in dollars, at
            most six decimals, as Alpaca's. Days are dates, numbers like 20240105, or instants:
            these count by their day in New York, but by that in UTC when all of them are midnights
            there, as a date becomes an instant.
        actions: A CSV file of corporate actions (`recorded_actions` says which columns).
        names: A CSV file of renames (`RecordedNames` says which columns).

    Raises:
        RecordingError: a column is missing, a value too, a symbol is no ticker, a day no session
            or twice there, a price negative, not finite, or finer than the wire carries.
    """

    def __init__(self, path: Path, actions: Path | None = None, names: Path | None = None) -> None:
        self.market_id = market_id(path, actions, names)
        self._path = path
        columns = self._read()
        days, day_index = np.unique(columns["session"], return_inverse=True)
        symbols, name_index = np.unique(columns["symbol"], return_inverse=True)
        self.sessions: Sequence[date] = tuple(days.tolist())
        self._check_names(symbols.tolist())
        order = np.lexsort((day_index, name_index))
        bars = Bars(
            symbols=symbols.tolist(),
            symbol=name_index.astype(np.int64),
            session=day_index.astype(np.int64),
            **{name: columns[name] for name in _NAMES if name not in ("symbol", "session")},
        ).take(order)
        again = (np.diff(bars.symbol) == 0) & (np.diff(bars.session) == 0)
        if again.any():
            row = int(np.argmax(again))
            symbol, day = bars.symbols[bars.symbol[row]], self.sessions[bars.session[row]]
            raise RecordingError(f"{path}: {symbol} has more than one bar on {day}; keep one")
        self._bars = bars
        self._begin = np.searchsorted(bars.symbol, np.arange(len(symbols) + 1))
        self._row = {symbol: row for row, symbol in enumerate(bars.symbols)}

        session_days = np.array(self.sessions, "datetime64[D]")
        self.names = RecordedNames(
            names,
            {
                symbol: session_days[bars.session[self._begin[row] : self._begin[row + 1]]].tolist()
                for symbol, row in self._row.items()
            },
        )

        self._actions = recorded_actions(actions, self.names, self.market_id)

    def actions(self) -> ListedActions:
        """See `Market.actions`."""
        return self._actions

    def visible(self, now: datetime) -> int:
        """All sessions: what was recorded is history, whatever the clock says."""
        return len(self.sessions)

    def held(self, symbol: str, asof: date) -> int | None:
        """See `Market.held`."""
        return self.names.held(symbol, asof)

    def bars(self, symbols: Sequence[str], first: int, stop: int, asof: date | None = None) -> Bars:
        """See `Market.bars`."""
        known, spans = [], []
        for symbol in symbols:
            security = None if asof is None else self.held(symbol, asof)
            if security is not None:
                held = self.names.by_security[security]
                parts = [self._rows(holding, first, stop) for holding in held]
            elif symbol in self._row:
                whole = Holding(-1, symbol, date.min, FOREVER, renamed=False, left=False)
                parts = [self._rows(whole, first, stop)]
            else:
                continue
            known.append(symbol)
            spans.append(np.concatenate(parts))
        bars = self._bars.take(np.concatenate(spans) if spans else np.arange(0))
        position = np.repeat(np.arange(len(known)), [len(span) for span in spans])
        return Bars(
            **{name: getattr(bars, name) for name in _NAMES if name != "symbol"},
            symbols=known,
            symbol=position,
        )

    def _rows(self, holding: Holding, first: int, stop: int) -> Ints:
        """Where the bars of a holding stand, within the sessions `first` … `stop`."""
        row = self._row.get(holding.ticker)
        if row is None:
            return np.arange(0)
        begin, end = self._begin[row : row + 2]
        since = max(first, bisect_left(self.sessions, holding.first))
        until = min(stop, bisect_left(self.sessions, holding.stop))
        low, high = np.searchsorted(self._bars.session[begin:end], [since, until])
        return np.arange(begin + low, begin + high)

    def assets(self, today: date | None = None) -> Sequence[dict[str, Any]]:
        """See `Market.assets`. What was recorded is history: on every day the same."""
        return self._assets

    @cached_property
    def _assets(self) -> list[dict[str, Any]]:
        market = self.market_id.encode()
        left = {
            ticker
            for ticker, holdings in self.names.by_ticker.items()
            if holdings[-1].stop != FOREVER
        }
        return [
            asset(symbol, market=market, name=symbol, exchange="NYSE")
            for symbol in self._bars.symbols
            if symbol not in left
        ]

    def _read(self) -> dict[str, npt.NDArray[Any]]:
        """The file's columns by their names here; prices in millionths."""
        table = self._table()
        found: dict[str, Any] = {}
        lower = {name.lower(): name for name in table.column_names}
        for ours, theirs in _NAMES.items():
            name = next((lower[name] for name in theirs if name in lower), None)
            if name is not None:
                column = table[name].combine_chunks()
                if column.null_count:
                    row = pc.index(column.is_null(), True).as_py()
                    raise RecordingError(f"{self._path}: no {name} in row {row + 1}; complete it")
                found[ours] = column
        missing = [name for name in _NAMES if name not in found and name not in _OPTIONAL]
        if missing or not table.num_rows:
            what = f"no column {', '.join(missing)}" if missing else "no bar"
            raise RecordingError(
                f"{self._path}: {what}; a recording has the columns symbol, session, open, high, "
                f"low, close, volume (this one: {', '.join(table.column_names)})"
            )
        return self._convert(found)

    def _table(self) -> Any:
        try:
            if self._path.suffix == ".parquet":
                return pyarrow.parquet.read_table(self._path)
            # TRUE, NA, NAN, INF and NULL are tickers, too: what a column holds decides its type.
            names = pyarrow.csv.open_csv(self._path).schema.names
            tickers = {name: pa.string() for name in names if name.lower() in _NAMES["symbol"]}
            types = pyarrow.csv.ConvertOptions(column_types=tickers)
            return pyarrow.csv.read_csv(self._path, convert_options=types)
        except pa.ArrowException as error:
            raise RecordingError(f"{self._path} cannot be read: {error}") from error

    def _convert(self, found: dict[str, Any]) -> dict[str, npt.NDArray[Any]]:
        try:
            columns: dict[str, npt.NDArray[Any]] = {
                name: self._millionths(found[name], name)
                for name in ("open", "high", "low", "close", "vwap")
                if name in found
            }
            columns["session"] = self._days(found["session"])
            for name in ("volume", "trade_count"):
                if name in found:
                    columns[name] = self._whole(found[name], name)
            columns["symbol"] = np.array(found["symbol"].cast(pa.string()).to_pylist())
        except pa.ArrowException as error:
            raise RecordingError(f"{self._path} cannot be read: {error}") from error
        for name in ("volume", "trade_count"):
            if name in columns and not ((columns[name] >= 0) & (columns[name] < 10**12)).all():
                raise RecordingError(f"{self._path}: {name} is not everywhere 0 … 10**12 - 1")
        if "vwap" not in columns:
            mean = (columns["high"] + columns["low"] + columns["close"]) / 3
            columns["vwap"] = (np.rint(mean / 100) * 100).astype(np.int64)
        columns.setdefault("trade_count", np.maximum(columns["volume"] // 100, 1))
        return columns

    def _millionths(self, column: Any, name: str) -> Ints:
        dollars = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
        with np.errstate(invalid="ignore"):
            scaled = np.rint(dollars * DOLLAR)
            bad = ~((scaled / DOLLAR == dollars) & (dollars >= 0) & (dollars < 100_000_000))
        if bad.any():
            row = int(np.argmax(bad))
            raise RecordingError(
                f"{self._path}: {name} {dollars[row]!r} in row {row + 1} cannot go over the wire, "
                "which carries prices of 0 … 99999999.999999 dollars with at most six decimals; "
                "round or drop it"
            )
        return np.asarray(scaled, np.int64)

    def _whole(self, column: Any, name: str) -> Ints:
        if pa.types.is_floating(column.type):
            numbers = column.to_numpy(zero_copy_only=False)
            if (bad := np.rint(numbers) != numbers).any():
                row = int(np.argmax(bad))
                raise RecordingError(
                    f"{self._path}: {name} {float(numbers[row])!r} in row {row + 1} is no whole "
                    "number; round or drop it"
                )
        return np.asarray(column.cast(pa.int64()).to_numpy(zero_copy_only=False), np.int64)

    def _days(self, column: Any) -> npt.NDArray[Any]:
        """Dates as an array of `datetime64[D]`."""
        if pa.types.is_integer(column.type):
            column = self._from_digits(column)
        elif pa.types.is_timestamp(column.type) and column.type.tz is not None:
            column = self._from_instants(column)
        return np.asarray(column.cast(pa.date32()).to_numpy(zero_copy_only=False), "datetime64[D]")

    def _from_digits(self, column: Any) -> Any:
        try:
            return pc.strptime(column.cast(pa.string()), format="%Y%m%d", unit="s")
        except pa.ArrowInvalid as error:
            raise RecordingError(
                f"{self._path}: days as numbers must be like 20240105 ({error}); write them so, or "
                "as dates"
            ) from error

    def _from_instants(self, column: Any) -> Any:
        """Instants count by their day in New York, but midnights in UTC are written-out dates."""
        instants = column.cast(pa.timestamp("us", "UTC"))
        midnight = pc.equal(pc.floor_temporal(instants, unit="day"), instants)
        if pc.all(midnight).as_py():
            return instants
        if pc.any(midnight).as_py():
            row = pc.index(midnight, True).as_py()
            raise RecordingError(
                f"{self._path}: the instant in row {row + 1} is a midnight in UTC, as a date is "
                "written, and others are not; write all of them as dates"
            )
        return pc.local_timestamp(instants.cast(pa.timestamp("us", "America/New_York")))

    def _check_names(self, names: list[str]) -> None:
        for symbol in names:
            if not is_ticker(symbol):
                raise RecordingError(f"{self._path}: {symbol!r} is no ticker; rename or drop it")
        for day in self.sessions:
            try:
                known = market_calendar.is_session(day)
            except market_calendar.OutsideCalendar as error:
                raise RecordingError(f"{self._path}: {error}") from error
            if not known:
                raise RecordingError(f"{self._path}: {day} is no XNYS session; drop its bars")
