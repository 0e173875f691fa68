"""Resources: knobs that show and can be turned, limits that are refused, secrets that stay inside.

Not here: what a run then does with them (`test_assets`).
"""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from pydantic import ValidationError

from datalake_assets.collection.minute_audit import MinuteThresholds
from datalake_assets.collection.rate_limit import RateLimiter, SharedRateLimiter
from datalake_assets.definitions import build_definitions
from datalake_assets.exchange.faults import read_faults
from datalake_assets.exchange.process import ExchangeServer
from datalake_assets.exchange.server import Exchange
from datalake_assets.exchange.synthetic import SyntheticMarket
from datalake_assets.resources import (
    AlpacaResource,
    CollectorResource,
    EmbeddedExchangeResource,
    LakeResource,
    SourceResource,
)
from datalake_assets.settings import Settings

RESOURCES: tuple[type[dg.ConfigurableResource[Any]], ...] = (
    CollectorResource,
    AlpacaResource,
    EmbeddedExchangeResource,
    LakeResource,
)
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
KEYS = {"ALPACA_API_KEY": "AKPUBLICLOOKING7", "ALPACA_SECRET_KEY": "s3cr3t/that+nobody=sees"}


# --- the knobs ---


@pytest.mark.parametrize("resource", RESOURCES)
def test_every_knob_tells_what_it_means(resource: type[dg.ConfigurableResource[Any]]) -> None:
    silent = [name for name, knob in resource.model_fields.items() if not knob.description]

    assert silent == []


def config_fields(definitions: dg.Definitions, resource: str) -> dict[str, Any]:
    """The knobs of a resource as the launchpad knows them, by name."""
    schema = definitions.resolve_job_def("daily_ticks_job").run_config_schema
    resources = schema.config_type.fields["resources"].config_type.fields
    return dict(resources[resource].config_type.fields["config"].config_type.fields)


def test_every_knob_of_the_collector_shows_in_the_launchpad_with_its_default_and_meaning() -> None:
    fields = config_fields(build_definitions(Settings.load({})), "collector")

    declared = CollectorResource.model_fields
    assert {name: field.default_value for name, field in fields.items()} == {
        name: knob.default for name, knob in declared.items()
    }
    assert {name: field.description for name, field in fields.items()} == {
        name: knob.description for name, knob in declared.items()
    }
    assert not any(field.is_required for field in fields.values())


@pytest.mark.parametrize(
    ("environ", "kind"), [({}, EmbeddedExchangeResource), (KEYS, AlpacaResource)]
)
def test_every_knob_of_the_source_shows_in_the_launchpad(
    environ: dict[str, str], kind: type[SourceResource]
) -> None:
    fields = config_fields(build_definitions(Settings.load(environ)), "source")

    assert {name: field.description for name, field in fields.items()} == {
        name: knob.description for name, knob in kind.model_fields.items()
    }


def test_the_launchpad_shows_the_settings_as_the_defaults_of_their_knobs() -> None:
    environ = {
        "DATALAKE_MAX_WORKERS": "7",
        "ALPACA_REQUESTS_PER_MINUTE": "10000",
        "DATALAKE_SYMBOLS": "AAPL,BRK.B",
    }

    fields = config_fields(build_definitions(Settings.load(environ)), "collector")

    assert fields["max_workers"].default_value == 7
    assert fields["requests_per_minute"].default_value == 10_000
    assert fields["symbols"].default_value == "AAPL,BRK.B"


@contextmanager
def collector_in_a_run(
    environ: dict[str, str], config: dict[str, Any] | None
) -> Iterator[CollectorResource]:
    """The collector as an asset gets it, with this much of it set for the run."""
    seen: list[CollectorResource] = []

    @dg.op
    def look(collector: CollectorResource) -> None:
        seen.append(collector)

    @dg.job
    def looking() -> None:
        look()

    resources = build_definitions(Settings.load(environ)).resources
    assert resources is not None
    job = dg.Definitions(jobs=[looking], resources={"collector": resources["collector"]})
    run_config = {} if config is None else {"resources": {"collector": {"config": config}}}
    result = job.resolve_job_def("looking").execute_in_process(run_config=QUIET | run_config)
    assert result.success
    yield seen[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_workers", 3),
        ("requests_per_minute", 1_000),
        ("rate_limit", "NAME_OF_A_VARIABLE"),
        ("symbols", "AAPL,MSFT"),
        ("minute_symbols", "AAPL"),
        ("repair", True),
        ("missing_only", True),
        ("min_success_rate", 0.5),
        ("min_coverage", 0.5),
        ("max_invalid_bars", 0.5),
        ("min_row_ratio", 0.5),
        ("unanswered_allowed", 9),
        ("silent_allowed", 9),
        ("invalid_bars_allowed", 9),
        ("max_contradicted", 0.5),
        ("min_hour_ratio", 0.5),
        ("sparse_allowed", 9),
        ("max_universe_loss", 0.5),
        ("max_session_loss", 0.5),
        ("survey", False),
        ("attempts", 1),
        ("retry_seconds", 1.5),
        ("deadline_seconds", 2.5),
        ("max_requests", 7),
        ("connect_timeout", 0.5),
        ("read_timeout", 0.5),
        ("symbols_per_request", 10),
        ("bars_per_request", 100),
    ],
)
def test_a_knob_can_be_turned_for_one_run(name: str, value: object) -> None:
    with collector_in_a_run({}, {name: value}) as collector:
        assert collector.model_dump() == CollectorResource(**{name: value}).model_dump()
        assert getattr(collector, name) == value


