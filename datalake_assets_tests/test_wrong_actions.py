"""Each mistake that is known of the real source, from the wire to what a reader gets.

One exchange makes them all, each about another security: wrong actions, and wrong bars. Its bars
are collected and its actions swept over HTTP, twice: the second time after it has corrected what it
corrects. Then the jobs derive who is who and what prices are worth. Beside it stands the truth.

Not here: the exchange's own behaviour (`exchange.test_errata`), the rules by themselves
(`securities`).
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from benchmarks.truth import World
from datalake_assets import market_calendar
from datalake_assets.actions.log import ActionLog
from datalake_assets.definitions import build_definitions
from datalake_assets.exchange.actions import Action
from datalake_assets.exchange.errata import Errata, Erratum
from datalake_assets.exchange.events import Kind
from datalake_assets.exchange.market import DOLLAR
from datalake_assets.exchange.process import ExchangeServer
from datalake_assets.exchange.synthetic import SyntheticMarket
from datalake_assets.lake.lake import Lake
from datalake_assets.lake.restatements import Restatements
from datalake_assets.lake.security_reader import SecuritiesWarning
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.resources import AlpacaResource, CollectorResource, LakeResource
from datalake_assets.securities.decisions import Decision, decide
from datalake_assets.securities.findings import read_findings
from datalake_assets.settings import Settings
from datalake_assets.storage import layout
from datalake_assets.storage.store import open_store
from datalake_assets_tests.securities.deriving import derive
from datalake_assets_tests.workbench import QUIET

# Early ones, for the whole history is swept, and the exchange tells nothing of days to come.
DAYS = market_calendar.sessions(date(2012, 1, 3), date(2014, 12, 31))
CHANGED = datetime(2015, 1, 2, 12, tzinfo=UTC)
"""When the source corrects itself: between the two collections."""
LATER = timedelta(days=31)
"""After which the whole history is swept again."""
OTHERS = 110
"""Securities beside those in question, for the market's own move."""

FORWARD, REVERSE = Kind.FORWARD_SPLIT, Kind.REVERSE_SPLIT
CASH, SPIN = Kind.CASH_DIVIDEND, Kind.SPIN_OFF


class Case:
    """A mistake about an action, chosen among those that truly happened."""

    def __init__(self, action: Action, symbol: str, before: float, erratum: Erratum) -> None:
        self.action, self.symbol, self.before, self.erratum = action, symbol, before, erratum

    @property
    def day(self) -> date:
        return self.action.counts


def ratio(action: Action) -> float:
    old = action.row.get("old_rate") or action.row["source_rate"]
    return float(action.row["new_rate"] / old)


def any_of(action: Action) -> bool:
    return True


WRONG: dict[str, tuple[str, tuple[Kind, ...], Callable[[Action], bool]]] = {
    # A name, the mistake, and of which actions.
    "spin-off as reverse split": ("ratio_as_split", (SPIN,), lambda a: ratio(a) <= 0.5),
    "missing forward split": ("missing", (FORWARD,), lambda a: ratio(a) >= 2),
    "missing reverse split": ("missing", (REVERSE,), any_of),
    "missing spin-off": ("missing", (SPIN,), any_of),
    "missing dividend": ("missing", (CASH,), any_of),
    "split on two days": ("twice", (FORWARD,), lambda a: ratio(a) >= 2),
    "reverse split on two days": ("twice", (REVERSE,), any_of),
    "reverse for forward": ("inverted", (FORWARD,), lambda a: ratio(a) >= 2),
    "forward for reverse": ("inverted", (REVERSE,), any_of),
    "dividend listed twice": ("listed_twice", (CASH,), any_of),
    "dividend applied twice": ("applied_twice", (CASH,), any_of),
    "dividend corrected": ("corrected", (CASH,), any_of),
    "dividend of more than the price": ("excessive", (CASH,), any_of),
    "dividend of half the price": ("excessive", (CASH,), any_of),
    "dividend that vanishes": ("vanishes", (CASH,), any_of),
    "split that comes late": ("late", (FORWARD,), lambda a: ratio(a) >= 2),
    "no volume on a split's day": ("zero_volume", (FORWARD,), lambda a: ratio(a) >= 2),
    "no volume on a reverse split's day": ("zero_volume", (REVERSE,), any_of),
    "a tenth for one day": ("tenth", (CASH,), any_of),
    "low restated": ("low_restated", (CASH,), any_of),
}


