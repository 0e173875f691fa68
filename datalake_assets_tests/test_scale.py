"""The page on scale says what the planner, the prices and the simulation say, and no more.

Its tables are compared with `benchmarks.scale`, its other numbers must be printed there, and what
is reckoned with is measured again. Not here: whether planner and limiter are right (their tests).
"""

import re
from pathlib import Path

import pytest

from benchmarks import scale
from benchmarks.scale import CASES, DAILY, KINDS, MINUTE, SESSIONS, SYMBOLS, TRADES, Simulated
from datalake_assets.collection.cost import BYTES_PER_BAR, BYTES_PER_BAR_IN_YEAR_FILE, cost
from datalake_assets.collection.dataset import MINUTE as MINUTE_BARS

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = (DOCS / "scale.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"there is no section {title!r}"
    return found[1]


@pytest.fixture(scope="module")
def tables() -> dict[str, str]:
    return scale.tables()


@pytest.fixture(scope="module")
def month() -> list[Simulated]:
    """Every third case of the simulation, run: each takes three seconds."""
    return [scale.simulate(*case) for case in CASES[::3]]


# --- the page -------------------------------------------------------------------------------------


def test_every_table_of_the_page_is_the_one_that_is_computed(tables: dict[str, str]) -> None:
    for title, text in tables.items():
        assert text in section(title), f"{title}: run `python -m benchmarks.scale`"


def test_the_simulation_comes_out_as_the_page_has_it(month: list[Simulated]) -> None:
    rows = re.findall(r"^\| \d.* \|$", section("Threads"), re.MULTILINE)
    told = [[float(re.sub(r"[,% ]", "", cell)) for cell in row.split("|")[1:-1]] for row in rows]

    for (limit, latency, law, threads, *_), case in zip(told, CASES, strict=True):
        assert (limit, threads, latency) == case
        assert law == pytest.approx(scale.threads_needed(limit, latency), abs=0.06)
    # What is simulated: of every third row.
    for cells, done in zip(told[::3], month, strict=True):
        *_, requests, minutes, foretold, used, most = cells
        assert requests == done.requests
        assert foretold == pytest.approx(done.foretold * 100, abs=0.51)
        # Which thread meets which latency is the machine's choice; the sum hardly depends on it.
        assert minutes == pytest.approx(done.hours * 60, rel=0.03, abs=0.1)
        assert used == pytest.approx(done.used * 100, abs=3)
        assert most == pytest.approx(done.most, rel=0.03, abs=2)


def numbers(text: str) -> set[str]:
    """Numbers of three digits and more, or with a decimal point; not years, links and code."""
    text = re.sub(r"\]\([^)]*\)|`[^`]*`|dagster#\d+|\d{4}-\d\d-\d\d", "", text)
    found = re.findall(r"(?<![\w.])\d[\d,]*(?:\.\d+)?", text)
    found = [number.rstrip(",") for number in found]
    return {
        number for number in found if (len(number) >= 3) and not re.fullmatch(r"20[12]\d", number)
    }


@pytest.fixture(scope="module")
def known(tables: dict[str, str]) -> set[str]:
    simulated = re.findall(r"^\|.*\|$", section("Threads"), re.MULTILINE)  # compared above
    printed = [*tables.values(), *simulated, *scale.figures().values()]
    return numbers("\n".join(printed)) | {f"{SYMBOLS:,}", f"{len(SESSIONS):,}"}


def test_every_number_of_the_prose_is_one_that_is_computed(known: set[str]) -> None:
    assert {"42.6", "2,514", "12.26"} <= numbers(PAGE)
    assert sorted(numbers(PAGE) - known) == []


def test_a_number_that_is_not_computed_would_be_found(known: set[str]) -> None:
    wrong = numbers(
        "It takes 2,515 sessions, 0.47 hours and $12.27, since 2016, for 11,000 symbols."
    )
    assert sorted(wrong - known) == ["0.47", "12.27", "2,515"]


@pytest.mark.parametrize(
    ("document", "quoted"),
    [
        ("benchmarks.md", f"{scale.BACKFILL_BARS_PER_CPU_SECOND:,}"),
        ("benchmarks.md", f"{scale.PATH_BARS_PER_CPU_SECOND:,}"),
        ("benchmarks.md", f"| {scale.RUN_MEMORY} |"),
        ("benchmarks.md", f"{scale.MINUTE_BARS_PER_CPU_SECOND:,}"),
        ("benchmarks.md", f"| {scale.MINUTE_RUN_MEMORY:,} |"),
        ("decisions/windows.md", f"{scale.BYTES_PER_BAR_IN_MEMORY} bytes a bar"),
        ("decisions/rate-limiter.md", f"{scale.PERMIT_SECONDS * 1e6:.0f} µs"),
        ("decisions/store.md", " | ".join(f"{rate:,}" for rate in scale.UPLOADS.values())),
    ],
)
def test_what_was_measured_elsewhere_is_still_what_stands_there(document: str, quoted: str) -> None:
    assert quoted in (DOCS / document).read_text(encoding="utf-8")


# --- what is reckoned with ------------------------------------------------------------------------


def test_the_planner_asks_for_hardly_more_than_full_pages() -> None:
    for kind in KINDS:
        pages = kind.all_rows / scale.PAGE
        # Pages of minutes are planned to be nearly full, as it is not sure what they bring.
        most = 1.03 / (MINUTE_BARS.filled if kind is MINUTE else 1.0)
        assert pages <= scale.requests(kind) <= most * pages, kind.name


def test_a_session_of_minutes_has_as_many_as_its_symbols_are_said_to_bring() -> None:
    expected = scale.planned(MINUTE, SESSIONS[:1]).expected
    assert expected == pytest.approx(scale.MINUTES_A_SESSION, rel=0.005)


def test_the_daily_bars_cost_what_the_program_tells_of_its_plan() -> None:
    told = cost(scale.planned(DAILY, SESSIONS), scale.LIMITS[0], density=1.0)

    assert told.requests == scale.requests(DAILY)
    symbol_years = SYMBOLS * len(scale.YEARS)
    by_symbol = DAILY.bytes_of_symbol_year * symbol_years
    of_years = DAILY.all_rows * BYTES_PER_BAR_IN_YEAR_FILE
    assert told.bytes == pytest.approx(DAILY.all_bytes + by_symbol + of_years, rel=0.001)
    assert told.objects == DAILY.session_objects + symbol_years + len(scale.YEARS)
    assert told.minutes / 60 == pytest.approx(
        scale.hours(DAILY, scale.LIMITS[0]) * (1 - scale.SLACK)
    )


def test_the_sizes_are_those_of_files_that_are_really_written() -> None:
    written_down = {
        "BYTES_PER_BAR": BYTES_PER_BAR,
        "BYTES_PER_SYMBOL_YEAR": DAILY.bytes_of_symbol_year,
        "BYTES_PER_MANIFEST": scale.BYTES_PER_MANIFEST,
        "BYTES_PER_MINUTE_BAR": MINUTE.bytes,
        "BYTES_PER_TRADE": TRADES.bytes,
    }
    assert scale.measured_bytes() == pytest.approx(written_down, rel=0.03)


def test_dagsters_records_are_those_of_runs_that_are_really_made() -> None:
    found = scale.measured_records()

    assert (found["ROWS_PER_RUN"], found["ROWS_PER_SESSION"]) == pytest.approx(
        (scale.ROWS_PER_RUN, scale.ROWS_PER_SESSION), abs=2
    )
    # SQLite grows by pages.
    assert found["SQLITE_BYTES_PER_RUN"] == pytest.approx(scale.SQLITE_BYTES_PER_RUN, rel=0.15)
    assert found["SQLITE_BYTES_PER_SESSION"] == pytest.approx(
        scale.SQLITE_BYTES_PER_SESSION, rel=0.15
    )


# --- the simulation -------------------------------------------------------------------------------


def test_every_request_is_sent_once_and_the_failing_ones_again(month: list[Simulated]) -> None:
    planned = scale.planned(MINUTE, scale.MONTH).requests
    for done in month:
        assert done.requests - done.retries == planned
        assert done.retries == pytest.approx(planned * scale.FAILING, rel=0.4)


def test_no_number_of_threads_brings_more_than_the_limit(month: list[Simulated]) -> None:
    for done in month:
        assert done.most <= done.limit
        assert done.used <= 1.001


def test_threads_use_as_much_of_the_limit_as_littles_law_lets_them(month: list[Simulated]) -> None:
    for done in month:
        needed = scale.threads_needed(done.limit, done.latency)
        # Slots lost while all threads wait: most of them where threads are just as many as needed.
        assert done.foretold * 0.88 <= done.used <= done.foretold * 1.03
        if done.threads >= 1.5 * needed:
            assert done.used >= 0.99
    few = [done for done in month if done.threads < scale.threads_needed(done.limit, done.latency)]
    assert len(few) >= 3