def test_all_knobs_of_the_collector_are_tried_above() -> None:
    (turned,) = test_a_knob_can_be_turned_for_one_run.pytestmark  # type: ignore[attr-defined]

    assert [name for name, _ in turned.args[1]] == list(CollectorResource.model_fields)


@pytest.mark.parametrize("config", [None, {}, {"repair": True}])
def test_what_a_run_does_not_set_is_what_the_settings_say(config: dict[str, Any] | None) -> None:
    """A run that turns one knob must not set the others back."""
    environ = {
        "DATALAKE_MAX_WORKERS": "7",
        "ALPACA_REQUESTS_PER_MINUTE": "10000",
        "DATALAKE_SYMBOLS": "AAPL,BRK.B",
    }

    with collector_in_a_run(environ, config) as collector:
        assert collector.max_workers == 7
        assert collector.requests_per_minute == 10_000
        assert collector.chosen_symbols == ("AAPL", "BRK.B")
        assert collector.repair is bool(config)


# --- what is refused ---


@pytest.mark.parametrize(
    ("resource", "name", "wrong", "right"),
    [
        (CollectorResource, "max_workers", 0, 1),
        (CollectorResource, "max_workers", 1_001, 1_000),
        (CollectorResource, "requests_per_minute", 0, 1),
        (CollectorResource, "min_success_rate", -0.001, 0),
        (CollectorResource, "min_success_rate", 1.001, 1),
        (CollectorResource, "min_coverage", -0.001, 0),
        (CollectorResource, "min_coverage", 1.001, 1),
        (CollectorResource, "max_invalid_bars", -0.001, 0),
        (CollectorResource, "max_invalid_bars", 1.001, 1),
        (CollectorResource, "min_row_ratio", -0.001, 0),
        (CollectorResource, "min_row_ratio", 1.001, 1),
        (CollectorResource, "unanswered_allowed", -1, 0),
        (CollectorResource, "silent_allowed", -1, 0),
        (CollectorResource, "invalid_bars_allowed", -1, 0),
        (CollectorResource, "max_universe_loss", -0.001, 0),
        (CollectorResource, "max_universe_loss", 1.001, 1),
        (CollectorResource, "max_session_loss", -0.001, 0),
        (CollectorResource, "max_session_loss", 1.001, 1),
        (CollectorResource, "attempts", 0, 1),
        (CollectorResource, "retry_seconds", -0.1, 0),
        (CollectorResource, "deadline_seconds", -0.1, 0),
        (CollectorResource, "connect_timeout", 0, 0.001),
        (CollectorResource, "read_timeout", 0, 0.001),
        (CollectorResource, "symbols_per_request", 0, 1),
        (CollectorResource, "bars_per_request", 0, 1),
        (CollectorResource, "bars_per_request", 10_001, 10_000),
        (EmbeddedExchangeResource, "active", 0, 1),
        (EmbeddedExchangeResource, "inactive", -1, 0),
        (EmbeddedExchangeResource, "latency", -0.1, 0),
    ],
)
def test_a_value_just_beyond_its_bound_is_refused_by_name_and_the_bound_itself_is_not(
    resource: type[dg.ConfigurableResource[Any]], name: str, wrong: float, right: float
) -> None:
    with pytest.raises(ValidationError, match=name):
        resource(**{name: wrong})

    assert getattr(resource(**{name: right}), name) == right


def chain(error: BaseException | None) -> str:
    """What an error and its causes say."""
    told = []
    while error is not None:
        told.append(str(error))
        error = error.__cause__
    return "\n".join(told)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"max_workers": 0}, "max_workers"),
        ({"max_workers": "many"}, "max_workers"),
        ({"min_success_rate": 99.0}, "min_success_rate"),
        ({"max_worker": 5}, "max_worker"),
    ],
)
def test_a_wrong_value_in_the_launchpad_ends_the_run_before_it_starts_and_names_the_knob(
    config: dict[str, Any], named: str
) -> None:
    with pytest.raises(dg.DagsterError) as refused, collector_in_a_run({}, config):
        pass

    assert named in chain(refused.value)


