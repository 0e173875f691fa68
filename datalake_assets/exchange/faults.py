"""Faults that the exchange commits on purpose: which there are, and which request gets one.

How a fault looks on the wire stands in `server`. A fault is committed on a request that would
otherwise have been answered: it passed authentication and the rate limit.
"""

import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Kind = Literal[
    "status",  # an error status instead of the answer
    "reset",  # the connection is reset, nothing answered
    "cut",  # Content-Length as due, half of the body, then closed
    "silence",  # valid headers, then nothing for `seconds`, then closed
    "drip",  # the whole body, spread over `seconds`
    "null_bars",  # "bars":null
    "empty_page",  # no bars and a token; with it, what this page should have held
    "trailing_page",  # a last page has a token too; with it, an empty page
    "repeated_bar",  # the first bar of the page twice
    "overlapping_page",  # the next page begins with this page's last bar
    "endless_token",  # the token leads to this page again
    "odd_time",  # a bar that starts at 14:30 in UTC; of minutes, one that starts half a minute late
    "unreadable_time",  # a bar whose time is empty
    "odd_volume",  # a bar with a negative volume
    "fractional_volume",  # a bar with half a share more
    "no_statistics",  # a bar without vw and n
    "null_symbol",  # null instead of a symbol's bars
    "other_case",  # a symbol's bars under its name in lower case
    "stranger",  # the bars of a symbol also under a name that was not asked for
    "symbol_twice",  # a symbol's bars under two keys of the same name
    "empty_token",  # a last page's token is "", not null
]
PAGE_KINDS = frozenset[str](get_args(Kind)[5:])
"""Kinds that change a page of bars; on another answer they do nothing."""

ODD_KINDS = frozenset[str](get_args(Kind)[11:])
"""Kinds that make an item of a page odd: of `symbol`, or of the first one. Asking again within one
collection need not help, so they are committed where they are named, and not drawn by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault.

    Attributes:
        kind: What happens.
        status: For `status`: 429 (JSON as Alpaca's) or another error (HTML as nginx's).
        message: For `status`: what it says instead, in JSON.
        symbol: For an odd item: whose; None: the first one's.
        retry_after: For `status`: seconds for a Retry-After header; Alpaca itself sends none.
        seconds: For `silence` and `drip`: how long.
    """

    kind: Kind
    status: int = 503
    message: str | None = None
    symbol: str | None = None
    retry_after: int | None = None
    seconds: float = 30.0

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind={self.kind!r}: a fault is one of {', '.join(get_args(Kind))}")
        if not 400 <= self.status <= 599:
            raise ValueError(f"status={self.status}: an error status is 400 … 599")
        if self.seconds < 0 or (self.retry_after or 0) < 0:
            raise ValueError("seconds and retry_after are not negative")

    def __str__(self) -> str:
        if self.kind != "status":
            return self.kind
        return f"{self.status}" if self.retry_after is None else f"{self.status}+retry_after"


@dataclass(frozen=True, slots=True)
class Arrival:
    """What a rule sees of a request: its number at this exchange (from 1), path and parameters."""

    number: int
    path: str
    query: Mapping[str, str]

    @property
    def of_bars(self) -> bool:
        """Whether a page of bars is asked for."""
        return self.path.endswith("/bars")


Faults = Callable[[Arrival], Fault | None]


@dataclass(slots=True)
class Rule:
    """Commits `fault` on requests that match.

    Attributes:
        fault: What to commit.
        times: On how many of them; `None`: on all.
        skip: How many of them to answer properly first.
        path: They ask for a path that begins so.
        symbol: They name this symbol.
        when: They satisfy this.
    """

    fault: Fault
    times: int | None = 1
    skip: int = 0
    path: str = "/"
    symbol: str | None = None
    when: Callable[[Arrival], bool] | None = None
    _seen: int = field(default=0, init=False)

    def applies(self, arrival: Arrival) -> bool:
        """Whether this request gets the fault; counts it if it matches."""
        symbols = arrival.query.get("symbols", "").split(",")
        if (
            not arrival.path.startswith(self.path)
            or (self.symbol is not None and self.symbol not in symbols)
            or (self.when is not None and not self.when(arrival))
        ):
            return False
        self._seen += 1
        return self._seen > self.skip and (
            self.times is None or self._seen <= self.skip + self.times
        )


