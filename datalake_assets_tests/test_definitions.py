"""The definitions: what Dagster finds in them, from settings good and bad.

Not here: what loading them touches (`test_repository`), and their resources (`test_resources`).
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from datalake_assets import definitions
from datalake_assets.actions.action import SCHEMA as ACTIONS
from datalake_assets.collection.audit import RULES
from datalake_assets.collection.bars import SCHEMA
from datalake_assets.collection.minute_audit import MinuteThresholds
from datalake_assets.collection.universe import SCHEMA as UNIVERSE
from datalake_assets.definitions import build_collector, build_definitions, build_source
from datalake_assets.resources import AlpacaResource, EmbeddedExchangeResource, LakeResource
from datalake_assets.securities.tables import FACTORS, SECURITIES
from datalake_assets.settings import Settings, SettingsError

ROOT = Path(__file__).parents[1]
KEYS = {"ALPACA_API_KEY": "key-for-tests", "ALPACA_SECRET_KEY": "secret-for-tests"}


def python(
    *arguments: str, cwd: Path, environ: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Python with nothing in its environment but an empty home and where the package is."""
    return subprocess.run(
        [sys.executable, "-B", "-W", "ignore", *arguments],
        cwd=cwd,
        env={"HOME": str(cwd), "PYTHONPATH": str(ROOT), **(environ or {})},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture
def empty_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


def test_dagster_validates_them_in_an_empty_environment(empty_folder: Path) -> None:
    result = python(
        *("-m", "dagster", "definitions", "validate", "-m", "datalake_assets.definitions"),
        cwd=empty_folder,
    )

    assert result.returncode == 0, result.stderr
    assert "Validation successful" in result.stdout + result.stderr


def test_they_load_in_a_folder_that_may_not_be_written_to_and_leave_nothing(
    empty_folder: Path,
) -> None:
    empty_folder.chmod(0o555)
    try:
        result = python("-c", "import datalake_assets.definitions", cwd=empty_folder)
    finally:
        empty_folder.chmod(0o755)

    assert result.returncode == 0, result.stderr
    assert list(empty_folder.iterdir()) == []


@pytest.mark.parametrize("lake", ["s3://no-such-bucket-here/lake", "/no/such/folder"])
def test_they_load_without_a_look_at_the_lake(empty_folder: Path, lake: str) -> None:
    result = python(
        *("-c", "import datalake_assets.definitions"),
        cwd=empty_folder,
        environ={"DATALAKE_URI": lake},
    )

    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"ALPACA_API_KEY": "half"}, "ALPACA_SECRET_KEY is not set"),
        ({"DATALAKE_MAX_WORKERS": "none"}, "DATALAKE_MAX_WORKERS='none'"),
        ({"DATALAKE_SYMBOLS": "AAPL,BRK-B"}, "not valid: 'BRK-B'"),
        ({"DATALAKE_START_DATE": "2011"}, "DATALAKE_START_DATE='2011'"),
    ],
)
def test_a_wrong_setting_is_one_clear_error_at_loading(
    environ: dict[str, str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(SettingsError, match="1 setting is wrong") as refused:
        build_definitions()

    assert told in str(refused.value)
    assert "half" not in str(refused.value)


@pytest.mark.parametrize(
    "environ",
    [
        {"ALPACA_BASE_URL": "https://paper-api.alpaca.markets", "ALPACA_PAPER": "true"},
        {"DATALAKE_BUCKET": "another program's"},
        {"DATALAKE_URL": "misspelt"},
        {"ALPACA_API_KEY": "half"},
        {"DATALAKE_MAX_WORKERS": "none"},
    ],
)
def test_importing_them_never_fails_whatever_is_in_the_environment(
    environ: dict[str, str], empty_folder: Path
) -> None:
    result = python("-c", "import datalake_assets.definitions", cwd=empty_folder, environ=environ)

    assert result.returncode == 0, result.stderr


def test_they_are_made_once_when_they_are_asked_for() -> None:
    assert "defs" in dir(definitions)
    assert definitions.defs is definitions.defs
    assert isinstance(definitions.defs, dg.Definitions)
    with pytest.raises(AttributeError, match="has no attribute 'def'"):
        _ = definitions.__getattr__("def")


def test_a_misspelt_setting_is_warned_of_at_loading_and_stops_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATALAKE_SYMBOL", "AEF")
    told = "DATALAKE_SYMBOL is not a setting; did you mean DATALAKE_SYMBOLS?"
    with pytest.warns(UserWarning, match=re.escape(told)):
        built = build_definitions(lake=LakeResource(uri=str(tmp_path / "lake")))

    with dg.DagsterInstance.ephemeral() as instance:
        result = built.resolve_job_def("daily_ticks_job").execute_in_process(
            instance=instance,
            partition_key="2024-07-01",
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            raise_on_error=False,
        )

    assert not result.success
    failures = result.filter_events(lambda event: event.is_step_failure)
    assert told in str(failures[0].step_failure_data.error)
    assert not (tmp_path / "lake").exists()


@pytest.mark.parametrize(
    ("environ", "started"),
    [
        ({}, True),
        ({"DATALAKE_AUTOMATION": "on"}, True),
        ({"DATALAKE_AUTOMATION": "off"}, False),
        ({"DATALAKE_AUTOMATION": "Off", "DATALAKE_ALERT_WEBHOOK": "https://h.example/x"}, False),
    ],
)
def test_every_sensor_starts_by_itself_or_none(environ: dict[str, str], started: bool) -> None:
    repository = build_definitions(
        Settings.load({"DATALAKE_ALERT_WEBHOOK": "https://h.example/x"} | environ)
    ).get_repository_def()

    status = dg.DefaultSensorStatus.RUNNING if started else dg.DefaultSensorStatus.STOPPED
    assert len(repository.sensor_defs) == 10
    assert {sensor.default_status for sensor in repository.sensor_defs} == {status}
    # Its twin for those who prefer a schedule never starts by itself.
    (schedule,) = repository.schedule_defs
    assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED


def test_a_wrong_setting_is_what_dagster_shows_when_it_loads_them(empty_folder: Path) -> None:
    result = python(
        *("-m", "dagster", "definitions", "validate", "-m", "datalake_assets.definitions"),
        cwd=empty_folder,
        environ={"ALPACA_SECRET_KEY": "only-this-one"},
    )

    assert result.returncode != 0
    assert "ALPACA_API_KEY is not set, but ALPACA_SECRET_KEY is" in result.stdout + result.stderr
    assert "only-this-one" not in result.stdout + result.stderr


def test_both_keys_mean_alpaca_and_none_the_embedded_exchange() -> None:
    assert isinstance(build_source(Settings.load({})), EmbeddedExchangeResource)
    source = build_source(
        Settings.load(KEYS | {"ALPACA_FEED": "iex", "ALPACA_DATA_URL": "https://data.example"})
    )

    assert isinstance(source, AlpacaResource)
    assert source.feed == "iex"
    assert source.data_url == "https://data.example"
    assert source.trading_url is None


@pytest.mark.parametrize(
    ("environ", "feed"),
    [
        (KEYS, "sip"),
        (KEYS | {"ALPACA_FEED": "iex"}, "iex"),
        (KEYS | {"ALPACA_FEED": "otc"}, "otc"),
        ({"ALPACA_FEED": "iex"}, "sip"),  # the embedded exchange has no feeds
    ],
)
def test_what_a_session_must_reach_is_the_feeds_own_default(
    environ: dict[str, str], feed: str
) -> None:
    with build_collector(Settings.load(environ)).options(None) as how:
        assert how.thresholds == MinuteThresholds.of_feed(feed)


@pytest.mark.parametrize(
    ("environ", "first"),
    [
        ({}, "2011-01-03"),
        ({"DATALAKE_START_DATE": "2020-01-01"}, "2020-01-02"),
        (KEYS, "2016-01-04"),
        (KEYS | {"ALPACA_HISTORY_START": "2018-12-05"}, "2018-12-06"),
    ],
)
def test_partitions_start_where_the_settings_and_the_source_do(
    environ: dict[str, str], first: str
) -> None:
    asset = build_definitions(Settings.load(environ)).resolve_assets_def("daily_ticks")

    assert isinstance(asset.partitions_def, dg.DailyPartitionsDefinition)
    assert asset.partitions_def.get_first_partition_key() == first


def test_there_are_the_assets_their_checks_and_a_job_for_each_kind_of_partition() -> None:
    definitions = build_definitions(Settings.load({}))
    graph = definitions.resolve_asset_graph()

    assert {key.to_user_string() for key in graph.get_all_asset_keys()} == {
        "adjustment_factors",
        "corporate_actions",
        "daily_ticks",
        "lake_report",
        "securities",
        "stock_universe",
        "symbol_year_ticks",
        "year_ticks",
    }
    assert {key.name for key in graph.asset_check_keys} == {
        *RULES,
        "actions_agree_with_prices",
        "actions_are_sound",
        "identities_agree",
        "jumps_are_explained",
        "layouts_agree",
        "newest_session_is_there",
        "source_agrees",
        "universe_is_whole",
        "year_file_agrees",
    }
    job = definitions.resolve_job_def("daily_ticks_job")
    assert {key.to_user_string() for key in job.asset_layer.selected_asset_keys} == {
        "daily_ticks",
        "stock_universe",
    }
    assert graph.get(dg.AssetKey("daily_ticks")).parent_keys == {dg.AssetKey("stock_universe")}
    years = definitions.resolve_job_def("symbol_year_ticks_job")
    assert set(years.asset_layer.selected_asset_keys) == {dg.AssetKey("symbol_year_ticks")}
    assert graph.get(dg.AssetKey("symbol_year_ticks")).parent_keys == {dg.AssetKey("daily_ticks")}
    in_files = definitions.resolve_job_def("year_ticks_job")
    assert set(in_files.asset_layer.selected_asset_keys) == {dg.AssetKey("year_ticks")}
    assert graph.get(dg.AssetKey("year_ticks")).parent_keys == {dg.AssetKey("daily_ticks")}
    actions = definitions.resolve_job_def("corporate_actions_job")
    assert set(actions.asset_layer.selected_asset_keys) == {dg.AssetKey("corporate_actions")}
    assert graph.get(dg.AssetKey("corporate_actions")).parent_keys == {
        dg.AssetKey("stock_universe")
    }
    securities = definitions.resolve_job_def("securities_job")
    both = {dg.AssetKey("securities"), dg.AssetKey("adjustment_factors")}
    assert set(securities.asset_layer.selected_asset_keys) == both
    asking = dg.AssetCheckKey(dg.AssetKey("adjustment_factors"), "source_agrees")
    assert asking not in securities.asset_layer.asset_graph.asset_check_keys
    witness = definitions.resolve_job_def("witness_job")
    assert set(witness.asset_layer.asset_graph.asset_check_keys) == {asking}
    assert graph.get(dg.AssetKey("securities")).parent_keys == {
        dg.AssetKey("daily_ticks"),
        dg.AssetKey("stock_universe"),
        dg.AssetKey("corporate_actions"),
    }


@pytest.mark.parametrize(
    ("asset", "schema"),
    [
        ("corporate_actions", ACTIONS),
        ("securities", SECURITIES),
        ("adjustment_factors", FACTORS),
        ("daily_ticks", SCHEMA),
        ("symbol_year_ticks", SCHEMA),
        ("year_ticks", SCHEMA),
        ("stock_universe", UNIVERSE),
    ],
)
def test_an_asset_tells_what_it_is_whose_it_is_and_what_is_in_it(
    asset: str, schema: object
) -> None:
    definition = build_definitions(Settings.load({})).resolve_assets_def(asset)
    spec = definition.get_asset_spec(dg.AssetKey(asset))

    assert spec.description
    assert spec.owners
    assert spec.group_name != "default"
    assert {"python", "parquet"} <= spec.kinds
    columns = spec.metadata["dagster/column_schema"].columns
    assert [column.name for column in columns] == list(schema.names)  # type: ignore[attr-defined]
    assert all(column.description for column in columns)


@pytest.mark.parametrize(
    ("environ", "sessions"), [({}, 252), ({"DATALAKE_SESSIONS_PER_RUN": "20"}, 20)]
)
def test_a_backfill_puts_a_year_of_sessions_in_one_run_or_as_many_as_the_settings_say(
    environ: dict[str, str], sessions: int
) -> None:
    asset = build_definitions(Settings.load(environ)).resolve_assets_def("daily_ticks")

    assert asset.backfill_policy == dg.BackfillPolicy.multi_run(sessions)


def test_runs_use_one_process() -> None:
    """A process for each step imports everything again."""
    from datalake_assets.definitions import defs

    ours = build_definitions(Settings.load({}))
    assert defs.executor is dg.in_process_executor
    # Merged with others', our definitions leave them their executor, and our jobs keep this one.
    assert ours.executor is None
    for job in ours.resolve_all_job_defs():
        if not job.name.startswith("__"):
            assert job.executor_def is dg.in_process_executor, job.name


def test_loading_reads_the_environment_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "DATALAKE_URI", "/somewhere/else")

    resources = build_definitions().resources

    assert resources is not None
    assert resources["lake"].uri == "/somewhere/else"


@pytest.mark.parametrize(
    "asset",
    [
        "corporate_actions",
        "daily_ticks",
        "lake_report",
        "minute_ticks",
        "stock_universe",
        "symbol_year_ticks",
        "year_ticks",
    ],
)
def test_an_asset_links_to_its_code(asset: str) -> None:
    settings = Settings.load({"DATALAKE_MINUTES": "regular"})
    definition = build_definitions(settings).resolve_assets_def(asset)
    metadata = definition.get_asset_spec(dg.AssetKey(asset)).metadata

    (reference,) = metadata["dagster/code_references"].code_references
    path = Path(reference.file_path)
    subject = "session_ticks" if asset in ("daily_ticks", "minute_ticks") else asset
    assert path == ROOT / "datalake_assets" / "assets" / f"{subject}.py"
    lines = path.read_text().splitlines()
    assert any(
        re.match(rf" *def _?{subject}\(", line) for line in lines[reference.line_number - 1 :][:40]
    )
