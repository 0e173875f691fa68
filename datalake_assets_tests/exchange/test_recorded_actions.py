"""Files of actions and of names beside recorded bars."""

from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from datalake_assets.exchange.process import ExchangeOptions
from datalake_assets.exchange.recorded import RecordedMarket, market_id
from datalake_assets.exchange.recorded_actions import ActionsError
from datalake_assets.exchange.recorded_names import NamesError
from datalake_assets.exchange.server import Exchange
from datalake_assets_tests.exchange.calling import call, frozen, rows, walk
from datalake_assets_tests.exchange.test_actions import told
from datalake_assets_tests.exchange.test_openapi import problems, specification

ACTIONS = Path(__file__).parent / "bokeh_actions.csv"
DAYS = ["2018-07-02", "2018-07-03", "2018-07-05", "2018-07-06", "2018-07-09"]


def real() -> Path:
    spec = find_spec("bokeh_sampledata")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "_data" / "stocks.csv.gz"


@pytest.fixture(scope="module")
def exchange() -> Exchange:
    return frozen(RecordedMarket(real(), actions=ACTIONS))


WHOLE = {"start": "2000-01-01", "end": "2013-12-31", "limit": 10_000}


def test_real_actions_beside_real_bars_are_told(exchange: Exchange) -> None:
    found = told(exchange, **WHOLE | {"limit": 50})
    kinds = [kind for kind, _ in found]
    assert (kinds.count("cash_dividends"), kinds.count("forward_splits")) == (92, 3)
    split = next(row for kind, row in found if kind == "forward_splits" and row["symbol"] == "MSFT")
    assert (split["ex_date"], split["new_rate"], split["old_rate"]) == ("2003-02-18", 2, 1)
    special = [r for _, r in told(exchange, start="2004-11-01", end="2004-12-31", symbols="MSFT")]
    assert 3.08 in [row["rate"] for row in special]


def test_they_are_as_specified(exchange: Exchange) -> None:
    specification("data")  # skips here, before anything is asked
    page = call(exchange, "/v1/corporate-actions", **WHOLE | {"limit": 1_000}).json()
    assert problems("data", "/v1/corporate-actions", 200, page) == []


def test_adjusted_real_bars_are_within_a_cent_of_the_rule(exchange: Exchange) -> None:
    def closes(adjustment: str) -> dict[str, float]:
        query = WHOLE | {"symbols": "MSFT", "adjustment": adjustment}
        return {bar["t"][:10]: bar["c"] for _, bar in rows(walk(exchange, **query))}

    raw, split = closes("raw"), closes("split")
    assert split["2003-02-14"] == pytest.approx(raw["2003-02-14"] / 2, abs=0.0051)
    assert split["2003-02-18"] == raw["2003-02-18"]
    all_of_them = closes("all")
    assert all_of_them["2004-11-12"] < 0.92 * split["2004-11-12"], "the special dividend of 3.08"


def recording(folder: Path, names: str = "", actions: str = "") -> RecordedMarket:
    """OLD trades two days, then as NEW; NEW was another company's; USED by two, one after other."""
    bars = folder / "bars.csv"
    traded = [("OLD", DAYS[:2], 1), ("NEW", DAYS[:1], 5), ("NEW", DAYS[2:], 2)]
    traded += [("USED", DAYS[:2], 7), ("USED", DAYS[3:], 9)]
    lines = [f"{s},{d},{p},{p},{p},{p},100" for s, days, p in traded for d in days]
    bars.write_text("\n".join(["symbol,session,open,high,low,close,volume", *lines]))
    paths: dict[str, Path] = {}
    for name, text in (("names", names), ("actions", actions)):
        if text:
            paths[name] = folder / f"{name}.csv"
            paths[name].write_text(text)
    return RecordedMarket(bars, **paths)


NAMES = """day,old_symbol,new_symbol
2018-07-03,NEW,
2018-07-05,OLD,NEW
2018-07-05,USED,
"""


def prices(exchange: Exchange, symbol: str, asof: str) -> list[int]:
    query = {"symbols": symbol, "asof": asof, "start": DAYS[0], "end": DAYS[-1]}
    return [bar["c"] for _, bar in rows(walk(exchange, **query))]


@pytest.mark.parametrize(
    ("symbol", "asof", "closes"),
    [
        ("OLD", "-", [1, 1]),
        ("NEW", "-", [5, 2, 2, 2]),
        ("NEW", "2018-07-06", [1, 1, 2, 2, 2]),
        ("OLD", "2018-07-05", [1, 1, 2, 2, 2]),
        ("NEW", "2018-07-05", [5, 2, 2, 2]),
        ("NEW", "2018-07-02", [5]),
        ("OLD", "2018-07-06", [1, 1]),
        ("USED", "2018-07-02", [7, 7]),
        ("USED", "2018-07-06", [9, 9]),
        ("USED", "-", [7, 7, 9, 9]),
    ],
)
def test_recorded_names_decide_whose_bars_a_ticker_means(
    tmp_path: Path, symbol: str, asof: str, closes: list[int]
) -> None:
    assert prices(frozen(recording(tmp_path, NAMES)), symbol, asof) == closes