class FaultScript:
    """Rules in order; the first one that applies to a request decides."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._rules = tuple(rules)

    def __call__(self, arrival: Arrival) -> Fault | None:
        """The fault of this request, if any."""
        return next((rule.fault for rule in self._rules if rule.applies(arrival)), None)


def every_fault(seconds: float = 30.0) -> tuple[Fault, ...]:
    """One of each that passes; of `status`, the ones that a client meets in practice."""
    statuses = (
        Fault(kind="status", status=429),
        Fault(kind="status", status=429, retry_after=1),
        *(Fault(kind="status", status=status) for status in (500, 502, 503, 504)),
    )
    others = (
        Fault(kind=kind, seconds=seconds)
        for kind in get_args(Kind)
        if kind != "status" and kind not in ODD_KINDS
    )
    return (*statuses, *others)


class RandomFaults:
    """A share of all requests gets a fault; which one is a function of (seed, request number).

    Args:
        rate: The share, 0 … 1.
        seed: Which draw.
        faults: What is drawn from, with equal chances; page faults fall on pages only.
    """

    def __init__(self, rate: float, seed: int = 0, faults: Sequence[Fault] | None = None) -> None:
        if not 0 <= rate <= 1:
            raise ValueError(f"rate={rate}: the share of requests with a fault is 0 … 1")
        self._rate, self._seed = rate, seed
        self._pages = tuple(every_fault() if faults is None else faults)
        self._others = tuple(fault for fault in self._pages if fault.kind not in PAGE_KINDS)

    def __call__(self, arrival: Arrival) -> Fault | None:
        """The fault of this request, if any."""
        draw = random.Random(f"{self._seed}/{arrival.number}")
        faults = self._pages if arrival.of_bars else self._others
        return draw.choice(faults) if draw.random() < self._rate and faults else None


def read_faults(text: str) -> Faults:
    """Faults as JSON.

    An object is random: `{"rate": 0.3, "seed": 1}`, optionally with `"kinds": ["reset", "503"]`
    (as `str(fault)` names them) and `"seconds"` for silence and drip. A list is a script:
    `[{"kind": "status", "status": 429, "times": 2, "path": "/v2/stocks"}]`, a `Rule` each.

    Raises:
        ValueError: it is neither.
    """
    try:
        given = json.loads(text)
        if isinstance(given, list):
            return FaultScript(_rule(**rule) for rule in given)
        return _random(**given)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the faults {text!r} cannot be read: {error}; give for example "
            '{"rate": 0.3, "seed": 1} or [{"kind": "reset", "times": 2}]'
        ) from error


def _random(
    rate: float, seed: int = 0, kinds: Sequence[str] | None = None, seconds: float = 30.0
) -> RandomFaults:
    faults = every_fault(seconds)
    if kinds is not None:
        odd = (Fault(kind=kind) for kind in get_args(Kind) if kind in ODD_KINDS)
        named = {str(fault): fault for fault in (*faults, *odd)}
        if unknown := [kind for kind in kinds if kind not in named]:
            raise ValueError(f"no fault is called {unknown[0]!r}; there are {', '.join(named)}")
        faults = tuple(named[kind] for kind in kinds)
    return RandomFaults(rate, seed, faults)


def _rule(
    times: int | None = 1, skip: int = 0, path: str = "/", symbol: str | None = None, **fault: Any
) -> Rule:
    of = Fault(**fault, symbol=symbol)
    return Rule(of, times=times, skip=skip, path=path, symbol=symbol)
