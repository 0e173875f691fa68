"""What the exchange serves: columns of bars, rows of assets, and the `Market` protocol.

How a market makes or reads its bars stands in `synthetic` and `recorded`; how they look on the
wire, in `wire`.
"""

import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import date, datetime
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from datalake_assets.exchange.actions import AnnouncedActions

Ints = npt.NDArray[np.int64]

DOLLAR = 1_000_000
"""Prices are whole millionths of a dollar: exact, and as fine as Alpaca's own (six decimals)."""

_TICKER = re.compile(r"[A-Z]{1,6}(\.[A-Z]{1,4})?")


def is_ticker(symbol: str) -> bool:
    """Whether the bars endpoint takes `symbol` for one.

    Alpaca's exact rule is not published. Known: class shares are dotted (`BRK.B`); digits, `-`
    and `:` are refused (`0029900E0`, `BRK-B`), and with them the whole request.
    """
    return _TICKER.fullmatch(symbol) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars:
    """Bars as columns of equal length; prices in millionths of a dollar.

    `symbol` and `session` are positions: in `symbols`, and in the market's own `sessions`. Bars of
    other lengths than a day have positions of their own there, as their stamps tell.
    """

    symbols: Sequence[str]
    symbol: Ints
    session: Ints
    open: Ints
    high: Ints
    low: Ints
    close: Ints
    vwap: Ints
    volume: Ints
    trade_count: Ints

    def __len__(self) -> int:
        return len(self.symbol)

    def take(self, rows: Ints | slice) -> Self:
        """The same columns with these rows, in this order."""
        return replace(self, **{name: getattr(self, name)[rows] for name in _COLUMNS})

    @classmethod
    def none(cls) -> Self:
        """No bar."""
        return cls(symbols=(), **{name: np.zeros(0, np.int64) for name in _COLUMNS})

    @classmethod
    def concatenate(cls, symbols: Sequence[str], parts: Sequence[Self]) -> Self:
        """Joins parts; each part's `symbols` are found again in `symbols`, which holds them all."""
        position = {symbol: index for index, symbol in enumerate(symbols)}
        moved = [
            np.array([position[s] for s in part.symbols], np.int64)[part.symbol] for part in parts
        ]
        columns = {
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in _COLUMNS
            if name != "symbol"
        }
        return cls(symbols=symbols, symbol=np.concatenate(moved), **columns)


_COLUMNS = tuple(field.name for field in fields(Bars) if field.name != "symbols")


def asset(
    symbol: str,
    *,
    market: bytes,
    identity: str | None = None,
    name: str,
    exchange: str,
    active: bool = True,
    tradable: bool = True,
    easy_to_borrow: bool = True,
    fractionable: bool = True,
    has_options: bool = False,
) -> dict[str, Any]:
    """A row of `/v2/assets` with every field of Alpaca's.

    `market` (≤ 64 bytes) and `identity` (usually the symbol) make the id.
    """
    digest = blake2b((identity or symbol).encode(), key=market, digest_size=16).digest()
    margin = 30 if active else 100
    return {
        "id": str(uuid.UUID(bytes=digest, version=4)),
        "class": "us_equity",
        "exchange": exchange,
        "symbol": symbol,
        "name": name,
        "status": "active" if active else "inactive",
        "tradable": active and tradable,
        "marginable": active,
        "maintenance_margin_requirement": margin,
        "margin_requirement_long": str(margin),
        "margin_requirement_short": str(margin),
        "shortable": active and easy_to_borrow,
        "easy_to_borrow": active and easy_to_borrow,
        "borrow_status": "easy_to_borrow" if active and easy_to_borrow else "hard_to_borrow",
        "fractionable": active and fractionable,
        "attributes": ["has_options"] if active and has_options else [],
    }


class Market(Protocol):
    """A source of daily bars that answers the same whenever and wherever it is asked."""

    @property
    def market_id(self) -> str:
        """Which market this is: equal names serve equal bars."""

    @property
    def sessions(self) -> Sequence[date]:
        """Every session the market knows, ascending."""

    def visible(self, now: datetime) -> int:
        """How many of `sessions`, from the first, may be served at `now`."""

    def bars(self, symbols: Sequence[str], first: int, stop: int, asof: date | None = None) -> Bars:
        """The bars of `symbols` in `sessions[first:stop]`, by symbol as given, then by session.

        A symbol that the market does not know has no bar; that is no error.

        Args:
            symbols: Tickers, each once.
            first: Position of the first session.
            stop: Position after the last one.
            asof: `None`: the bars that traded under the ticker. A day: all bars of the security
                that held the ticker on it, under whatever ticker they traded; where nobody held
                it, as with `None`.
        """

    def held(self, symbol: str, asof: date) -> int | None:
        """Which security the ticker meant on a day, `None`: nobody's.

        As the mapping knows it: a renamed company has its new ticker from the day after.
        """

    def assets(self, today: date) -> Sequence[dict[str, Any]]:
        """Rows of `/v2/assets` on a day, sorted by class, exchange and symbol."""

    def actions(self) -> "AnnouncedActions":
        """What happens to the securities, as the source tells it when it makes no mistake."""
