"""A survey tells in which years symbols traded; whatever it tells, it only packs requests."""

import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datalake_assets import market_calendar
from datalake_assets.collection.errors import (
    PermanentError,
    RefusedError,
    RejectedSymbolError,
    StoppedError,
    TransientError,
)
from datalake_assets.collection.plan import Packing
from datalake_assets.collection.progress import Display, Snapshot
from datalake_assets.collection.rate_limit import RateLimiter
from datalake_assets.collection.retry import Caller, RetryPolicy
from datalake_assets.collection.survey import Survey, survey
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.pipeline.publication import CollectionOptions, Origin, Publication
from datalake_assets.storage.store import open_store
from datalake_assets_tests.collection.tables import bar, names, table
from datalake_assets_tests.fakes import FakeClock, ScriptedSource

FIRST, LAST = 2011, 2026
TRADED = {
    name: frozenset(range(FIRST + number % 7, LAST + 1 - number % 5)) - {2015 + number % 3}
    for number, name in enumerate(names(40))
} | {"SILENT": frozenset[int]()}


class ScriptedYears:
    """A source of years that answers from a table, a few bars a page, and errs by a script.

    Args:
        traded: In which years each symbol trades.
        page_limit: Bars of one page at most. A full page has a token, even if nothing follows.
        errors: For the number of a request, counted from 0, what is raised instead of an answer.
        malformed: Names of which one is enough to refuse a whole request.
        named: Does the refusal tell the name?
    """

    def __init__(
        self,
        traded: Mapping[str, Iterable[int]],
        *,
        page_limit: int = 10_000,
        errors: Mapping[int, BaseException] | None = None,
        malformed: Iterable[str] = (),
        named: bool = True,
    ) -> None:
        self._traded, self._page_limit, self._errors = traded, page_limit, errors or {}
        self._malformed, self._named = frozenset(malformed), named
        self._lock, self._numbers = threading.Lock(), count()
        self.asked: list[tuple[str, ...]] = []

    def __call__(
        self, symbols: tuple[str, ...], first: int, last: int, page_token: str | None
    ) -> tuple[Mapping[str, Sequence[int]], str | None]:
        with self._lock:
            number = next(self._numbers)
            self.asked.append(symbols)
        if error := self._errors.get(number):
            raise error
        if refused := sorted(self._malformed.intersection(symbols)):
            raise RejectedSymbolError("invalid symbol", *refused[: int(self._named)])
        every = [
            (symbol, year)
            for symbol in sorted(symbols)
            for year in sorted(self._traded.get(symbol, ()))
            if first <= year <= last
        ]
        begin = int(page_token or 0)
        page: dict[str, list[int]] = {}
        for symbol, year in every[begin : begin + self._page_limit]:
            page.setdefault(symbol, []).append(year)
        stop = begin + self._page_limit
        return page, str(stop) if len(every) >= stop else None


def caller(stop: threading.Event | None = None, attempts: int = 2) -> Caller:
    clock = FakeClock()
    limiter = RateLimiter(1e9, clock=clock)
    return Caller(limiter, RetryPolicy(attempts=attempts), clock=clock, stop=stop)


def taken(ask: ScriptedYears, size: int = 500, symbols: Iterable[str] = TRADED) -> Survey:
    return survey(symbols, FIRST, LAST, ask, caller(), symbols_per_request=size, workers=4)


def left_out(found: Survey) -> set[str]:
    return set(TRADED) - set(found.years)


# Asking


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from(sorted(TRADED)), max_size=60),
    st.integers(1, 50),
    st.integers(30, 2_000),
    st.integers(1, 8),
)
def test_it_is_the_same_however_symbols_and_bars_are_split(
    symbols: list[str], size: int, page: int, workers: int
) -> None:
    source = ScriptedYears(TRADED, page_limit=page)
    found = survey(
        symbols, FIRST, LAST, source, caller(), symbols_per_request=size, workers=workers
    )
    assert found == Survey(FIRST, LAST, {name: TRADED[name] for name in set(symbols)})
    assert max(map(len, source.asked), default=0) <= size


def test_a_symbol_is_asked_for_once() -> None:
    source = ScriptedYears(TRADED)
    taken(source, 10, [*TRADED, *TRADED])
    assert sorted(name for asked in source.asked for name in asked) == sorted(TRADED)
    assert [len(asked) for asked in sorted(source.asked)] == [10, 10, 10, 10, 1]