def test_every_number_of_threads_that_the_settings_allow_can_be_collected_with() -> None:
    """Else the environment is called right, and loading the definitions fails on it."""
    resources = build_definitions(Settings.load({"DATALAKE_MAX_WORKERS": "1000"})).resources

    assert resources is not None
    assert resources["collector"].max_workers == 1_000


# --- the chosen symbols ---


def test_without_chosen_symbols_it_is_the_whole_universe() -> None:
    assert CollectorResource().chosen_symbols is None
    with pytest.raises(ValueError, match="at least one symbol"):
        _ = CollectorResource(symbols=" , ").chosen_symbols


def test_chosen_symbols_are_trimmed_and_upper_case() -> None:
    assert CollectorResource(symbols=" aapl, Brk.b ,").chosen_symbols == ("AAPL", "BRK.B")


@pytest.mark.parametrize("odd", ["BRK-B", "0029900E0", "ATC.220816", ".A", "A."])
def test_a_chosen_symbol_that_can_be_no_ticker_is_named(odd: str) -> None:
    with pytest.raises(ValueError, match="DATALAKE_SYMBOLS") as refused:
        _ = CollectorResource(symbols=f"AAPL,{odd}").chosen_symbols

    assert repr(odd) in str(refused.value)


@pytest.mark.parametrize("given", ["AAPL,BRK.B", "AAPL BRK.B", "aapl,\n brk.b"])
def test_every_spelling_of_symbols_that_the_settings_take_reaches_the_collector(given: str) -> None:
    settings = Settings.load({"DATALAKE_SYMBOLS": given})

    with collector_in_a_run({"DATALAKE_SYMBOLS": given}, None) as collector:
        assert collector.chosen_symbols == settings.read_symbols() == ("AAPL", "BRK.B")


def test_a_file_of_symbols_reaches_the_collector(tmp_path: Path) -> None:
    listed = tmp_path / "symbols.txt"
    listed.write_text("AAPL\nBRK.B  # a share class\n")

    with collector_in_a_run({"DATALAKE_SYMBOLS": f"@{listed}"}, None) as collector:
        assert collector.chosen_symbols == ("AAPL", "BRK.B")


# --- who shares a limit ---


def alpaca(key: str = "K", data_url: str | None = None, secret: str = "S") -> AlpacaResource:
    return AlpacaResource(api_key=key, secret_key=secret, data_url=data_url)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the machine's temporary files are, empty."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def limit_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_two_collectors_of_one_account_share_one_file_for_each_budget(temporary: Path) -> None:
    one, other = CollectorResource(max_workers=1), CollectorResource(max_workers=9)
    account = alpaca().account

    with ExitStack() as stack:
        ours = stack.enter_context(one.options(account)).limiter
        theirs = stack.enter_context(other.options(alpaca(secret="renewed").account)).limiter
        stack.enter_context(one.trading_limiter(account))
        stack.enter_context(other.trading_limiter(account))

        assert limit_files(temporary) == [f"{account}-data", f"{account}-trading"]
        assert isinstance(ours, SharedRateLimiter)
        assert isinstance(theirs, SharedRateLimiter)
        assert ours is not theirs


def test_another_key_or_another_host_is_another_account(temporary: Path) -> None:
    sandbox = "https://data.sandbox.alpaca.markets"
    accounts = {alpaca().account, alpaca("K2").account, alpaca(data_url=sandbox).account}

    assert len(accounts) == 3
    for account in accounts:
        with CollectorResource().options(account):
            pass
    assert limit_files(temporary) == sorted(f"{account}-data" for account in accounts)


def test_the_name_of_a_limit_file_tells_nothing_of_the_keys() -> None:
    account = alpaca(KEYS["ALPACA_API_KEY"], secret=KEYS["ALPACA_SECRET_KEY"]).account

    assert account is not None
    assert not any(secret in account for secret in KEYS.values())


def test_the_embedded_exchange_is_nobodys_account_and_leaves_no_file(temporary: Path) -> None:
    assert EmbeddedExchangeResource().account is None

    with CollectorResource().options(EmbeddedExchangeResource().account) as options:
        assert type(options.limiter) is RateLimiter
    with CollectorResource().trading_limiter(None) as limiter:
        assert type(limiter) is RateLimiter
    assert limit_files(temporary) == []


