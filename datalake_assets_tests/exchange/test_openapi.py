"""Every answer against Alpaca's own specification, where its files are at hand.

They lie beside the checkout, not in it: their licence is not this project's.
"""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from openapi_schema_validator import OAS30Validator, OAS31Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from datalake_assets.exchange.faults import Fault, FaultScript, Rule
from datalake_assets.exchange.synthetic import SyntheticMarket
from datalake_assets_tests.exchange.calling import BARS, KEYS, Answer, call, frozen

FACTS = Path(__file__).resolve().parents[2].parent / "shared" / "facts"
FILES = {"data": "alpaca_openapi_data.yaml", "trading": "alpaca_openapi_trading.yaml"}
MARKET = SyntheticMarket(active=300, inactive=100)
EXCHANGE = frozen(MARKET, requests_per_minute=10_000, trading_requests_per_minute=200)
SYMBOLS = ",".join(sorted(r["symbol"] for r in MARKET.assets() if r["status"] == "active")[:50])
JANUARY = {"start": "2024-01-02", "end": "2024-01-31"}


@cache
def specification(api: str) -> dict[str, Any]:
    path = FACTS / FILES[api]
    if not path.exists():
        pytest.skip(f"Alpaca's specification is not at {path}: its answers cannot be validated")
    loaded: dict[str, Any] = yaml.load(path.read_text(), getattr(yaml, "CSafeLoader", yaml.Loader))
    return loaded


def pointer(*keys: str) -> str:
    return "#/" + "/".join(key.replace("~", "~0").replace("/", "~1") for key in keys)


def problems(api: str, path: str, status: int, body: object) -> list[str]:
    """What the specification has against `body`; every status must be one that it knows."""
    document = specification(api)
    responses = document["paths"][path]["get"]["responses"]
    assert str(status) in responses, f"{path} does not answer {status}"
    if "content" not in responses[str(status)]:
        return []  # it gives errors no schema
    registry = Registry().with_resource("spec", Resource(document, DRAFT202012))
    steps = ("paths", path, "get", "responses", str(status), "content", "application/json")
    schema = {"$ref": "spec" + pointer(*steps, "schema")}
    validator = OAS31Validator if document["openapi"].startswith("3.1") else OAS30Validator
    checker = validator(schema, registry=registry, format_checker=validator.FORMAT_CHECKER)
    return [error.message for error in checker.iter_errors(body)]


@pytest.mark.parametrize(
    ("api", "path", "query"),
    [
        ("data", BARS, {"symbols": SYMBOLS, "limit": 700, **JANUARY}),
        ("data", BARS, {"symbols": SYMBOLS, "currency": "USD", "sort": "desc", **JANUARY}),
        ("data", BARS, {"symbols": "NOSUCH", **JANUARY}),
        ("data", "/v2/stocks/{symbol}/bars", JANUARY),
        ("data", "/v2/stocks/{symbol}/bars", {"limit": 3, **JANUARY}),
        ("data", "/v1/corporate-actions", {"start": "2011-01-03", "end": "2026-01-01"}),
        ("data", "/v1/corporate-actions", {}),
        ("trading", "/v2/assets", {}),
        ("trading", "/v2/calendar", {}),
        ("trading", "/v2/clock", {}),
    ],
)
def test_an_answer_is_as_specified(api, path, query):
    specification(api)  # skips here, before anything is asked
    answer = call(EXCHANGE, path.replace("{symbol}", SYMBOLS.split(",")[3]), **query)
    assert answer.status == 200
    assert problems(api, path, 200, answer.json()) == []
    # Of the headers, the specification knows the rate limit's.
    specified = specification(api)["paths"][path]["get"]["responses"]["200"].get("headers", {})
    assert {name.lower() for name in specified} <= set(answer.headers)


def refused(status: int) -> Answer:
    limited = frozen(MARKET, requests_per_minute=1)
    failing = frozen(MARKET, faults=FaultScript([Rule(Fault(kind="status", status=500))]))
    answers = {
        400: lambda: call(EXCHANGE, symbols="BRK-B", **JANUARY),
        401: lambda: call(EXCHANGE, BARS, {}, symbols="A"),
        403: lambda: call(EXCHANGE, symbols="A", start="2026-09-01", end="2026-09-30"),
        429: lambda: [call(limited, BARS, KEYS, symbols="A", **JANUARY) for _ in "12"][1],
        500: lambda: call(failing, symbols="A", **JANUARY),
    }
    return answers[status]()


@pytest.mark.parametrize("status", [400, 401, 403, 429, 500])
def test_an_error_has_a_specified_status(status):
    specification("data")
    answer = refused(status)
    assert answer.status == status
    html = answer.headers["content-type"] == "text/html"
    assert html == (status in (401, 500))
    assert problems("data", BARS, status, None if html else answer.json()) == []


def test_the_validation_would_find_a_fault():
    page = call(EXCHANGE, symbols=SYMBOLS, **JANUARY).json()
    first = next(iter(page["bars"].values()))[0]
    for name, wrong in {"c": "1.5", "v": 1.5, "t": 20240102}.items():
        right, first[name] = first[name], wrong
        assert len(problems("data", BARS, 200, page)) == 1
        first[name] = right
    del first["vw"]
    assert problems("data", BARS, 200, page) == ["'vw' is a required property"]
    rows = call(EXCHANGE, "/v2/assets").json()
    rows[0]["exchange"] = "MARS"
    assert len(problems("trading", "/v2/assets", 200, rows)) == 1
