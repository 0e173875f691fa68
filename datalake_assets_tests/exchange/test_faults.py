import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import get_args
from urllib.parse import quote, urlsplit

import pytest

from datalake_assets.exchange.faults import (
    ODD_KINDS,
    PAGE_KINDS,
    Arrival,
    Fault,
    FaultScript,
    Kind,
    RandomFaults,
    Rule,
    every_fault,
    read_faults,
)
from datalake_assets.exchange.process import ExchangeServer
from datalake_assets.exchange.synthetic import SyntheticMarket
from datalake_assets_tests.exchange.calling import BARS, KEYS, call, frozen, rows, walk

MARKET = SyntheticMarket()
A, B, C = (row["symbol"] for row in MARKET.assets()[2_000:2_003])
QUERY = {"symbols": f"{A},{B},{C}", "start": "2024-01-02", "end": "2024-01-31"}
TARGET = f"{BARS}?timeframe=1Day&symbols={A},{B},{C}&start=2024-01-02&end=2024-01-31"
PROPER = call(frozen(MARKET), **QUERY).body


def always(kind: str, **more: object) -> FaultScript:
    return FaultScript([Rule(Fault(kind=kind, **more), times=None)])


# Which request gets a fault


def arrivals(count: int, path: str = BARS, **query: str) -> Iterator[Arrival]:
    return (Arrival(number, path, query) for number in range(1, count + 1))


def test_a_script_commits_its_rules_in_order():
    script = FaultScript([Rule(Fault(kind="reset"), times=2), Rule(Fault(kind="cut"), skip=1)])
    kinds = [fault and fault.kind for fault in map(script, arrivals(5))]
    assert kinds == ["reset", "reset", None, "cut", None]


def test_a_rule_holds_for_a_path_a_symbol_or_whatever_it_is_told():
    rule = Rule(Fault(kind="reset"), times=None, path="/v2/stocks", symbol="AAA")
    script = FaultScript([rule])
    assert script(Arrival(1, BARS, {"symbols": "AAA,B"}))
    assert not script(Arrival(2, BARS, {"symbols": "AAAA,B"}))
    assert not script(Arrival(3, "/v2/assets", {"symbols": "AAA"}))
    script = FaultScript([Rule(Fault(kind="reset"), when=lambda arrival: arrival.number == 3)])
    assert [bool(fault) for fault in map(script, arrivals(5))] == [False, False, True, False, False]


def test_random_faults_are_a_function_of_seed_and_number():
    drawn = [RandomFaults(0.3, seed=1)(arrival) for arrival in arrivals(2_000)]
    again = RandomFaults(0.3, seed=1)
    backwards = [again(arrival) for arrival in reversed(list(arrivals(2_000)))]
    assert drawn == backwards[::-1]
    assert drawn != [RandomFaults(0.3, seed=2)(arrival) for arrival in arrivals(2_000)]
    assert 500 < sum(fault is not None for fault in drawn) < 700
    assert {fault for fault in drawn if fault} == set(every_fault())


def test_random_page_faults_fall_on_pages_only():
    drawn = {RandomFaults(1.0, seed=1)(arrival) for arrival in arrivals(500, "/v2/assets")}
    assert {fault.kind for fault in drawn} == set(get_args(Kind)) - PAGE_KINDS
    assert RandomFaults(1.0, 1, [Fault(kind="null_bars")])(Arrival(1, "/v2/assets", {})) is None


def test_faults_are_read_from_json():
    random = read_faults('{"rate": 0.5, "seed": 3, "kinds": ["reset", "429+retry_after"]}')
    drawn = [random(arrival) for arrival in arrivals(100)]
    assert {str(fault) for fault in drawn if fault} == {"reset", "429+retry_after"}
    assert {str(f) for f in map(read_faults('{"rate": 1}'), arrivals(500))} == {
        str(fault) for fault in every_fault()
    }
    script = read_faults('[{"kind": "status", "status": 502, "skip": 1, "symbol": "A"}]')
    assert [str(fault) for fault in map(script, arrivals(3, symbols="A"))] == [
        "None",
        "502",
        "None",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        "{}",
        "3",
        '{"rate": 2}',
        '{"rate": 0.1, "kinds": ["flood"]}',
        '[{"kind": "flood"}]',
        '[{"kind": "status", "status": 200}]',
        '[{"kind": "drip", "seconds": -1}]',
        '[{"kind": "reset", "colour": "red"}]',
    ],
)
def test_faults_that_make_no_sense_are_refused_with_an_example(text):
    with pytest.raises(ValueError, match="cannot be read") as error:
        read_faults(text)
    assert '{"rate": 0.3, "seed": 1}' in str(error.value)


