"""The source's own adjusted bars and histories, beside ours: asked over HTTP, of a real market."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from datalake_assets import market_calendar
from datalake_assets.collection.bars import by_session
from datalake_assets.collection.clock import Clock
from datalake_assets.collection.rate_limit import RateLimiter
from datalake_assets.collection.retry import RetryPolicy
from datalake_assets.definitions import build_definitions
from datalake_assets.exchange.errata import Errata, Erratum
from datalake_assets.exchange.events import Kind
from datalake_assets.exchange.faults import Arrival, Fault
from datalake_assets.exchange.process import ExchangeServer
from datalake_assets.exchange.server import Exchange
from datalake_assets.exchange.synthetic import SyntheticMarket
from datalake_assets.exchange.truth import Held
from datalake_assets.lake.lake import Lake
from datalake_assets.lake.reader import NotInLakeError
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.pipeline.publication import CollectionOptions
from datalake_assets.pipeline.witness import ADJUSTED, HISTORY, ask_source, read_testimony
from datalake_assets.pipeline.witness import Testimony as Told
from datalake_assets.resources import CollectorResource, LakeResource, SourceResource
from datalake_assets.securities.decisions import Decision, decide
from datalake_assets.settings import Settings
from datalake_assets.sources.alpaca import Account, AlpacaSource
from datalake_assets.storage import layout
from datalake_assets.storage.store import open_store
from datalake_assets_tests.lake.test_reader import encoded
from datalake_assets_tests.securities.deriving import derive, say
from datalake_assets_tests.workbench import QUIET

DAYS = market_calendar.sessions(date(2021, 10, 1), date(2022, 6, 30))
HOW = CollectionOptions(RateLimiter(1e9), retry=RetryPolicy(attempts=1))
NOW = datetime(2022, 6, 30, 22, 0, tzinfo=UTC)


class Evening(Clock):
    """The evening of the last session."""

    def now(self) -> datetime:
        return NOW


class World:
    """A market, and a lake that was collected from it, with what the source says of actions."""

    def __init__(self) -> None:
        self.market = SyntheticMarket(active=200, inactive=60)
        self.truth = self.market.truth()
        self.held = [
            one
            for one in self.truth.holdings
            if one.first <= DAYS[-1] and (one.last or date.max) >= DAYS[0]
        ]
        tickers = tuple(sorted({one.ticker for one in self.held}))
        with self.source() as source:
            page, parts = None, []
            while page is None or page.next_token:
                token = page and page.next_token
                page = source.bars()(tickers, DAYS[0], DAYS[-1], token)
                parts.append(page.bars)
            self.bars = pa.concat_tables(parts).sort_by(
                [("session", "ascending"), ("symbol", "ascending")]
            )
            self.actions = source.actions(date(2021, 9, 1), date(2022, 12, 31), None)
            assert self.actions.token is None

    def source(self, *errata: Erratum) -> "Serving":
        return Serving(Exchange(self.market, clock=lambda: NOW, errata=Errata(errata)))

    def lake(
        self,
        bars: Callable[[pa.Table], pa.Table] = lambda rows: rows,
        actions: Callable[[pa.Table], pa.Table] = lambda rows: rows,
    ) -> LakeWriter:
        """A lake that holds these of the bars and knows these of the actions."""
        lake = LakeWriter(open_store("memory://"))
        lake.claim("synthetic")
        for day, rows in by_session(bars(self.bars)):
            lake.store.put(layout.session_key(day), encoded(day, rows))
        say(lake.store, NOW - timedelta(days=1), *actions(self.actions.actions).to_pylist())
        derive(lake.store)
        return lake

    def renamed(self) -> tuple[Held, Held]:
        """A security that traded in 2021 under one ticker and trades at the end under another."""
        for old in self.held:
            if old.first < date(2021, 12, 1) and old.last and old.last > date(2022, 1, 31):
                after = [
                    new
                    for new in self.held
                    if new.security == old.security and old.last < new.first < date(2022, 6, 1)
                ]
                alone = [one for one in self.held if one.ticker == old.ticker]
                if after and (after[0].last or date.max) > DAYS[-1] and len(alone) == 1:
                    return old, after[0]
        raise AssertionError("the market has no such rename")


class Serving:
    """The exchange over a socket, and who asks it."""

    def __init__(self, exchange: Exchange) -> None:
        self.server = ExchangeServer(exchange)

    def __enter__(self) -> AlpacaSource:
        url = self.server.__enter__().url
        account = Account("key", "secret", data_url=url, trading_url=url)
        self.asking = AlpacaSource(account, clock=Evening())
        return self.asking

    def __exit__(self, *error: object) -> None:
        self.asking.close()
        self.server.__exit__(None, None, None)


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def whole(world: World) -> LakeWriter:
    return world.lake()


@pytest.fixture
def lake(whole: LakeWriter) -> Iterator[LakeWriter]:
    yield whole
    whole.store.delete(layout.TESTIMONY)


def ask(
    world: World, lake: LakeWriter, *errata: Erratum, requests: int = 1000, days: int = 0
) -> Told:
    with world.source(*errata) as source:
        return ask_source(source, lake, HOW, requests=requests, now=NOW + timedelta(days=days))


def acting(lake: LakeWriter, kind: Kind) -> dict[str, object]:
    """An action of this kind, of the last quarter, of a security that still trades."""
    tables = Lake(lake.store).securities()
    for row in tables.factors.to_pylist():
        tickers = tables.holders.of_security(row["security"])
        if (
            row["kind"] == kind.plural
            and row["applied"]
            and row["session"]
            and DAYS[-60] < row["session"] < DAYS[-3]
            and row["amount"] / row["close_before"] > 0.004
            and tickers[-1].followed_by is None
            and row["symbol"] == tickers[-1].symbol
        ):
            return row
    raise AssertionError("the market has no such action")


def test_a_source_that_is_right_says_the_same(world: World, lake: LakeWriter) -> None:
    told = ask(world, lake)

    assert told.differences == []
    questions = told.answers["question"].to_pylist()
    assert questions.count(ADJUSTED) > 40
    assert questions.count(HISTORY) > 150
    assert read_testimony(lake.store) == told


def test_a_dividend_that_the_source_applies_twice_is_named_with_both_values(
    world: World, lake: LakeWriter
) -> None:
    row = acting(lake, Kind.CASH_DIVIDEND)
    symbol, day = str(row["symbol"]), row["effective_date"]
    assert isinstance(day, date)

    told = ask(world, lake, Erratum(mistake="applied_twice", symbol=symbol, day=day))

    ((named, what),) = told.differences
    assert named == symbol
    assert f"the action {row['action_id']} (cash_dividends, applied here)" in what


def test_an_action_that_the_source_has_lost_is_named(world: World, lake: LakeWriter) -> None:
    row = acting(lake, Kind.CASH_DIVIDEND)
    symbol, day = str(row["symbol"]), row["effective_date"]
    assert isinstance(day, date)

    told = ask(world, lake, Erratum(mistake="missing", symbol=symbol, day=day))

    assert [name for name, _ in told.differences] == [symbol]


def test_no_more_is_asked_than_the_day_allows_and_the_rest_on_the_next_days(
    world: World, lake: LakeWriter
) -> None:
    everything = ask(world, lake).requests
    lake.store.delete(layout.TESTIMONY)

    first = ask(world, lake, requests=2)
    again = ask(world, lake, requests=2)
    assert (first.requests, again.requests) == (2, 2), "the day's budget is used up"
    assert again.answers == first.answers
    asked, day = first.requests, 0
    while True:
        day += 1
        told = ask(world, lake, requests=2, days=day)
        assert told.requests <= 2
        asked += told.requests
        if not told.requests:
            break
    # The year's question may be put again for those whose history it did not settle.
    assert everything <= asked <= everything + 2 * day
    assert told.answers.num_rows == ask(world, lake, days=day + 1).answers.num_rows


def test_what_differed_is_asked_again_the_next_day_until_it_agrees(
    world: World, lake: LakeWriter
) -> None:
    row = acting(lake, Kind.CASH_DIVIDEND)
    day = row["effective_date"]
    assert isinstance(day, date)
    wrong = Erratum(mistake="applied_twice", symbol=str(row["symbol"]), day=day)
    assert len(ask(world, lake, wrong).differences) == 1

    assert len(ask(world, lake, wrong).differences) == 1  # the same day: nothing is asked
    assert ask(world, lake, days=1).differences == []


def without(column: str, *values: str) -> Callable[[pa.Table], pa.Table]:
    def kept(rows: pa.Table) -> pa.Table:
        return rows.filter(pc.invert(pc.is_in(rows[column], pa.array(list(values)))))

    return kept


def renames(old: Held, new: Held) -> Callable[[pa.Table], pa.Table]:
    """The actions without the one that tells of this rename."""
    return lambda rows: rows.filter(
        pc.invert(
            pc.fill_null(
                pc.and_(
                    pc.equal(rows["symbol"], old.ticker), pc.equal(rows["new_symbol"], new.ticker)
                ),
                False,
            )
        )
    )


def unnamed(old: Held) -> Callable[[pa.Table], pa.Table]:
    """The actions without all that name this ticker."""

    def kept(rows: pa.Table) -> pa.Table:
        rows = without("symbol", old.ticker)(rows)
        return rows.filter(pc.invert(pc.fill_null(pc.equal(rows["new_symbol"], old.ticker), False)))

    return kept


def test_a_rename_that_no_action_tells_is_found_by_the_sources_own_history(world: World) -> None:
    old, new = world.renamed()
    lake = world.lake(actions=renames(old, new))

    told = dict(ask(world, lake).differences)

    assert list(told) == [new.ticker]
    assert f"they are under {old.ticker}, which counts as another security" in told[new.ticker]
    typed = f"datalake decide add rename {old.ticker} {new.first} --to {new.ticker}"
    assert typed in told[new.ticker]
    decide(
        lake.store,
        Decision(
            "add", "me", NOW, "", kind="rename", symbol=old.ticker, day=new.first, to=new.ticker
        ),
    )
    derive(lake.store)
    assert ask(world, lake, days=1).differences == []


def test_a_ticker_that_nothing_names_is_a_hole_that_the_sources_history_shows(
    world: World,
) -> None:
    old, new = world.renamed()
    lake = world.lake(without("symbol", old.ticker), unnamed(old))

    told = dict(ask(world, lake).differences)

    assert list(told) == [new.ticker]
    assert "under a ticker that neither a list nor an action names" in told[new.ticker]
    first = max(old.first, DAYS[0])
    assert f"datalake collect --from {first} --to {old.last}" in told[new.ticker]


def test_a_ticker_that_the_user_names_is_asked_for_in_sessions_of_the_past(world: World) -> None:
    old, new = world.renamed()
    lake = world.lake(without("symbol", old.ticker), unnamed(old))
    assert old.ticker not in set(lake.snapshots().besides())

    decide(
        lake.store,
        Decision(
            "add", "me", NOW, "", kind="rename", symbol=old.ticker, day=new.first, to=new.ticker
        ),
    )

    assert old.ticker in set(lake.snapshots().besides())


def test_a_source_that_refuses_a_ticker_answers_for_the_others(
    world: World, lake: LakeWriter
) -> None:
    symbol = str(acting(lake, Kind.CASH_DIVIDEND)["symbol"])

    def refuse(arrival: Arrival) -> Fault | None:
        named = symbol in arrival.query.get("symbols", "").split(",")
        return (
            Fault(kind="status", status=400, message=f"invalid symbol: {symbol}") if named else None
        )

    with world.source() as source:
        usual = ask_source(source, lake, HOW, requests=1000, now=NOW)
    lake.store.delete(layout.TESTIMONY)
    refusing = world.source()
    refusing.server.exchange.faults = refuse
    with refusing as source:
        told = ask_source(source, lake, HOW, requests=1000, now=NOW)

    lost = set(usual.answers["symbol"].to_pylist()) - set(told.answers["symbol"].to_pylist())
    assert lost == {symbol}
    assert told.differences == []


def test_a_lake_without_tables_says_what_to_type(world: World) -> None:
    lake = LakeWriter(open_store("memory://"))
    with pytest.raises(NotInLakeError, match="derive"):
        ask(world, lake)


def test_damaged_memory_is_as_good_as_none(world: World, lake: LakeWriter) -> None:
    told = ask(world, lake)
    lake.store.put(layout.TESTIMONY, b"none")
    assert read_testimony(lake.store) is None
    assert ask(world, lake).differences == told.differences == []


def test_the_check_asks_the_source_and_names_what_differs(world: World, tmp_path: Path) -> None:
    lake = LakeWriter(open_store(str(tmp_path)))
    for key in (held := world.lake()).store.list():
        lake.store.put(key, held.store.get(key))
    row = acting(lake, Kind.CASH_DIVIDEND)
    day = row["effective_date"]
    assert isinstance(day, date)
    wrong = Erratum(mistake="applied_twice", symbol=str(row["symbol"]), day=day)
    serving = world.source(wrong)
    with serving, dg.DagsterInstance.ephemeral() as instance:
        definitions = build_definitions(
            Settings.load({}),
            source=Answering(url=serving.server.url),
            lake=LakeResource(uri=str(tmp_path)),
            clock=Evening(),
        )
        job = definitions.resolve_job_def("witness_job")
        result = job.execute_in_process(instance=instance, run_config=QUIET)

    (check,) = result.get_asset_check_evaluations()
    assert (check.check_name, check.passed) == ("source_agrees", False)
    assert check.severity is dg.AssetCheckSeverity.WARN
    assert check.description == "the source disagrees on 1 security"
    assert check.metadata["differences"].value == 1
    (record,) = check.metadata["first_differences"].records
    assert record.data["symbol"] == row["symbol"]


class Answering(SourceResource):
    """The exchange at an address, on the evening of the last session."""

    url: str

    @property
    def identity(self) -> str:
        return "synthetic"

    @property
    def account(self) -> str | None:
        return None

    @contextmanager
    def open(self, collector: CollectorResource) -> Iterator[AlpacaSource]:
        account = Account("key", "secret", data_url=self.url, trading_url=self.url)
        asking = AlpacaSource(account, clock=Evening())
        yield asking
        asking.close()
