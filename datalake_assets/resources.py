"""Resources: the collector, the source and the lake, with all options of a run.

Belongs here: validated configuration, and opening what it describes. Does not belong here: how it
is used. An option's default comes from the settings (`definitions`). The launchpad shows each
option with its description and can change it for one run.

https://docs.dagster.io/guides/build/external-resources
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import dagster as dg
from pydantic import Field, create_model

from datalake_assets.collection.clock import Clock
from datalake_assets.collection.dataset import Dataset
from datalake_assets.collection.minute_audit import MinuteThresholds
from datalake_assets.collection.plan import Packing
from datalake_assets.collection.progress import Display
from datalake_assets.collection.rate_limit import Budget, RateLimiter
from datalake_assets.collection.retry import RetryPolicy
from datalake_assets.lake.coverage import MAX_LOSS
from datalake_assets.lake.lake import Lake
from datalake_assets.lake.symbol_years import SymbolYears
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.pipeline.publication import CollectionOptions
from datalake_assets.rate_limits.opening import TRADING_REQUESTS_PER_MINUTE, open_limiter
from datalake_assets.settings import read_symbols, refuse_misspelt
from datalake_assets.sources.alpaca import Account, AlpacaSource
from datalake_assets.sources.transport import Timeouts
from datalake_assets.storage.store import open_store

if TYPE_CHECKING:
    from datalake_assets.exchange.process import ExchangeOptions

Resource = TypeVar("Resource", bound=dg.ConfigurableResource[Any])


def with_defaults(resource: type[Resource], **defaults: object) -> Resource:
    """A resource whose options default to these values, each independently.

    Dagster treats the values of an instance as one default for all of its options: a run that sets
    a single one resets the others to the defaults of the class (a repair would then collect at the
    free plan's rate). So the values become the fields' own defaults, in a subclass.
    """
    fields: dict[str, Any] = {}
    for name, value in defaults.items():
        field = copy(resource.model_fields[name])
        field.default = value
        fields[name] = (field.annotation, field)
    # With the docstring, which the UI shows and a subclass does not inherit.
    return create_model(resource.__name__, __base__=resource, __doc__=resource.__doc__, **fields)()


@dg.resource(description="The clock. Tests replace it.")
def clock(_context: dg.InitResourceContext) -> Clock:
    """The machine's clock."""
    return Clock()


@dg.resource(
    description="An additional display of a collection's progress, besides the run's log: none, or "
    "the terminal in which `datalake` runs."
)
def display(_context: dg.InitResourceContext) -> Display:
    """A display that shows nothing."""
    return Display()


class CollectorResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """How to collect: threads, rate, retries, and the thresholds for publishing a session.

    Defaults come from the environment. The launchpad can set each option for one run.
    """

    max_workers: int = Field(
        default=20, ge=1, le=1000, description="Number of threads that send requests."
    )
    requests_per_minute: int = Field(
        default=200,
        ge=1,
        description="Requests per minute that the account's plan allows, for all runs on this "
        "machine together: 200 on Alpaca's free plan, 10000 on the paid one.",
    )
    rate_limit: str = Field(
        default="",
        repr=False,
        description="A Postgres that holds the rate limit for runs on several machines, given as "
        "the name of the variable with its URL, since Dagster stores the launchpad in clear text. "
        "Empty: a file, for the runs on this machine.",
    )
    symbols: str = Field(
        default="",
        description="Comma-separated symbols, or @file, to collect instead of the universe.",
    )
    minute_symbols: str = Field(
        default="",
        description="Comma-separated symbols, or @file, whose minute bars are collected. Empty: "
        "the same as for daily bars.",
    )
    repair: bool = Field(
        default=False,
        description="Request only the symbols of the lake's session that failed, are pending or "
        "were never requested, and merge them; all symbols of a complete session that did not "
        "pass.",
    )
    missing_only: bool = Field(
        default=False,
        description="Skip sessions that are already published, as a backfill does.",
    )
    min_success_rate: float = Field(
        default=0.99,
        ge=0,
        le=1,
        description="Minimum success rate: the share of symbols that the source answered for.",
    )
    min_coverage: float = Field(
        default=0.95,
        ge=0,
        le=1,
        description="Minimum coverage: the share with a bar, of the symbols that traded in the "
        "five sessions before.",
    )
    max_invalid_bars: float = Field(
        default=0.001,
        ge=0,
        le=1,
        description="Maximum share of bars with impossible prices. Up to it, they only cause a "
        "warning.",
    )
    min_row_ratio: float = Field(
        default=0.8,
        ge=0,
        le=1,
        description="Minimum number of bars, as a share of the median of the five sessions before.",
    )
    unanswered_allowed: int = Field(
        default=1,
        ge=0,
        description="Number of symbols that may be failed or pending, whatever their share: "
        "among a few symbols, even one is more than a share allows.",
    )
    silent_allowed: int = Field(
        default=2,
        ge=0,
        description="Number of expected symbols that may have no bar, and of bars that may be "
        "missing from the usual number, whatever their share. At least one symbol must have a bar.",
    )
    invalid_bars_allowed: int = Field(
        default=1,
        ge=0,
        description="Number of bars with impossible prices that only cause a warning.",
    )
    max_contradicted: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="Minute bars: maximum share of the symbols whose minutes the daily bars "
        "contradict. Up to it, they only cause a warning.",
    )
    min_hour_ratio: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="Minute bars: minimum number of bars of liquid symbols in any hour, as a share "
        "of that in the fullest hour.",
    )
    sparse_allowed: int = Field(
        default=0,
        ge=0,
        description="Minute bars: number of liquid symbols that may have only a handful of "
        "minutes. Two more may where there is no daily bar: a halt looks the same then.",
    )
    max_universe_loss: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Maximum share of active symbols that may be missing from the list of assets, "
        "compared with the previous snapshot.",
    )
    max_session_loss: float = Field(
        default=MAX_LOSS,
        ge=0,
        le=1,
        description="Maximum share of the symbols with a bar that a session may lose when it is "
        "replaced by one of chosen symbols (the option symbols, or DATALAKE_SYMBOLS). Does not "
        "apply to a repair, which keeps all of them. At 1, the minutes of regular hours also "
        "replace those of extended ones.",
    )
    survey: bool = Field(
        default=True,
        description="Before a long range, find out in which years each symbol traded, so that "
        "fewer requests are needed. Off: every symbol is expected in every session.",
    )
    attempts: int = Field(default=6, ge=1, description="How often a request is sent at most.")
    retry_seconds: float = Field(
        default=180, ge=0, description="Seconds after which a failing request is not retried."
    )
    deadline_seconds: float = Field(
        default=0,
        ge=0,
        description="Seconds after which no further request is sent. Symbols not yet requested "
        "become pending. 0: no deadline.",
    )
    max_requests: int = Field(
        default=0,
        ge=0,
        description="The most requests for market data. Symbols not yet requested become pending. "
        "0: no limit.",
    )
    connect_timeout: float = Field(
        default=5, gt=0, description="Timeout for connecting, in seconds."
    )
    read_timeout: float = Field(
        default=30, gt=0, description="Timeout between two pieces of an answer, in seconds."
    )
    symbols_per_request: int = Field(
        default=500, ge=1, description="The most symbols in one request (URL length)."
    )
    bars_per_request: int = Field(
        default=9990,
        ge=1,
        le=10_000,
        description="The most bars in one request: just below a page of 10,000.",
    )

    @property
    def chosen_symbols(self) -> tuple[str, ...] | None:
        """The symbols to collect instead of the universe; None for all of it.

        Raises:
            SettingsError: The file can't be read, or a symbol is invalid.
        """
        return read_symbols(self.symbols) if self.symbols else None

    def chosen_for(self, dataset: Dataset) -> tuple[str, ...] | None:
        """The same for the bars of a dataset: minute bars can have symbols of their own."""
        if dataset.several and self.minute_symbols:
            return read_symbols(self.minute_symbols, "DATALAKE_MINUTE_SYMBOLS")
        return self.chosen_symbols

    @property
    def thresholds(self) -> MinuteThresholds:
        """What a session must reach: those of daily bars, and those that only minute bars have."""
        return MinuteThresholds(
            success_rate=self.min_success_rate,
            coverage=self.min_coverage,
            invalid_bars=self.max_invalid_bars,
            row_ratio=self.min_row_ratio,
            unanswered_allowed=self.unanswered_allowed,
            silent_allowed=self.silent_allowed,
            invalid_bars_allowed=self.invalid_bars_allowed,
            contradicted=self.max_contradicted,
            hour_ratio=self.min_hour_ratio,
            sparse_allowed=self.sparse_allowed,
            halted_allowed=self.sparse_allowed + 2,
        )

    def timeouts(self) -> Timeouts:
        """The limits of each request."""
        return Timeouts(
            connect=self.connect_timeout,
            read=self.read_timeout,
            total=max(3 * self.read_timeout, 30.0),
        )

    @contextmanager
    def options(self, account: str | None) -> Iterator[CollectionOptions]:
        """How to collect market data, with the limiter of this account.

        Args:
            account: A digest of the account, shared by all runs of this machine; None if only this
                run uses it.
        """
        with open_limiter(self.requests_per_minute, account, "data", self.rate_limit) as limiter:
            yield CollectionOptions(
                limiter=Budget(limiter, self.max_requests) if self.max_requests else limiter,
                retry=RetryPolicy(attempts=self.attempts, seconds=self.retry_seconds),
                packing=Packing(bars=self.bars_per_request, symbols=self.symbols_per_request),
                workers=self.max_workers,
                thresholds=self.thresholds,
                seconds=self.deadline_seconds or None,
            )

    def trading_limiter(self, account: str | None) -> AbstractContextManager[RateLimiter]:
        """The limiter of the trading API, which has its own limit."""
        return open_limiter(TRADING_REQUESTS_PER_MINUTE, account, "trading", self.rate_limit)


class SourceResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The source of the bars. Use one of its subclasses."""

    @property
    def identity(self) -> str:
        """The name of the source that a lake stores."""
        raise NotImplementedError

    @property
    def account(self) -> str | None:
        """A digest of the account (not a secret), for the shared rate limit; None if not shared."""
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
    """The source of the bars: Alpaca, or a server with the same protocol."""

    api_key: str = Field(description="API key of the account.", repr=False)
    secret_key: str = Field(description="Secret of the account.", repr=False)
    feed: str = Field(default="sip", description="The feed: sip (all venues), iex, otc or boats.")
    data_url: str | None = Field(
        default=None, description="Host of the market data API, if not Alpaca's own."
    )
    trading_url: str | None = Field(
        default=None, description="Host of the trading API, if not Alpaca's own."
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

    It starts when it is opened and ends with the process that opened it.
    """

    seed: int = Field(default=7, description="Seed of the synthetic market.")
    active: int = Field(default=6_000, ge=1, description="Listed symbols of the synthetic market.")
    inactive: int = Field(
        default=2_000, ge=0, description="Delisted symbols of the synthetic market."
    )
    recorded: str | None = Field(
        default=None,
        description="A CSV or Parquet file of bars to replay instead of a synthetic market.",
    )
    latency: float = Field(default=0.0, ge=0, description="Seconds added to each answer.")
    faults: str = Field(
        default="",
        description='Faults of the exchange, as JSON: {"rate": 0.3, "seed": 1} disturbs 30 % of '
        "the requests.",
    )

    @property
    def options(self) -> "ExchangeOptions":
        """The options of the exchange."""
        # Imported here: a run with keys needs no exchange and no server.
        from datalake_assets.exchange.process import ExchangeOptions

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
        """A source with its own exchange, which is stopped when the source is closed."""
        from datalake_assets.exchange.process import EmbeddedExchange

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
    """The lake: Parquet files in a folder or a bucket (DATALAKE_URI).

    An asset of yours reads it with `read`; our own assets write it with `open`.
    """

    uri: str = Field(description="The lake's location: a folder, or s3://bucket/prefix.")
    upload_workers: int = Field(
        default=20, ge=1, le=1000, description="How many symbol-years are written at once."
    )

    def open(self, source: str) -> LakeWriter:
        """The lake for writing, ready for bars of this source.

        Raises:
            SettingsError: A variable's name is almost that of a setting.
            WrongLakeError: It holds bars of another source.
            StoreError: It can't be reached.
        """
        # Not when the definitions load, where it would stop other people's assets, too.
        refuse_misspelt()
        lake = LakeWriter(open_store(self.uri))
        lake.claim(source)
        return lake

    def read(self) -> Lake:
        """The lake, for reading: its bars, securities and actions. Nothing is written.

        Raises:
            NotInLakeError: There is no lake.
            StoreError: It can't be reached.
            WrongLakeError: The lake was made by another version of this program.
        """
        return Lake.open(self.uri)

    def open_symbol_years(self, source: str) -> SymbolYears:
        """The lake's symbol-years, ready to be published from bars of this source.

        Raises:
            SettingsError, WrongLakeError, StoreError: As for `open`.
        """
        # Uploads have their own retries, which can be interrupted.
        return SymbolYears(self.open(source).store, open_store(self.uri, retry=False))