# Faults in an answer


@pytest.mark.parametrize("after", [None, 7])
def test_a_429_carries_a_wait_only_when_told_so(after):
    answer = call(frozen(MARKET, faults=always("status", status=429, retry_after=after)), **QUERY)
    assert (answer.status, answer.body) == (429, b'{"message": "too many requests."}')
    assert answer.headers.get("retry-after") == (None if after is None else "7")


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_server_error_is_html(status):
    answer = call(frozen(MARKET, faults=always("status", status=status)), **QUERY)
    assert answer.status == status
    assert answer.headers["content-type"] == "text/html"
    assert f"<h1>{status} ".encode() in answer.body


def test_bars_may_be_null():
    answer = call(frozen(MARKET, faults=always("null_bars")), **QUERY)
    assert (answer.status, answer.body) == (200, b'{"bars":null,"next_page_token":null}')


@pytest.mark.parametrize("sort", ["asc", "desc"])
@pytest.mark.parametrize("limit", [1, 7, 10_000])
def test_an_empty_page_comes_before_the_one_it_delays(limit, sort):
    proper = rows(walk(frozen(MARKET), limit=limit, sort=sort, **QUERY))
    faults = FaultScript([Rule(Fault(kind="empty_page"), times=3)])
    pages = list(walk(frozen(MARKET, faults=faults), limit=limit, sort=sort, **QUERY))
    assert [page["bars"] for page in pages[:3]] == [{}, {}, {}]
    tokens = [page["next_page_token"] for page in pages]
    assert len(set(tokens)) == len(tokens), "none of these is a token that comes again"
    assert rows(pages) == proper


@pytest.mark.parametrize("sort", ["asc", "desc"])
def test_a_last_page_may_have_a_token_that_leads_to_an_empty_one(sort):
    pages = list(walk(frozen(MARKET, faults=always("trailing_page")), sort=sort, **QUERY))
    assert len(pages) == 2
    assert pages[0]["bars"] == call(frozen(MARKET), sort=sort, **QUERY).json()["bars"]
    assert pages[1] == {"bars": {}, "next_page_token": None}


def test_a_page_may_have_a_bar_twice():
    bars = rows(walk(frozen(MARKET, faults=always("repeated_bar")), **QUERY))
    proper = rows(walk(frozen(MARKET), **QUERY))
    assert bars == [proper[0], *proper]


def test_a_page_may_begin_with_the_last_bar_of_the_one_before():
    faults = FaultScript([Rule(Fault(kind="overlapping_page"), times=1)])
    pages = list(walk(frozen(MARKET, faults=faults), limit=10, **QUERY))
    proper = rows(walk(frozen(MARKET), **QUERY))
    assert rows(pages) == proper[:10] + proper[9:]


def test_a_token_may_never_end():
    exchange = frozen(MARKET, faults=always("endless_token"))
    first = call(exchange, limit=10, **QUERY).json()
    second = call(exchange, limit=10, page_token=first["next_page_token"], **QUERY).json()
    assert first == second
    with pytest.raises(AssertionError, match="never ends"):
        list(walk(exchange, limit=10, **QUERY))


def odd(kind: str, symbol: str = B) -> dict:
    """A page with one odd item, as JSON."""
    answer = call(frozen(MARKET, faults=always(kind, symbol=symbol)), **QUERY)
    assert answer.status == 200
    return answer.json()


@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        ("odd_time", {"t": "2024-01-02T14:30:00Z"}),
        ("unreadable_time", {"t": ""}),
        ("odd_volume", {"v": -1}),
        ("no_statistics", {"n": None, "vw": None}),
    ],
)
def test_a_bar_may_be_odd(kind, changed):
    proper = json.loads(PROPER)["bars"]
    page = odd(kind)["bars"]
    assert page == proper | {B: [proper[B][0] | changed, *proper[B][1:]]}


def test_a_volume_may_have_a_fraction():
    proper = json.loads(PROPER)["bars"][B][0]["v"]
    assert odd("fractional_volume")["bars"][B][0]["v"] == proper + 0.5