def test_bars_of_symbols_that_were_not_asked_for_are_not_taken() -> None:
    found = survey(["B"], 2020, 2021, lambda *_: ({"A": [2020], "B": [2021]}, None), caller())
    assert found.years == {"B": frozenset({2021})}


def test_nothing_to_ask_for_is_an_empty_survey() -> None:
    source = ScriptedYears(TRADED)
    assert taken(source, symbols=()) == Survey(FIRST, LAST, {})
    assert source.asked == []


def test_a_name_that_is_refused_costs_the_others_nothing() -> None:
    malformed = names(40)[3:6]
    source = ScriptedYears(TRADED, malformed=malformed)
    found = taken(source, 10)
    assert left_out(found) == set(malformed)
    assert all(found.years[name] == TRADED[name] for name in found.years)
    assert len(source.asked) == 5 + 3, "once more for each of them"


def test_a_question_of_refused_names_only_ends() -> None:
    source = ScriptedYears(TRADED, malformed=TRADED)
    assert left_out(taken(source, 3)) == set(TRADED)
    assert len(source.asked) == len(TRADED)


def test_a_refusal_that_names_nobody_leaves_out_its_question() -> None:
    source = ScriptedYears(TRADED, malformed=["S00003"], named=False)
    assert left_out(taken(source, 10)) == set(sorted(TRADED)[:10])
    assert len(source.asked) == 5


def test_a_refusal_of_a_name_that_was_not_asked_for_leaves_out_its_question() -> None:
    source = ScriptedYears(TRADED, errors={0: RejectedSymbolError("invalid symbol: X", "X")})
    assert len(left_out(taken(source, 10))) == 10
    assert len(source.asked) == 5


@pytest.mark.parametrize(
    "errors", [[PermanentError("HTTP 400")], [TransientError("HTTP 503"), TransientError("again")]]
)
def test_symbols_whose_question_fails_are_left_out_and_expected_always(
    errors: list[Exception],
) -> None:
    asked = sorted(TRADED)
    source = ScriptedYears(TRADED, errors=dict(enumerate(errors)))
    found = survey(TRADED, FIRST, LAST, source, caller(), symbols_per_request=10, workers=1)
    assert left_out(found) == set(asked[:10])
    days = market_calendar.sessions(date(2020, 1, 2), date(2020, 3, 31))
    bars = found.expected(days)
    assert {bars(name) for name in asked[:10]} == {len(days)}
    assert bars("SILENT") == 0


def test_a_symbol_whose_years_cant_be_read_is_left_out_and_costs_no_other() -> None:
    found = survey(["A", "B"], 2020, 2021, lambda *_: ({"A": None, "B": [2021]}, None), caller())
    assert found.years == {"B": frozenset({2021})}


@pytest.mark.parametrize("nulls", [1, 2])
def test_null_instead_of_years_is_asked_for_a_second_time_and_then_means_none(nulls: int) -> None:
    asked = []

    def ask(
        symbols: tuple[str, ...], *_: object
    ) -> tuple[Mapping[str, Sequence[int]] | None, None]:
        asked.append(symbols)
        return (None if len(asked) <= nulls else {"A": [2020]}), None

    found = survey(["A"], 2020, 2021, ask, caller())
    assert found.years == {"A": frozenset() if nulls == 2 else frozenset({2020})}
    assert len(asked) == 2


def test_what_can_pass_is_tried_again() -> None:
    source = ScriptedYears(TRADED, errors={0: TransientError("HTTP 503")})
    assert taken(source, 10).years == TRADED


@pytest.mark.parametrize(("pages", "whole"), [(1, True), (19, True), (20, True), (21, False)])
def test_a_question_may_take_twenty_pages(pages: int, whole: bool) -> None:
    traded = {"A": range(2000, 2000 + pages * 3 - 1), "B": [2000]}
    source = ScriptedYears(traded, page_limit=3)
    found = survey(traded, 1900, 2100, source, caller(), symbols_per_request=1)
    expected = {name: frozenset(years) for name, years in traded.items()}
    assert found.years == (expected if whole else {"B": frozenset({2000})})