class Wrong:
    """A market, its exchange with all of these mistakes, and a lake that was filled from it."""

    def __init__(self, folder: Path) -> None:
        self.market = SyntheticMarket(active=2_500, inactive=800)
        self.truth = self.market.truth()
        self.used: set[int] = set()
        self.cases = {name: self._case(name, *given) for name, given in WRONG.items()}
        self.symbols = self._symbols()
        errata = Errata([case.erratum for case in self.cases.values()])
        self.world = World(self.market, DAYS, errata)
        self.uri = str(folder / "lake")
        self.lake = LakeWriter(open_store(self.uri), self.world.clock)
        self.instance = dg.DagsterInstance.ephemeral()
        self.findings: list[dict[str, list[dict[str, Any]]]] = []
        self.factors: list[list[dict[str, Any]]] = []
        self.checks: list[dict[str, dg.AssetCheckEvaluation]] = []
        self.at: list[datetime] = []
        with ExchangeServer(self.world.exchange) as server:
            self._collect(server.url, DAYS)
            self.world.clock.offset += LATER
            # Only some sessions: that nothing changes in the others is shown in `test_truth`.
            again = {*DAYS[-60:], *(case.day for case in self.cases.values())}
            self._collect(server.url, sorted(again))

    def _case(self, name: str, mistake: str, kinds: tuple[Kind, ...], fits: Any) -> Case:
        for action in self.truth.actions(DAYS[25], DAYS[-25], kinds):
            if action.security not in self.used and fits(action):
                found = self._alone(action)
                if found:
                    self.used.add(action.security)
                    symbol, before = found
                    return Case(
                        action, symbol, before, self._erratum(name, mistake, *found, action)
                    )
        raise AssertionError(f"no action for {name}")

    def _erratum(
        self, name: str, mistake: Any, symbol: str, before: float, action: Action
    ) -> Erratum:
        rate = None
        if mistake == "corrected":
            rate = round(action.row["rate"] + 0.04, 4)
        elif mistake == "excessive":
            rate = round(before / 2 if "half" in name else before + 1, 2)
        of_bars = mistake in ("zero_volume", "tenth", "low_restated")
        at = CHANGED if mistake in ("corrected", "vanishes", "late", "low_restated") else None
        kind = None if of_bars else action.kind
        return Erratum(
            mistake=mistake, symbol=symbol, day=action.counts, kind=kind, at=at, rate=rate
        )

    def _alone(self, action: Action) -> tuple[str, float] | None:
        """The ticker and the close before, of an action that is alone around its day.

        Its security has no other ticker around it, and a bar in each session.
        """
        ticker, at = self.truth.ticker(action.security, action.counts), DAYS.index(action.counts)
        whole = DAYS[at - 24 : at + 25] if action.kind == SPIN else DAYS[::5]
        if any(self.truth.holder(ticker, day) != action.security for day in whole):
            return None
        mine = self._of(action.security)
        near = [a for a in mine if abs((a.counts - action.counts).days) < 8]
        spun = [a for a in mine if a.kind in (SPIN, Kind.RIGHTS_DISTRIBUTION)]
        bars = self.truth.bars(action.security, DAYS[at - 24], DAYS[at + 24])
        if len(bars) != 49 or len(near) > 1 or (spun and action.kind != SPIN):
            return None
        moves = np.abs(np.log(bars.open[1:] / bars.close[:-1]))
        fall = bars.open[24] / bars.close[23]
        if action.kind == SPIN:
            # One that can be seen: large, and of a security of some size.
            dollars = np.median(bars.close / DOLLAR * bars.volume)
            if fall > 0.88 or -np.log(fall) < 10.5 * np.median(moves[:23]) or dollars < 2e6:
                return None
        before = float(bars.close[23]) / DOLLAR
        return (ticker, before) if before > 5 or action.kind == REVERSE else None

    def _of(self, security: int) -> list[Action]:
        if not hasattr(self, "_actions"):
            self._actions: dict[int, list[Action]] = {}
            for action in self.truth.actions(DAYS[0], DAYS[-1]):
                self._actions.setdefault(action.security, []).append(action)
        return self._actions.get(security, [])

    def _symbols(self) -> tuple[str, ...]:
        names = {case.symbol for case in self.cases.values()}
        # The companies that are spun off, and others for the market's move.
        names |= {
            case.action.row["new_symbol"]
            for case in self.cases.values()
            if case.action.kind == SPIN
        }
        quiet = [
            held.ticker
            for held in self.truth.holdings
            if held.first <= DAYS[0]
            and (held.last is None or held.last >= DAYS[-1])
            and not self._of(held.security)
        ]
        return tuple(sorted(names | set(quiet[:OTHERS])))

    def _collect(self, url: str, days: Sequence[date]) -> None:
        definitions = build_definitions(
            Settings.load({}),
            collector=CollectorResource(requests_per_minute=10_000_000),
            source=AlpacaResource(api_key="any", secret_key="any", data_url=url, trading_url=url),
            lake=LakeResource(uri=self.uri),
            clock=self.world.clock,
        )
        with self.world.client(self.lake, url) as source:
            wanted = dict.fromkeys(days, self.symbols)
            self.world.publish(source, self.lake, wanted, DAYS[-1])
        done = [
            definitions.resolve_job_def(job).execute_in_process(
                instance=self.instance, run_config=QUIET
            )
            for job in ("corporate_actions_job", "securities_job")
        ]
        assert all(run.success for run in done)
        self.at.append(self.world.clock.now())
        table = read_findings(self.lake.store)
        table = table.filter(pc.is_in(table["symbol"], pa.array(self.symbols)))
        held: dict[str, list[dict[str, Any]]] = {}
        for row in table.to_pylist():
            held.setdefault(row["symbol"], []).append(row)
        self.findings.append(held)
        data = self.lake.store.get(layout.FACTORS_TABLE)
        self.factors.append(pq.read_table(pa.BufferReader(data)).to_pylist())
        self.checks.append(
            {check.check_name: check for run in done for check in run.get_asset_check_evaluations()}
        )

    def rows(self, case: Case, sweep: int = 1) -> list[dict[str, Any]]:
        """The rows of the table of factors about this security around this day."""
        return [
            row
            for row in self.factors[sweep]
            if row["symbol"] == case.symbol and abs((row["effective_date"] - case.day).days) < 8
        ]

    def kinds(self, case: Case, sweep: int = 1) -> list[tuple[str, bool]]:
        """What is named about a security, and whether it waits for a decision."""
        return [
            (row["kind"], row["undecided"])
            for row in self.findings[sweep].get(case.symbol, [])
            if near(case, row)
        ]


