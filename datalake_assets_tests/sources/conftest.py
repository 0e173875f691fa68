"""An exchange of a few hundred symbols, served over a real socket."""

from collections.abc import Iterator

import pytest

from datalake_assets.exchange.process import ExchangeServer
from datalake_assets.exchange.server import Exchange
from datalake_assets.exchange.synthetic import SyntheticMarket


@pytest.fixture(scope="module")
def served() -> Iterator[ExchangeServer]:
    with ExchangeServer(Exchange(SyntheticMarket(active=200, inactive=60))) as server:
        yield server


@pytest.fixture
def exchange(served: ExchangeServer) -> Iterator[ExchangeServer]:
    """The exchange with an empty log, no faults, and any keys accepted."""
    served.exchange.requests.clear()
    yield served
    served.exchange.faults = None