def test_a_token_that_never_ends_leaves_out_its_question() -> None:
    asked = []

    def endless(
        symbols: tuple[str, ...], first: int, last: int, token: str | None
    ) -> tuple[Mapping[str, Sequence[int]], str | None]:
        asked.append(token)
        return {symbols[0]: [2020]}, "again" if symbols == ("A",) else None

    found = survey(["A", "B"], FIRST, LAST, endless, caller(), symbols_per_request=1)
    assert found.years == {"B": frozenset({2020})}
    assert asked.count("again") == 19


# Ending early


@pytest.mark.parametrize("error", [RefusedError("HTTP 401"), KeyboardInterrupt()])
def test_what_rules_out_every_request_ends_it_and_stops_the_other_threads(
    error: BaseException,
) -> None:
    stop, source = threading.Event(), ScriptedYears(TRADED, errors={2: error})

    def slow(*asked: Any) -> tuple[Mapping[str, Sequence[int]], str | None]:
        """An answer after the error comes when all are told to stop."""
        if len(source.asked) > 2:
            assert stop.wait(60)
        return source(*asked)

    with pytest.raises(type(error)):
        survey(TRADED, FIRST, LAST, slow, caller(stop), symbols_per_request=1, workers=1, stop=stop)
    assert stop.is_set()
    assert len(source.asked) <= 4, "that which was under way, and none after it"


def test_a_refusal_without_a_stop_event_is_raised_too() -> None:
    with pytest.raises(RefusedError, match="401"):
        taken(ScriptedYears(TRADED, errors={0: RefusedError("HTTP 401")}), 10)


def test_it_ends_when_it_is_told_to_stop() -> None:
    stop, asked = threading.Event(), []

    def ask(symbols: tuple[str, ...], *_: object) -> tuple[Mapping[str, Sequence[int]], None]:
        asked.append(symbols)
        stop.set()
        return {}, None

    with pytest.raises(StoppedError):
        survey(TRADED, FIRST, LAST, ask, caller(stop), symbols_per_request=1, workers=1, stop=stop)
    assert len(asked) == 1


# What is expected