def test_without_names_a_ticker_is_a_security(tmp_path: Path) -> None:
    exchange = frozen(recording(tmp_path))
    assert prices(exchange, "NEW", "2018-07-06") == [5, 2, 2, 2]
    assert told(exchange, start="2018-01-01", end="2018-12-31") == []


def test_a_rename_is_told_as_an_action_and_the_list_knows_the_last_tickers(tmp_path: Path) -> None:
    exchange = frozen(recording(tmp_path, NAMES))
    ((kind, row),) = told(exchange, start="2018-07-01", end="2018-07-31")
    assert kind == "name_changes"
    assert (row["old_symbol"], row["new_symbol"], row["process_date"]) == ("OLD", "NEW", DAYS[2])
    assert [row["symbol"] for row in call(exchange, "/v2/assets").json()] == ["NEW", "USED"]


def test_two_that_swap_tickers_on_one_day_keep_their_bars_apart(tmp_path: Path) -> None:
    names = "day,old_symbol,new_symbol\n2018-07-05,OLD,NEW\n2018-07-05,NEW,NEXT\n"
    market = recording(tmp_path, names)
    one, two = market.held("NEW", date(2018, 7, 6)), market.held("NEXT", date(2018, 7, 6))
    assert one == market.held("OLD", date(2018, 7, 2)) != two
    assert two == market.held("NEW", date(2018, 7, 2))


def test_every_kind_of_action_can_be_written_down(tmp_path: Path) -> None:
    lines = [
        "symbol,ex_date,kind,ratio,amount,new_symbol,process_date",
        "USED,2018-07-03,split,1/20,,,",
        "USED,2018-07-03,stock,0.05,,,",
        "USED,2018-07-06,cash,,0.25,,2018-07-20",
        "USED,2018-07-06,special,,1.5,,",
        "NEW,2018-07-06,spin_off,0.5,,USED,",
        "OLD,2018-07-05,cash_merger,,1.1,,",
        "OLD,2018-07-05,stock_merger,0.3,,NEW,",
        "NEW,2018-07-03,worthless,,,,",
    ]
    exchange = frozen(recording(tmp_path, NAMES, "\n".join(lines)))
    found = dict(told(exchange, start="2018-07-01", end="2018-07-31"))
    assert found.keys() == {
        "reverse_splits",
        "stock_dividends",
        "cash_dividends",
        "spin_offs",
        "cash_mergers",
        "stock_mergers",
        "worthless_removals",
        "name_changes",
    }
    assert (found["reverse_splits"]["new_rate"], found["reverse_splits"]["old_rate"]) == (1, 20)
    assert found["stock_mergers"]["acquirer_symbol"] == "NEW"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("A,2018-07-03,gift,,1", "'gift': a kind is one of split, stock"),
        ("A,2018-07-03,cash,,", "A 2018-07-03 cash has no amount"),
        ("A,2018-07-03,split,,2", "A 2018-07-03 split has no ratio"),
        ("A,2018-07-03,cash,,-1", "-1 is not above zero"),
        ("A,soon,cash,,1", "row 1 cannot be read"),
        ("A,2018-07-03,spin_off,1,", "spin_off has no new_symbol"),
        (",2018-07-03,cash,,1", "row 1 cannot be read"),
    ],
)
def test_actions_that_cannot_be_read_are_refused(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ActionsError, match=message):
        recording(tmp_path, actions=f"symbol,ex_date,kind,ratio,amount\n{line}\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("day,old,new\n", "no column new_symbol, old_symbol"),
        ("day,old_symbol,new_symbol\nsoon,A,B\n", "row 1: 'soon' is no day"),
        ("day,old_symbol,new_symbol\n2018-07-03,A,A\n", "row 1: 'A' becomes 'A'"),
        ("day,old_symbol,new_symbol\n2018-07-03,,A\n", "row 1: '' becomes 'A'"),
    ],
)
def test_names_that_cannot_be_read_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(NamesError, match=message):
        recording(tmp_path, names=text)


def test_the_name_of_a_recording_is_that_of_all_its_files(tmp_path: Path) -> None:
    names = {
        market_id(real()),
        market_id(real(), ACTIONS),
        RecordedMarket(real(), actions=ACTIONS).market_id,
    }
    assert len(names) == 2
    assert ExchangeOptions(recorded=real(), actions=ACTIONS).market_id in names


@pytest.mark.parametrize("option", ["actions", "names"])
def test_actions_and_names_belong_to_recorded_bars(option: str) -> None:
    given: dict[str, Any] = {option: ACTIONS}
    with pytest.raises(ValueError, match="give the recording, too"):
        ExchangeOptions(**given).market()
