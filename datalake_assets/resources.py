"""Resources: the collector, the source and the lake, with every knob that a run can turn.

Belongs here: configuration, checked, and opening what it describes. Does not belong here: what is
then done with it. A knob's default comes from the settings (`definitions`); the launchpad shows
it with its meaning and can change it for one run.

https://docs.dagster.io/guides/build/external-resources
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from pathlib import Path
from typing import Any, TypeVar

import dagster as dg
from pydantic import Field, create_model

from datalake_assets.collection.audit import Thresholds
from datalake_assets.collection.clock import Clock
from datalake_assets.collection.plan import Packing
from datalake_assets.collection.progress import Display
from datalake_assets.collection.rate_limit import Budget, RateLimiter
from datalake_assets.collection.retry import RetryPolicy
from datalake_assets.exchange.process import EmbeddedExchange, ExchangeOptions
from datalake_assets.lake.lake import Lake
from datalake_assets.lake.symbol_years import SymbolYears
from datalake_assets.pipeline.publication import CollectionOptions
from datalake_assets.rate_limits.opening import TRADING_REQUESTS_PER_MINUTE, open_limiter
from datalake_assets.settings import read_symbols, refuse_misspelt
from datalake_assets.sources.alpaca import Account, AlpacaSource
from datalake_assets.sources.transport import Timeouts
from datalake_assets.storage.store import open_store

Resource = TypeVar("Resource", bound=dg.ConfigurableResource[Any])


def with_defaults(resource: type[Resource], **defaults: object) -> Resource:
    """A resource whose knobs default to these values, each by itself.

    Dagster takes the values of an instance as one default for all of its knobs: a run that turns
    a single one sets the others back to those of the class (a repair would then collect at the
    free plan's rate). So the values become the fields' own defaults, in a subclass.
    """
    fields: dict[str, Any] = {}
    for name, value in defaults.items():
        field = copy(resource.model_fields[name])
        field.default = value
        fields[name] = (field.annotation, field)
    # With its docstring, which the UI shows; a class does not inherit it.
    return create_model(resource.__name__, __base__=resource, __doc__=resource.__doc__, **fields)()


@dg.resource(description="The time, and how to wait. Tests set their own.")
def clock(_context: dg.InitResourceContext) -> Clock:
    """The machine's clock."""
    return Clock()


@dg.resource(
    description="Where the progress of a collection is shown, besides the run's log: nowhere, or "
    "the terminal in which `datalake` runs."
)
def display(_context: dg.InitResourceContext) -> Display:
    """A display that shows nothing."""
    return Display()


class CollectorResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """How to collect: threads, rate, retries, and what a session must reach to be published.

    Its defaults come from the environment, and the launchpad can set each of them for one run.
    """

    max_workers: int = Field(
        default=20, ge=1, le=1000, description="Threads that ask at the same time."
    )
    requests_per_minute: int = Field(
        default=200,
        ge=1,
        description="Requests a minute that the account's plan allows, for all runs on this "
        "machine together: 200 on Alpaca's free plan, 10000 on the paid one.",
    )
    rate_limit: str = Field(
        default="",
        repr=False,
        description="A Postgres that keeps the limit for the runs on several machines, as the "
        "name of the variable that holds its address: Dagster stores the launchpad in clear. "
        "Empty: a file, for the runs on this machine.",
    )
    symbols: str = Field(
        default="",
        description="Comma-separated symbols, or @file, to collect instead of the universe.",
    )
    repair: bool = Field(
        default=False,
        description="Ask only for what the lake's session calls failed or pending, or never asked "
        "for, and merge; for all of it when it lacks nothing and did not pass.",
    )
    missing_only: bool = Field(
        default=False,
        description="Leave out the sessions that are published already, as a backfill does.",
    )
    min_success_rate: float = Field(
        default=0.99,
        ge=0,
        le=1,
        description="A session is published when at least this share of its symbols was answered.",
    )
    min_coverage: float = Field(
        default=0.95,
        ge=0,
        le=1,
        description="… and at least this share of the symbols that printed in the five sessions "
        "before has a bar.",
    )
    max_invalid_bars: float = Field(
        default=0.001,
        ge=0,
        le=1,
        description="… and no larger share of its bars has impossible prices; up to here they "
        "are warned of.",
    )
    min_row_ratio: float = Field(
        default=0.8,
        ge=0,
        le=1,
        description="… and it has at least this many bars, relative to the median of the five "
        "sessions before.",
    )
    unanswered_allowed: int = Field(
        default=1,
        ge=0,
        description="Symbols that may be failed or pending, whatever their share: among few "
        "symbols one is already more than a share allows.",
    )
    silent_allowed: int = Field(
        default=2,
        ge=0,
        description="Expected symbols that may have no bar, and bars that may be missing to the "
        "usual number, whatever their share. One symbol at least must have a bar.",
    )
    invalid_bars_allowed: int = Field(
        default=1,
        ge=0,
        description="Bars with impossible prices that are only warned of, whatever their share.",
    )
    max_universe_loss: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="The list of assets is taken when no larger share of its active symbols is "
        "gone since the snapshot before.",
    )
    survey: bool = Field(
        default=True,
        description="Before a long range, ask in which years each symbol traded, to pack requests "
        "by what they bring. Off: every symbol is expected in every session.",
    )
    attempts: int = Field(default=6, ge=1, description="Times that one request is sent at most.")
    retry_seconds: float = Field(
        default=180, ge=0, description="Seconds after which a failing request is given up."
    )
    deadline_seconds: float = Field(
        default=0,
        ge=0,
        description="Seconds after which no further request is sent; what was not asked for is "
        "pending then. 0 for no deadline.",
    )
    max_requests: int = Field(
        default=0,
        ge=0,
        description="Requests for market data after which no further one is sent; what was not "
        "asked for is pending then. 0 for no such bound.",
    )
    connect_timeout: float = Field(
        default=5, gt=0, description="Seconds until a connection must stand."
    )
    read_timeout: float = Field(
        default=30, gt=0, description="Seconds between two pieces of an answer."
    )
    symbols_per_request: int = Field(
        default=500, ge=1, description="Symbols named by one request at most (URL length)."
    )
    bars_per_request: int = Field(
        default=9930,
        ge=1,
        le=10_000,
        description="Bars asked for by one request at most: just below a page of 10,000.",
    )

    @property
    def chosen_symbols(self) -> tuple[str, ...] | None:
        """The symbols to collect instead of the universe; None for all of it.

        Raises:
            SettingsError: The file can't be read, or one of them can't be a ticker.
        """
        return read_symbols(self.symbols) if self.symbols else None

    def timeouts(self) -> Timeouts:
        """The bounds of each request."""
        return Timeouts(
            connect=self.connect_timeout,
            read=self.read_timeout,
            total=max(3 * self.read_timeout, 30.0),
        )

    @contextmanager
    def options(self, account: str | None) -> Iterator[CollectionOptions]:
        """How to collect market data, with the limiter of this account.

        Args:
            account: A mark of the account that all runs of this machine share; None when
                nobody else uses it.
        """
        with open_limiter(self.requests_per_minute, account, "data", self.rate_limit) as limiter:
            yield CollectionOptions(
                limiter=Budget(limiter, self.max_requests) if self.max_requests else limiter,
                retry=RetryPolicy(attempts=self.attempts, seconds=self.retry_seconds),
                packing=Packing(bars=self.bars_per_request, symbols=self.symbols_per_request),
                workers=self.max_workers,
                thresholds=Thresholds(
                    success_rate=self.min_success_rate,
                    coverage=self.min_coverage,
                    invalid_bars=self.max_invalid_bars,
                    row_ratio=self.min_row_ratio,
                    unanswered_allowed=self.unanswered_allowed,
                    silent_allowed=self.silent_allowed,
                    invalid_bars_allowed=self.invalid_bars_allowed,
                ),
                seconds=self.deadline_seconds or None,
            )

    def trading_limiter(self, account: str | None) -> AbstractContextManager[RateLimiter]:
        """The limiter of the trading API, a budget of its own."""
        return open_limiter(TRADING_REQUESTS_PER_MINUTE, account, "trading", self.rate_limit)


class SourceResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Where bars come from. Use one of its subclasses."""

    @property
    def identity(self) -> str:
        """What a lake remembers of its source."""
        raise NotImplementedError

    @property
    def account(self) -> str | None:
        """A mark of the account, for the limit that its runs share; no secret. None: nobody's."""
        raise NotImplementedError

    def open(self, collector: CollectorResource) -> AbstractContextManager[AlpacaSource]:
        """The source, with a connection for each of the collector's threads."""
        raise NotImplementedError


@contextmanager
def _opened(account: Account, collector: CollectorResource) -> Iterator[AlpacaSource]:
    source = AlpacaSource(account, connections=collector.max_workers, timeouts=collector.timeouts())
    try:
        yield source
    finally:
        source.close()


class AlpacaResource(SourceResource):
    """Where the bars come from: Alpaca, or a server that speaks its protocol."""

    api_key: str = Field(description="Key of the account.", repr=False)
    secret_key: str = Field(description="Secret of the account.", repr=False)
    feed: str = Field(
        default="sip", description="Which trades make the bars: sip (all venues), iex, otc, boats."
    )
    data_url: str | None = Field(
        default=None, description="Host of the market data API, when it is not Alpaca's own."
    )
    trading_url: str | None = Field(
        default=None, description="Host of the trading API, when it is not Alpaca's own."
    )

    @property
    def identity(self) -> str:  # noqa: D102
        return self._account.source

    @property
    def account(self) -> str | None:  # noqa: D102
        return self._account.mark

    def open(self, collector: CollectorResource) -> AbstractContextManager[AlpacaSource]:  # noqa: D102
        return _opened(self._account, collector)

    @property
    def _account(self) -> Account:
        return Account(
            api_key=self.api_key,
            secret_key=self.secret_key,
            data_url=self.data_url,
            trading_url=self.trading_url,
            feed=self.feed,
        )