YEAR = market_calendar.sessions(date(2020, 1, 1), date(2020, 12, 31))
QUARTERS = [[day for day in YEAR if (day.month - 1) // 3 == quarter] for quarter in range(4)]


def expects(years: Iterable[int], days: Sequence[date], first: int = FIRST) -> float:
    return Survey(first, LAST, {"A": frozenset(years)}).expected(days)("A")


def test_one_that_was_not_surveyed_is_expected_always() -> None:
    assert Survey(FIRST, LAST, {}).expected(YEAR)("A") == len(YEAR)


@pytest.mark.parametrize("years", [[], [2018], [2019, 2021], [2011, 2026]])
def test_one_that_did_not_trade_in_the_year_is_not_expected(years: list[int]) -> None:
    assert expects(years, YEAR) == 0


def test_one_that_traded_in_the_years_around_is_expected_in_every_session() -> None:
    assert expects([2019, 2020, 2021], YEAR) == len(YEAR)
    assert all(expects([2019, 2020, 2021], days) == len(days) for days in QUARTERS)


def test_in_its_first_year_it_is_expected_more_and_more_and_in_its_last_less_and_less() -> None:
    begun = [expects([2020, 2021], days) / len(days) for days in QUARTERS]
    ended = [expects([2019, 2020], days) / len(days) for days in QUARTERS]
    assert begun == pytest.approx([1 / 8, 3 / 8, 5 / 8, 7 / 8], abs=0.01)
    assert ended == pytest.approx([7 / 8, 5 / 8, 3 / 8, 1 / 8], abs=0.01)
    alone = [expects([2020], days) / len(days) for days in QUARTERS]
    assert alone == pytest.approx([b * e for b, e in zip(begun, ended, strict=True)])


def test_before_the_first_year_surveyed_and_after_the_last_nothing_is_assumed() -> None:
    first = market_calendar.sessions(date(FIRST, 1, 1), date(FIRST, 3, 31))
    last = market_calendar.sessions(date(LAST, 10, 1), date(LAST, 12, 31))
    assert expects([FIRST, FIRST + 1], first) == len(first)
    assert expects([LAST - 1, LAST], last) == len(last)
    assert expects([FIRST, FIRST + 1], first, first=FIRST - 1) < len(first) / 4


def test_a_span_over_new_year_counts_each_year_for_itself() -> None:
    days = market_calendar.sessions(date(2019, 12, 2), date(2020, 1, 31))
    before, after = (sum(day.year == year for day in days) for year in (2019, 2020))
    assert expects([2018, 2019], days) == pytest.approx(before * (1 - 350 / 366), abs=0.5)
    assert expects([2020, 2021], days) == pytest.approx(after * 16 / 366, abs=0.5)
    assert expects([2018, 2019, 2020, 2021], days) == before + after
    apart = [[day for day in days if day.year == year] for year in (2019, 2020)]
    assert expects([2019, 2020], days) == pytest.approx(
        sum(expects([2019, 2020], part) for part in apart)
    )


@given(
    st.sets(st.integers(FIRST, LAST)),
    st.integers(0, len(YEAR) - 1),
    st.integers(1, 70),
)
def test_never_less_than_nothing_nor_more_than_every_session(
    years: set[int], start: int, length: int
) -> None:
    days = YEAR[start : start + length]
    assert 0 <= expects(years, days) <= len(days)
    assert expects(years, []) == 0


@pytest.mark.parametrize(
    ("days", "covered"),
    [
        ([], True),
        ([date(2011, 1, 3), date(2026, 12, 31)], True),
        ([date(2010, 12, 31), date(2011, 1, 3)], False),
        ([date(2026, 12, 31), date(2027, 1, 4)], False),
    ],
)
def test_it_covers_the_years_that_were_asked_for(days: list[date], covered: bool) -> None:
    assert Survey(FIRST, LAST, {}).covers(days) is covered


# A wrong survey costs pages, never bars

DAYS = market_calendar.sessions(date(2023, 12, 22), date(2024, 1, 5))
SOME = names(25)
BARS = table(bar(name, day) for name in SOME[:20] for day in DAYS)


def collected(known: Survey | None) -> tuple[list[object], ScriptedSource, Publication]:
    """What stands in the lake after a collection that is packed by this survey."""
    lake = LakeWriter(open_store("memory://"))
    lake.claim("test")
    source, clock = ScriptedSource(BARS, page_limit=40), FakeClock()
    options = CollectionOptions(
        RateLimiter(1e9, clock=clock), packing=Packing(bars=39, symbols=12), workers=3
    )
    publication = Publication(dict.fromkeys(DAYS, SOME), lake, options, survey=known)
    outcomes = list(publication.run(source, Origin("test", DAYS[-1], "run"), clock=clock))
    assert all(outcome.published for outcome in outcomes)
    return [(lake.read(day).bars, lake.read(day).ledger) for day in DAYS], source, publication


@settings(max_examples=25)
@given(st.dictionaries(st.sampled_from(SOME), st.frozensets(st.integers(2022, 2025)), max_size=25))
def test_whatever_a_survey_tells_the_lake_is_the_one_without_it(
    years: dict[str, frozenset[int]],
) -> None:
    assert collected(Survey(2022, 2025, years))[0] == collected(None)[0]


def test_a_survey_that_calls_all_silent_though_they_trade_costs_pages_only() -> None:
    lying = Survey(2022, 2025, dict.fromkeys(SOME, frozenset()))
    lake, source, publication = collected(lying)
    assert lake == collected(None)[0]
    assert publication.plan.requests == math.ceil(25 / 12)
    assert len(source.requests) > publication.plan.requests
    assert any(request.token for request in source.requests)


def test_a_survey_of_other_years_is_not_packed_by() -> None:
    other = Survey(2011, 2023, dict.fromkeys(SOME, frozenset()))
    assert collected(other)[2].plan == collected(None)[2].plan


def test_a_survey_shows_how_far_it_is_and_its_end_once() -> None:
    shown: list[tuple[Snapshot, bool]] = []

    class Remembering(Display):
        def show(self, snapshot: Snapshot, *, final: bool) -> None:
            shown.append((snapshot, final))

    refused = {1: PermanentError("no")}
    source = ScriptedYears(TRADED, errors=refused)
    limiter = RateLimiter(1_000_000)
    survey(
        TRADED,
        FIRST,
        LAST,
        source,
        Caller(limiter, RetryPolicy(attempts=1)),
        symbols_per_request=10,
        workers=1,
        display=Remembering(),
    )

    assert [final for _, final in shown].count(True) == 1
    last, final = shown[-1]
    assert final
    assert last.label == "years of 41 symbols"
    assert (last.chunks, last.chunks_done, last.requests) == (5, 5, 5)
    assert (last.symbols_ok, last.symbols_failed) == (31, 10), "those of the refused request"