def test_a_symbol_may_be_null_in_another_case_or_beside_a_stranger():
    proper = json.loads(PROPER)["bars"]
    assert odd("null_symbol")["bars"] == proper | {B: None}
    lower = {name.lower() if name == B else name: bars for name, bars in proper.items()}
    assert odd("other_case")["bars"] == lower
    assert odd("stranger")["bars"] == proper | {"ZZZZZZ": proper[B]}


def test_a_symbol_may_stand_on_a_page_twice():
    body = call(frozen(MARKET, faults=always("symbol_twice", symbol=B)), **QUERY).body
    proper = json.loads(PROPER)["bars"]
    assert body.count(f'"{B}":['.encode()) == 2
    assert json.loads(body)["bars"][B] == proper[B][1:], "in most readers the last one counts"
    assert body.count(b'"t"') == PROPER.count(b'"t"')


def test_a_last_token_may_be_empty_and_no_other_is():
    assert odd("empty_token")["next_page_token"] == ""
    page = call(frozen(MARKET, faults=always("empty_token", symbol=A)), limit=5, **QUERY).json()
    assert page["next_page_token"]


@pytest.mark.parametrize("kind", sorted(ODD_KINDS))
def test_a_page_without_the_symbol_that_is_to_be_odd_is_as_it_should_be(kind):
    exchange = frozen(MARKET, faults=always(kind, symbol="ELSE"))
    assert call(exchange, **QUERY).body == PROPER
    assert exchange.requests[0].fault is None


def test_odd_items_are_committed_where_they_are_named_and_not_drawn_by_default():
    drawn = {str(RandomFaults(1.0, seed=1)(arrival)) for arrival in arrivals(2_000)}
    assert drawn.isdisjoint(ODD_KINDS)
    named = read_faults('{"rate": 1, "kinds": ["odd_time", "stranger"]}')
    assert {str(named(arrival)) for arrival in arrivals(50)} == {"odd_time", "stranger"}
    scripted = read_faults('[{"kind": "null_symbol", "symbol": "A"}]')
    (fault,) = {scripted(arrival) for arrival in arrivals(1, symbols="A")}
    assert (fault.kind, fault.symbol) == ("null_symbol", "A")


def test_an_error_may_say_something_of_its_own():
    faults = always("status", status=422, message="invalid symbols: A, B")
    answer = call(frozen(MARKET, faults=faults), **QUERY)
    assert (answer.status, answer.json()) == (422, {"message": "invalid symbols: A, B"})


def test_the_log_names_the_fault_only_where_there_was_one():
    faults = FaultScript([Rule(Fault(kind="null_bars"), times=None)])
    exchange = frozen(MARKET, faults=faults, requests_per_minute=2)
    call(exchange, **QUERY)
    call(exchange, "/v2/assets")
    call(exchange, symbols="NOT-ONE", start="2024-01-02")
    call(exchange, **QUERY)  # refused by the limit, before any fault
    assert [(r.status, r.fault) for r in exchange.requests] == [
        (200, "null_bars"),
        (200, None),
        (400, None),
        (429, None),
    ]


# Faults of the connection, as a client sees them


@pytest.fixture(scope="module")
def server() -> Iterator[ExchangeServer]:
    with ExchangeServer(frozen(MARKET)) as running:
        yield running


@pytest.fixture
def connection(server: ExchangeServer) -> Iterator[http.client.HTTPConnection]:
    client = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=20)
    yield client
    client.close()
    server.exchange.faults = None


def ask(connection: http.client.HTTPConnection) -> http.client.HTTPResponse:
    connection.request("GET", TARGET, headers=KEYS)
    return connection.getresponse()


def test_a_reset_connection_is_reset(server, connection):
    server.exchange.faults = FaultScript([Rule(Fault(kind="reset"))])
    with pytest.raises(ConnectionResetError):
        ask(connection)
    assert server.exchange.requests[-1].status == 0
    assert server.exchange.requests[-1].fault == "reset"
    connection.close()
    assert ask(connection).read() == PROPER