def test_the_knobs_reach_what_they_steer() -> None:
    collector = CollectorResource(
        max_workers=3,
        attempts=2,
        retry_seconds=9,
        symbols_per_request=11,
        bars_per_request=101,
        min_success_rate=0.1,
        min_coverage=0.2,
        max_invalid_bars=0.3,
        min_row_ratio=0.4,
        unanswered_allowed=5,
        silent_allowed=6,
        invalid_bars_allowed=7,
        max_contradicted=0.05,
        min_hour_ratio=0.06,
        sparse_allowed=8,
        deadline_seconds=60,
        connect_timeout=1,
        read_timeout=2,
    )

    with collector.options(None) as options:
        assert (options.workers, options.seconds) == (3, 60)
        assert (options.retry.attempts, options.retry.seconds) == (2, 9)
        assert (options.packing.symbols, options.packing.bars) == (11, 101)
        assert options.thresholds == MinuteThresholds(
            *(0.1, 0.2, 0.3, 0.4, 5, 6, 7),
            contradicted=0.05,
            hour_ratio=0.06,
            sparse_allowed=8,
            halted_allowed=10,
        )
    assert (collector.timeouts().connect, collector.timeouts().read) == (1, 2)
    with CollectorResource().options(None) as options:
        assert options.seconds is None


# --- sources ---


def test_a_lake_remembers_host_and_feed_of_alpaca_and_never_a_key() -> None:
    assert alpaca().identity == "alpaca/sip"
    assert alpaca(data_url="http://127.0.0.1:8801").identity == "127.0.0.1:8801/sip"
    assert AlpacaResource(api_key="K", secret_key="S", feed="iex").identity == "alpaca/iex"


def test_a_lake_remembers_which_market_the_embedded_exchange_served(tmp_path: Path) -> None:
    usual = EmbeddedExchangeResource().identity
    recorded = tmp_path / "bars.csv"
    recorded.write_text(
        "symbol,session,open,high,low,close,volume\nA,2024-07-03,1,1,1,1,1\n", encoding="ascii"
    )

    assert usual.startswith("embedded exchange: ")
    others = {
        usual,
        EmbeddedExchangeResource(seed=8).identity,
        EmbeddedExchangeResource(active=5).identity,
        EmbeddedExchangeResource(inactive=5).identity,
        EmbeddedExchangeResource(recorded=str(recorded)).identity,
    }
    assert len(others) == 5
    assert EmbeddedExchangeResource(latency=1, faults='{"rate": 0.1}').identity == usual


# --- secrets ---


def test_the_keys_are_not_in_the_repr_of_a_resource() -> None:
    resource = AlpacaResource(api_key=KEYS["ALPACA_API_KEY"], secret_key=KEYS["ALPACA_SECRET_KEY"])

    for told in (repr(resource), str(resource), repr(resource._account)):
        assert not any(secret in told for secret in KEYS.values()), told


def test_the_keys_are_not_in_what_dagster_stores_of_the_definitions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from dagster._core.remote_representation.external_data import RepositorySnap

    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    definitions = build_definitions()
    repository = definitions.get_repository_def()

    snapshot = dg.serialize_value(RepositorySnap.from_def(repository))

    assert "daily_ticks" in snapshot
    assert "ALPACA_API_KEY" in snapshot, "the name of the variable stands for the key"
    assert not any(secret in snapshot for secret in KEYS.values())
    for job in repository.get_all_jobs():
        for text in (
            dg.serialize_value(job.get_job_snapshot()),
            dg.serialize_value(job.get_config_schema_snapshot()),
        ):
            assert not any(secret in text for secret in KEYS.values())


@pytest.mark.parametrize("faults", ["", '[{"kind": "status", "status": 401, "times": null}]'])
def test_the_keys_are_nowhere_in_the_records_of_a_run_good_or_bad(
    faults: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Dagster's whole home is searched: runs, events, logs, captured output; and the lake."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    home, lake = tmp_path / "home", tmp_path / "lake"
    home.mkdir()
    market = Exchange(
        SyntheticMarket(7, 12, 3),
        keys=(KEYS["ALPACA_API_KEY"], KEYS["ALPACA_SECRET_KEY"]),
        faults=read_faults(faults) if faults else None,
    )
    with ExchangeServer(market) as server:
        urls = {"ALPACA_DATA_URL": server.url, "ALPACA_TRADING_URL": server.url}
        for name, value in (KEYS | urls).items():
            monkeypatch.setenv(name, value)
        job = build_definitions(lake=LakeResource(uri=str(lake))).resolve_job_def("daily_ticks_job")
        with dg.DagsterInstance.local_temp(str(home)) as instance:
            result = job.execute_in_process(
                instance=instance, partition_key="2024-07-03", raise_on_error=False
            )
            records = instance.all_logs(result.run_id)
    told = "\n".join([*(str(record) for record in records), *capfd.readouterr()])
    assert result.success is (not faults), told
    assert "daily_ticks" in told
    assert not any(secret in told for secret in KEYS.values())
    searched = [path for path in (*home.rglob("*"), *lake.rglob("*")) if path.is_file()]
    assert any(path.suffix == ".db" for path in searched)
    for path in searched:
        content = path.read_bytes()
        assert not any(secret.encode() in content for secret in KEYS.values()), path