class EmbeddedExchangeResource(SourceResource):
    """The embedded exchange: a synthetic or recorded market on loopback, no key needed.

    It is started when it is opened and gone with whoever opened it.
    """

    seed: int = Field(default=7, description="Which synthetic market: each seed is another.")
    active: int = Field(default=6_000, ge=1, description="Listed symbols of the synthetic market.")
    inactive: int = Field(default=2_000, ge=0, description="Delisted symbols of it.")
    recorded: str | None = Field(
        default=None,
        description="A CSV or Parquet file of bars to replay instead of a synthetic market.",
    )
    latency: float = Field(default=0.0, ge=0, description="Seconds that each answer takes longer.")
    faults: str = Field(
        default="",
        description='Faults of the exchange, as JSON: {"rate": 0.3, "seed": 1} disturbs 30 % of '
        "the requests.",
    )

    @property
    def options(self) -> ExchangeOptions:
        """Which exchange to run."""
        return ExchangeOptions(
            seed=self.seed,
            active=self.active,
            inactive=self.inactive,
            recorded=None if self.recorded is None else Path(self.recorded),
            latency=self.latency,
            faults=self.faults,
        )

    @contextmanager
    def open(self, collector: CollectorResource) -> Iterator[AlpacaSource]:
        """A source that asks an exchange of its own, started here and gone afterwards."""
        with EmbeddedExchange(self.options) as exchange:
            url = exchange.url
            account = Account("embedded", "exchange", data_url=url, trading_url=url)
            with _opened(account, collector) as source:
                yield source

    @property
    def identity(self) -> str:  # noqa: D102
        return f"embedded exchange: {self.options.market_id}"

    @property
    def account(self) -> str | None:  # noqa: D102
        return None


class LakeResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Where the bars are kept, as Parquet files: a folder or a bucket (DATALAKE_URI)."""

    uri: str = Field(description="Where the lake is: a folder, or s3://bucket/prefix.")
    upload_workers: int = Field(
        default=20, ge=1, le=1000, description="Symbol-years that are written at the same time."
    )

    def open(self, source: str) -> Lake:
        """The lake, ready to be written to with bars of this source.

        Raises:
            SettingsError: A variable's name is almost that of a setting.
            WrongLakeError: It holds bars of another source.
            StoreError: It can't be reached.
        """
        # Here, and not when the definitions load: there it would stop other people's assets, too.
        refuse_misspelt()
        lake = Lake(open_store(self.uri))
        lake.claim(source)
        return lake

    def open_symbol_years(self, source: str) -> SymbolYears:
        """The lake's symbol-years, ready to be published from bars of this source.

        Raises:
            SettingsError, WrongLakeError, StoreError: As for `open`.
        """
        # Uploads are tried again by themselves, where a stop finds them.
        return SymbolYears(self.open(source).store, open_store(self.uri, retry=False))