def grown(lake: LakeWriter, symbol: str) -> float:
    """What a dollar became, by the returns that a reader gets."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecuritiesWarning)  # that something is undecided
        rows = Lake(lake.store).returns(symbol, DAYS[0], DAYS[-1]).to_pylist()
    return float(np.prod([1 + r["total_return"] for r in rows if r["total_return"] is not None]))


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wrong]:
    made = Wrong(tmp_path_factory.mktemp("wrong"))
    yield made
    made.instance.dispose()


CONFIRMED, SMALL = "confirmed", "too small to tell"
CONTRADICTED, UNSEEN = "contradicted", "unseen"

EXPECTED: dict[str, tuple[list[tuple[str, bool]], list[tuple[str, bool]]]] = {
    # The verdict and whether it is applied, of each row; what is named, and whether undecided.
    "spin-off as reverse split": (
        [(CONTRADICTED, False)],
        [("split contradicted", True), ("suspected spin-off", False)],
    ),
    "missing forward split": ([], [("suspected split", True)]),
    "missing reverse split": ([], [("suspected split", True)]),
    "missing spin-off": ([], [("suspected spin-off", False)]),
    "missing dividend": ([], []),
    "split on two days": (
        [(CONFIRMED, True), (CONTRADICTED, False)],
        [("listed twice", True)],
    ),
    "reverse split on two days": (
        [(CONFIRMED, True), (CONTRADICTED, False)],
        [("listed twice", True)],
    ),
    "reverse for forward": (
        [(CONTRADICTED, False)],
        [("split contradicted", True), ("suspected split", True)],
    ),
    "forward for reverse": (
        [(CONTRADICTED, False)],
        [("split contradicted", True), ("suspected split", True)],
    ),
    "dividend listed twice": ([(SMALL, True), (CONTRADICTED, False)], [("listed twice", True)]),
    "dividend applied twice": ([(SMALL, True)], []),
    "dividend corrected": ([(SMALL, True)], []),
    "dividend of more than the price": ([(CONTRADICTED, False)], [("impossible", True)]),
    "dividend of half the price": ([(CONTRADICTED, False)], [("dividend contradicted", True)]),
    "dividend that vanishes": ([], []),
    "split that comes late": ([(CONFIRMED, True)], []),
    "no volume on a split's day": ([(CONFIRMED, True)], []),
    "no volume on a reverse split's day": ([(CONFIRMED, True)], []),
    "a tenth for one day": (
        [(SMALL, True)],
        [("one-day glitch", False), ("one-day glitch", False)],
    ),
    "low restated": ([(SMALL, True)], []),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_judged_and_named_and_not_applied(wrong: Wrong, name: str) -> None:
    case = wrong.cases[name]
    rows, named = EXPECTED[name]
    found = sorted((row["verdict"], row["applied"]) for row in wrong.rows(case))
    assert found == sorted(rows)
    assert sorted(wrong.kinds(case)) == sorted(named)


RIGHT_BY_ITSELF = (
    *("split on two days", "reverse split on two days"),
    *("dividend listed twice", "dividend applied twice", "dividend corrected"),
    *("split that comes late", "no volume on a split's day"),
    *("no volume on a reverse split's day", "low restated"),
)


@pytest.mark.parametrize("name", RIGHT_BY_ITSELF)
def test_returns_are_the_true_ones_where_nobody_need_decide(wrong: Wrong, name: str) -> None:
    case = wrong.cases[name]
    true = wrong.truth.total_return(case.action.security, DAYS[0], DAYS[-1])
    assert grown(wrong.lake, case.symbol) == pytest.approx(true, rel=1e-9)


def test_the_checks_name_what_the_source_got_wrong(wrong: Wrong) -> None:
    checks = wrong.checks[1]
    agree, jumps = checks["actions_agree_with_prices"], checks["jumps_are_explained"]
    sound = checks["actions_are_sound"]

    assert not any(check.passed for check in (agree, jumps, sound))
    counts = {name: value.value for name, value in agree.metadata.items() if name != "findings"}
    assert counts == {
        "split_contradicted": 3,
        "dividend_contradicted": 1,
        "listed_twice": 3,
        "impossible": 1,
        "undecided": 8,
    }
    told = str(agree.metadata["findings"].value)
    assert all(case.symbol in told for name, case in wrong.cases.items() if judged(name))
    # The whole market's list was swept: what is odd about others is nothing.
    assert sound.metadata["on_two_days"].value == 2
    assert sound.metadata["duplicate"].value == 1
    assert jumps.metadata["one-day_glitch"].value == 2


def judged(name: str) -> bool:
    return any(verdict == CONTRADICTED for verdict, _ in EXPECTED[name][0])


# --- what the source corrected between the two collections ----------------------------------------


def test_a_corrected_rate_is_each_day_as_it_was_known(wrong: Wrong) -> None:
    case = wrong.cases["dividend corrected"]
    before = DAYS[DAYS.index(case.day) - 1]
    for known_at, rate in zip(wrong.at, (case.erratum.rate, case.action.row["rate"]), strict=True):
        assert rate
        series = [
            Lake(wrong.lake.store)
            .bars(case.symbol, before, DAYS[-1], adjustment=adjustment, known_at=known_at)["close"]
            .to_numpy()
            for adjustment in ("dividend", "raw")
        ]
        factors = series[0] / series[1]
        assert factors[0] / factors[1] == pytest.approx(1 - rate / case.before, rel=1e-12)
        assert factors[-1] == 1.0


@pytest.mark.parametrize(
    ("name", "first", "then"),
    [("dividend that vanishes", 1, 0), ("split that comes late", 0, 1)],
)
def test_the_log_tells_when_an_action_came_and_went(
    wrong: Wrong, name: str, first: int, then: int
) -> None:
    case = wrong.cases[name]
    assert [len(wrong.rows(case, sweep)) for sweep in (0, 1)] == [first, then]
    log = ActionLog(wrong.lake.store)
    for at, there in zip(wrong.at, (first, then), strict=True):
        assert (case.action.row["id"] in log.current(at)["id"].to_pylist()) is bool(there)


def test_a_late_split_is_suspected_until_it_is_listed(wrong: Wrong) -> None:
    case = wrong.cases["split that comes late"]
    assert wrong.kinds(case, 0) == [("suspected split", True)]
    assert wrong.kinds(case, 1) == []


def test_a_restated_low_is_one_restatement_and_nothing_else_is(wrong: Wrong) -> None:
    case = wrong.cases["low restated"]
    log = Restatements(wrong.lake.store)
    rows = [row for day in log.sessions() for row in log.of(day).to_pylist()]

    assert [(row["symbol"], row["session"], row["change"]) for row in rows] == [
        (case.symbol, case.day, "restated")
    ]
    assert rows[0]["old_low"] < rows[0]["new_low"]
    assert rows[0]["old_close"] == rows[0]["new_close"]


# --- and after somebody decided -------------------------------------------------------------------


@pytest.fixture(scope="module")
def decided(wrong: Wrong, tmp_path_factory: pytest.TempPathFactory) -> LakeWriter:
    """A copy of the lake in which somebody put right what is wrong."""
    folder = tmp_path_factory.mktemp("decided") / "lake"
    shutil.copytree(wrong.uri, folder)
    lake = LakeWriter(open_store(str(folder)), wrong.world.clock)
    who: dict[str, Any] = {"who": "me", "when": wrong.at[1], "why": "as it truly was"}
    for name, kind in MENDED.items():
        case = wrong.cases[name]
        for row in wrong.rows(case):
            if row["verdict"] == CONTRADICTED:
                decide(lake.store, Decision("ignore", subject=row["action_id"], **who))
        row = case.action.row
        if kind == "split":
            terms = {"new": row["new_rate"], "old": row["old_rate"]}
        else:
            terms = {"amount": row["rate"]}
        added = Decision("add", symbol=case.symbol, day=case.day, kind=kind, **terms, **who)
        decide(lake.store, added)
    derive(lake.store)
    return lake


MENDED = {
    "missing forward split": "split",
    "missing reverse split": "split",
    "missing dividend": "dividend",
    "reverse for forward": "split",
    "forward for reverse": "split",
    "dividend of more than the price": "dividend",
    "dividend of half the price": "dividend",
    "dividend that vanishes": "dividend",
}


@pytest.mark.parametrize("name", MENDED)
def test_returns_are_the_true_ones_after_a_decision(
    wrong: Wrong, decided: LakeWriter, name: str
) -> None:
    case = wrong.cases[name]
    true = wrong.truth.total_return(case.action.security, DAYS[0], DAYS[-1])
    assert grown(wrong.lake, case.symbol) != pytest.approx(true, rel=1e-6)
    assert grown(decided, case.symbol) == pytest.approx(true, rel=1e-9)
    rows = read_findings(decided.store).to_pylist()
    assert not [r for r in rows if r["symbol"] == case.symbol and near(case, r) and r["undecided"]]


def near(case: Case, row: dict[str, Any]) -> bool:
    return abs((row["session"] - case.day).days) < 8