def test_a_body_that_is_cut_is_shorter_than_it_said(server, connection):
    server.exchange.faults = FaultScript([Rule(Fault(kind="cut"))])
    response = ask(connection)
    assert (response.status, int(response.headers["content-length"])) == (200, len(PROPER))
    with pytest.raises(http.client.IncompleteRead) as error:
        response.read()
    assert error.value.partial == PROPER[: len(PROPER) // 2]


def test_silence_follows_valid_headers(server, connection):
    server.exchange.faults = FaultScript([Rule(Fault(kind="silence", seconds=60))])
    connection.timeout = 0.3
    response = ask(connection)
    assert (response.status, int(response.headers["content-length"])) == (200, len(PROPER))
    with pytest.raises(TimeoutError):
        response.read()


def test_silence_ends_with_a_closed_connection(server, connection):
    server.exchange.faults = FaultScript([Rule(Fault(kind="silence", seconds=0.1))])
    response = ask(connection)
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        response.read()


def test_a_slow_body_arrives_whole_in_many_pieces(server, connection):
    server.exchange.faults = FaultScript([Rule(Fault(kind="drip", seconds=0.4))])
    begin = time.monotonic()
    response = ask(connection)
    pieces = []
    while piece := response.read1():
        pieces.append(piece)
    response.read()  # tells the client's library that this was all
    assert b"".join(pieces) == PROPER
    assert len(pieces) >= 10
    assert time.monotonic() - begin >= 0.3  # a floor: it was not sent at once
    assert ask(connection).read() == PROPER, "and the connection is still good"


def test_a_client_that_leaves_a_fault_leaves_the_others_served(server, connection):
    server.exchange.faults = FaultScript([Rule(Fault(kind="drip", seconds=600))])
    with socket.create_connection((connection.host, connection.port)) as raw:
        lines = [f"GET {TARGET} HTTP/1.1", "Host: x", *(f"{k}: {v}" for k, v in KEYS.items())]
        raw.sendall("\r\n".join([*lines, "", ""]).encode())
        assert raw.recv(64).startswith(b"HTTP/1.1 200")
    assert ask(connection).read() == PROPER


def test_a_server_stops_while_a_fault_holds_connections():
    before = set(threading.enumerate())
    with ExchangeServer(frozen(MARKET, faults=always("silence", seconds=600))) as running:
        client = http.client.HTTPConnection(urlsplit(running.url).netloc, timeout=20)
        response = ask(client)
        assert response.status == 200
    assert set(threading.enumerate()) <= before
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        response.read()
    client.close()


def test_a_connection_fault_without_the_servers_transport_says_what_is_missing():
    with pytest.raises(RuntimeError, match=r"datalake_assets\.exchange\.process"):
        call(frozen(MARKET, faults=always("reset")), **QUERY)


def test_gzip_and_faults_go_together(server, connection):
    server.exchange.faults = FaultScript([Rule(Fault(kind="cut"))])
    connection.request("GET", TARGET, headers=KEYS | {"Accept-Encoding": "gzip"})
    response = connection.getresponse()
    assert response.headers["content-encoding"] == "gzip"
    with pytest.raises(http.client.IncompleteRead):
        response.read()


def test_keep_alive_serves_many_requests_on_one_connection(server, connection):
    ask(connection).read()
    wire = connection.sock
    for _ in range(20):
        assert json.loads(ask(connection).read())["bars"]
        assert connection.sock is wire


@pytest.mark.parametrize("seed", range(3))
def test_a_patient_client_gets_every_bar_through_random_faults(seed):
    proper = rows(walk(frozen(MARKET), limit=3, **QUERY))
    faults = RandomFaults(0.3, seed, every_fault(seconds=0.05))
    found: dict[tuple[str, str], dict[str, object]] = {}
    token = ""
    with ExchangeServer(frozen(MARKET, faults=faults)) as running:
        for _ in range(200):
            client = http.client.HTTPConnection(urlsplit(running.url).netloc, timeout=20)
            try:
                client.request("GET", f"{TARGET}&limit=3&page_token={quote(token)}", headers=KEYS)
                response = client.getresponse()
                body = response.read()
            except (http.client.HTTPException, OSError):
                continue
            finally:
                client.close()
            if response.status != 200 or (page := json.loads(body))["bars"] is None:
                continue
            found |= {(s, bar["t"]): bar for s, bars in page["bars"].items() for bar in bars}
            token = page["next_page_token"]
            if token is None:
                break
        committed = {request.fault for request in running.exchange.requests} - {None}
    assert found == {(symbol, bar["t"]): bar for symbol, bar in proper}
    assert len(committed) >= 4
