"""The component: its attributes, its names, and lakes side by side in one code location.

Not here: a stranger's project in a folder of its own, made by `dg` (`test_own_project`).
"""

import os
import re
import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.remote_representation.external_data import RepositorySnap
from dagster._core.test_utils import create_run_for_test
from dagster.components.resolved.errors import ResolutionException
from dagster.components.testing import create_defs_folder_sandbox

import datalake_assets
from datalake_assets.assets.failure import reason
from datalake_assets.assets.lake_asset import lake_asset
from datalake_assets.assets.session_ticks import DAILY_TICKS, MINUTE_TICKS
from datalake_assets.automation.freshness import Freshness
from datalake_assets.automation.jobs import ASSETS
from datalake_assets.automation.runs import PURPOSE
from datalake_assets.collection.errors import TruncatedError
from datalake_assets.component import DatalakeComponent, attribute
from datalake_assets.definitions import build_definitions
from datalake_assets.names import OURS, READER, RESOURCES, Names
from datalake_assets.resources import LakeResource
from datalake_assets.settings import SETTINGS, Settings, SettingsError
from datalake_assets_tests.automation.world import SetClock, utc
from datalake_assets_tests.workbench import QUIET

TYPE = "datalake_assets.DatalakeComponent"
KEYS = {
    "alpaca_api_key": "{{ env.IEX_KEY }}",
    "alpaca_secret_key": "{{ env('IEX_SECRET') }}",
    "alpaca_feed": "iex",
}

USUAL = [asset for asset in ASSETS if asset != MINUTE_TICKS]
"""The assets of a lake without minute bars."""


def component(**attributes: object) -> DatalakeComponent:
    """The component as Dagster makes it from YAML."""
    return DatalakeComponent.resolve_from_dict({"uri": "lake", **attributes})


def definitions(folder: Path, **attributes: object) -> dg.Definitions:
    """The definitions of a `defs.yaml` in somebody's project."""
    with create_defs_folder_sandbox() as sandbox:
        path = sandbox.scaffold_component(
            component_cls=DatalakeComponent,
            defs_yaml_contents={
                "type": TYPE,
                "attributes": {"uri": str(folder / "lake"), "automation": False, **attributes},
            },
        )
        with sandbox.load_component_and_build_defs(defs_path=path) as (_, made):
            return made


# --- attributes -----------------------------------------------------------------------------------


def test_every_setting_but_the_calendars_is_an_attribute_named_as_its_variable() -> None:
    own = {"name", "key_prefix", "group_name"}

    assert DatalakeComponent.model_fields.keys() - own == {
        attribute(setting.variable)
        for setting in SETTINGS
        if setting.variable != "DATALAKE_CLOSURES"
    }
    assert attribute("DATALAKE_MAX_WORKERS") == "max_workers"
    assert attribute("ALPACA_FEED") == "alpaca_feed"


def test_the_attributes_mean_what_the_variables_mean() -> None:
    settings, _ = component(
        max_workers=7,
        symbols=["aapl", "BRK.B"],
        start_date="2024-07-01",
        automation=False,
        running_year="daily",
    ).settings()

    assert settings == Settings.load(
        {
            "DATALAKE_URI": "lake",
            "DATALAKE_MAX_WORKERS": "7",
            "DATALAKE_SYMBOLS": "aapl,BRK.B",
            "DATALAKE_START_DATE": "2024-07-01",
            "DATALAKE_AUTOMATION": "off",
            "DATALAKE_RUNNING_YEAR": "daily",
        }
    )


def test_an_attribute_can_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUCKET", "s3://bucket/iex")
    monkeypatch.setenv("WORKERS", "9")
    settings, _ = component(uri="{{ env.BUCKET }}", max_workers="{{ env.WORKERS }}").settings()

    assert (settings.lake_uri, settings.max_workers) == ("s3://bucket/iex", 9)


def test_the_settings_of_the_environment_are_not_those_of_a_component(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATALAKE_MAX_WORKERS", "none at all")
    monkeypatch.setenv("ALPACA_API_KEY", "half of a pair")

    assert component().settings()[0] == Settings.load({"DATALAKE_URI": "lake"})


@pytest.mark.parametrize(
    "attributes",
    [
        {"uri": "{{ env.NOBODY_SET_THIS }}"},
        {"uri": "s3://bucket/{{ env('NOBODY_SET_THIS') }}"},
        {"symbols": "{{ env.NOBODY_SET_THIS }}"},
        {"symbols": ["AAPL", "{{ env.NOBODY_SET_THIS }}"]},
        {"name": "{{ env.NOBODY_SET_THIS }}"},
    ],
)
def test_a_variable_that_is_not_set_is_named_instead_of_taking_a_default(
    attributes: dict[str, object],
) -> None:
    with pytest.raises(ResolutionException, match="NOBODY_SET_THIS is not set, and .* needs it"):
        component(**attributes)


def test_a_variable_may_have_a_default_in_the_attribute() -> None:
    assert component(uri="{{ env('NOBODY_SET_THIS', 'here') }}").settings()[0].lake_uri == "here"


@pytest.mark.parametrize(
    ("attributes", "told"),
    [
        ({"max_workers": 0}, "max_workers='0' must be a whole number from 1 to 1000"),
        ({"alpaca_feed": "tape"}, "alpaca_feed='tape' must be"),
        ({"uri": "s4://bucket"}, "uri='s4://bucket' must be a local path"),
        ({"uri": None}, "uri is not set"),
        ({"alpaca_data_url": "http://host"}, "alpaca_data_url is set, but alpaca_api_key and"),
        ({"alpaca_api_key": "{{ env.IEX_KEY }}"}, "alpaca_secret_key is not set, but alpaca_api"),
        ({"name": "two words"}, "name, key_prefix or group_name: 'two words' is not a name"),
    ],
)
def test_a_wrong_attribute_is_told_like_a_wrong_variable(
    attributes: dict[str, object], told: str
) -> None:
    made = component(**attributes)
    with pytest.raises(SettingsError) as error:
        made.names(), made.settings()

    assert told in str(error.value)


def test_an_unknown_attribute_is_refused() -> None:
    with pytest.raises(Exception, match="max_wokers"):
        component(max_wokers=3)


@pytest.mark.parametrize("name", ["alpaca_api_key", "alert_webhook", "alert_urls", "rate_limit"])
def test_a_secret_in_the_yaml_is_refused_and_not_shown(name: str) -> None:
    made = component(**{name: "hunter2"})
    with pytest.raises(SettingsError, match="must name a variable") as error:
        made.settings()

    assert name in str(error.value)
    assert "hunter2" not in str(error.value) + repr(made)


def test_secrets_stay_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IEX_KEY", "key-of-iex")
    monkeypatch.setenv("IEX_SECRET", "secret-of-iex")
    made = definitions(tmp_path, name="iex", **KEYS)
    source = made.resources["iex_source"]
    repository = made.get_repository_def()
    shown = dg.serialize_value(RepositorySnap.from_def(repository))
    shown += "".join(
        dg.serialize_value(job.get_job_snapshot()) for job in repository.get_all_jobs()
    )

    assert (source.api_key, source.secret_key) == (dg.EnvVar("IEX_KEY"), dg.EnvVar("IEX_SECRET"))
    assert "IEX_SECRET" in shown
    assert "of-iex" not in shown + repr(source)


def test_without_its_secrets_a_code_location_loads_and_still_means_alpaca(tmp_path: Path) -> None:
    made = definitions(tmp_path, name="iex", **KEYS)

    assert type(made.resources["iex_source"]).__name__ == "AlpacaResource"


def test_a_folder_is_within_the_project(tmp_path: Path) -> None:
    with create_defs_folder_sandbox() as sandbox:
        path = sandbox.scaffold_component(
            component_cls=DatalakeComponent,
            defs_yaml_contents={
                "type": TYPE,
                "attributes": {"uri": "lakes/one", "symbols": "@names.txt"},
            },
        )
        with sandbox.load_component_and_build_defs(defs_path=path) as (_, made):
            root = sandbox.project_root.resolve()
            assert Path(made.resources["lake"].uri).resolve() == root / "lakes/one"
            assert made.resources["collector"].symbols.startswith(f"@{sandbox.project_root}")


def test_importing_raises_nothing_whatever_is_in_the_environment() -> None:
    script = (
        "from datalake_assets import DatalakeComponent, TradingDays, definitions\n"
        "from importlib.metadata import entry_points\n"
        "(found,) = entry_points(group='dagster_dg_cli.registry_modules', name='datalake_assets')\n"
        "assert found.load().DatalakeComponent is DatalakeComponent\n"
    )
    broken = {"ALPACA_API_KEY": "half", "DATALAKE_MAX_WORKERS": "x", "DATALAKE_CLOSURES": "?"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        env={"PATH": os.environ["PATH"], **broken},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")


# --- names ----------------------------------------------------------------------------------------


def parts(made: dg.Definitions) -> dict[str, set[str]]:
    """Every name that a code location could have twice."""
    repository = made.get_repository_def()
    graph = made.resolve_asset_graph()
    nodes = [node for job in repository.get_all_jobs() for node in job.graph.node_defs]
    return {
        "assets": {key.to_user_string() for key in graph.get_all_asset_keys()},
        "checks": {key.to_user_string() for key in graph.asset_check_keys},
        "jobs": {job.name for job in repository.get_all_jobs() if not job.name.startswith("__")},
        "sensors": {sensor.name for sensor in repository.sensor_defs},
        "schedules": {schedule.name for schedule in repository.schedule_defs},
        "resources": set(made.resources or {}),
        "ops": {node.name for node in nodes},
        "pools": {pool for node in nodes for pool in node.pools},
        "groups": {graph.get(key).group_name for key in graph.get_all_asset_keys()},
    }


def made(name: str, **environ: str) -> dg.Definitions:
    settings = Settings.load({"DATALAKE_LAMBDA_FUNCTION": "collect", **environ})
    return build_definitions(settings, Names(name, (name,)) if name else OURS)


def test_three_lakes_share_no_name() -> None:
    lakes = {name: parts(made(name)) for name in ("", "sip", "iex")}
    together = parts(dg.Definitions.merge(*(made(name) for name in lakes)))

    assert len(lakes[""]["assets"]) == len(USUAL)
    for kind, all_of_them in together.items():
        each = [lakes[name][kind] for name in lakes]
        assert all(each), f"no {kind}"
        assert len(all_of_them) == sum(map(len, each)) == 3 * len(each[0]), kind


def test_the_names_of_a_lake_begin_with_its_own() -> None:
    found = parts(made("sip"))

    assert all(key.startswith("sip/") for key in found["assets"])
    for kind in ("jobs", "sensors", "schedules", "resources", "groups", "pools"):
        assert all(name.startswith("sip_") for name in found[kind]), kind
    assert found["pools"] == {"sip_alpaca"}


def test_keys_and_group_can_be_chosen(tmp_path: Path) -> None:
    found = parts(definitions(tmp_path, key_prefix="market/us", group_name="market"))

    assert "market/us/daily_ticks" in found["assets"]
    assert found["groups"] == {"market"}
    assert {*RESOURCES} <= found["resources"]


def test_no_executor_is_imposed_and_our_jobs_keep_theirs(tmp_path: Path) -> None:
    ours = definitions(tmp_path, name="sip")
    theirs = dg.Definitions(executor=dg.multiprocess_executor)
    merged = dg.Definitions.merge(ours, theirs)

    assert ours.executor is None
    assert merged.executor is dg.multiprocess_executor
    assert merged.resolve_job_def("sip_daily_ticks_job").executor_def is dg.in_process_executor


@pytest.mark.parametrize("name", ["1st", "a-b", "a b", "a/b"])
def test_a_name_that_dagster_would_refuse_is_refused_first(name: str) -> None:
    with pytest.raises(ValueError, match="is not a name"):
        Names(name)


def test_a_message_about_a_lake_with_a_name_gives_a_command_that_knows_the_name() -> None:
    ours, sip = "datalake collect --session 2024-07-03 --repair", Names("sip", ("sip",))

    assert OURS.command(ours, DAILY_TICKS, "2024-07-03", repair=True) == ours
    assert sip.command(ours, DAILY_TICKS) == "dg launch --assets sip/daily_ticks"
    assert sip.command(ours, DAILY_TICKS, "2024-07-03", "2024-07-08") == (
        "dg launch --assets sip/daily_ticks --partition-range 2024-07-03...2024-07-08"
    )
    assert sip.command(ours, DAILY_TICKS, "2024-07-03", repair=True) == (
        "dg launch --assets sip/daily_ticks --partition 2024-07-03 --config-json "
        """'{"resources": {"sip_collector": {"config": {"repair": true}}}}'"""
    )


def test_a_message_says_how_its_reader_sets_a_field_of_the_collector() -> None:
    told = "set max_session_loss of the resource {} to 1 for one run, in the launchpad"
    added = "add --max-session-loss 1 to `datalake collect`, or "

    assert OURS.setting("max_session_loss", "1") == added + told.format("collector")
    assert Names("sip").setting("max_session_loss", "1") == told.format("sip_collector")


def test_a_message_says_how_its_reader_sets_a_field_of_an_asset() -> None:
    told = "set max_loss of the asset {} to 1 for one run, in the launchpad"
    added = "add --max-loss 1 to `datalake actions --sweep`, or "

    assert OURS.setting("max_loss", "1") == added + told.format("corporate_actions")
    sip = Names("sip", ("sip",))
    assert sip.setting("max_loss", "1") == told.format("sip/corporate_actions")


@pytest.mark.parametrize("setting", ["max_universe_loss", "max_loss"])
@pytest.mark.parametrize(
    "names", [OURS, Names("sip", ("sip",)), Names(ours=False)], ids=["ours", "sip", "unnamed"]
)
def test_an_answer_that_lacks_too_much_is_told_with_how_to_accept_it_in_this_lake(
    names: Names, setting: str
) -> None:
    def failing() -> None:
        raise TruncatedError("the list was not used", setting)

    asset = lake_asset(dg.AssetKey("table"), names, "ticks")(failing)
    made = dg.Definitions([asset], resources={names.of(READER): dg.mem_io_manager})
    result = made.resolve_implicit_global_asset_job_def().execute_in_process(raise_on_error=False)

    (event,) = result.filter_events(lambda event: event.is_step_failure)
    assert reason(event) == (
        f"the list was not used. If it is right, raise {setting} for one run\n"
        f"To raise it, {names.setting(setting, '1')}"
    )
    assert ("`datalake " in reason(event)) is names.is_known


def test_a_component_without_a_name_is_another_lake_than_that_of_the_environment() -> None:
    made = DatalakeComponent(uri=".datalake/alone").names()

    told = made.command("datalake collect --session 2024-07-03", DAILY_TICKS, "2024-07-03")
    assert told == "dg launch --assets daily_ticks --partition 2024-07-03"


@pytest.mark.parametrize(
    ("names", "known"), [(OURS, True), (Names("sip", ("sip",)), False), (Names(ours=False), False)]
)
def test_no_message_gives_a_command_that_would_act_on_another_lake(
    names: Names, known: bool, tmp_path: Path
) -> None:
    settings = Settings.load({"DATALAKE_URI": str(tmp_path / "lake")})
    made = build_definitions(settings, names)

    for asset in made.assets or ():
        assert isinstance(asset, dg.AssetsDefinition)
        for text in asset.descriptions_by_key.values():
            assert ("with DATALAKE_URI set" in text) is ("`datalake " in text and not known)
    missing = tuple(date(2024, 7, day) for day in (2, 3))
    late = Freshness(missing[-1], datetime(2024, 7, 3, tzinfo=UTC), None, missing, names)
    one = Freshness(missing[-1], datetime(2024, 7, 3, tzinfo=UTC), None, missing[1:], names)
    key = names.key(DAILY_TICKS).to_user_string()
    assert late.command == (
        "datalake backfill --from 2024-07-02 --to 2024-07-03"
        if known
        else f"dg launch --assets {key} --partition-range 2024-07-02...2024-07-03"
    )
    assert one.command.startswith("datalake collect" if known else f"dg launch --assets {key} --p")


# --- two lakes at work ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lakes(tmp_path_factory: pytest.TempPathFactory) -> dg.Definitions:
    """Two lakes of small markets that differ."""
    return dg.Definitions.merge(
        *(
            build_definitions(
                Settings.load(
                    {
                        "DATALAKE_URI": str(tmp_path_factory.mktemp(name) / "lake"),
                        "DATALAKE_START_DATE": "2024-06-03",
                        "ALPACA_REQUESTS_PER_MINUTE": "60000",
                    }
                ),
                Names(name, (name,)),
            )
            for name in ("sip", "iex")
        )
    )


def config(name: str, active: int) -> dict[str, object]:
    return {
        **QUIET,
        "resources": {f"{name}_source": {"config": {"active": active, "inactive": 20}}},
    }


def test_all_assets_of_each_lake_are_made_under_its_names(lakes: dg.Definitions) -> None:
    days = {
        "dagster/asset_partition_range_start": "2024-07-01",
        "dagster/asset_partition_range_end": "2024-07-03",
    }
    steps = {
        "daily_ticks_job": days,
        "symbol_year_ticks_job": {"dagster/partition": "2024"},
        "year_ticks_job": {"dagster/partition": "2024"},
        "corporate_actions_job": {},
        "securities_job": {},
        "witness_job": {},
        "lake_report_job": {},
        "freshness_job": {},
    }
    with dg.DagsterInstance.ephemeral() as instance:
        for name, active in (("sip", 60), ("iex", 40)):
            for job, tags in steps.items():
                if "dagster/partition" in tags:
                    done = lakes.resolve_job_def(f"{name}_{job}").execute_in_process(
                        instance=instance, partition_key="2024", run_config=config(name, active)
                    )
                else:
                    done = lakes.resolve_job_def(f"{name}_{job}").execute_in_process(
                        instance=instance, tags=tags, run_config=config(name, active)
                    )
                assert done.success, (name, job)
        found = {key.to_user_string() for key in instance.get_asset_keys()}
        sessions = {
            name: instance.get_materialized_partitions(dg.AssetKey([name, *DAILY_TICKS.path]))
            for name in ("sip", "iex")
        }
        symbols = {
            name: len(LakeResource(uri=lakes.resources[f"{name}_lake"].uri).read().symbols())
            for name in ("sip", "iex")
        }

    assert found == {f"{name}/{key.path[0]}" for name in ("sip", "iex") for key in USUAL}
    assert sessions["sip"] == sessions["iex"] == {"2024-07-01", "2024-07-02", "2024-07-03"}
    assert symbols["sip"] > symbols["iex"] > 0


def test_the_sensors_of_one_lake_count_no_runs_of_the_other(tmp_path: Path) -> None:
    clock = SetClock(utc("2024-07-03 23:00"))
    both = dg.Definitions.merge(
        *(
            build_definitions(
                Settings.load({"DATALAKE_CATCH_UP_SESSIONS": "1"}),
                Names(name, (name,)),
                lake=LakeResource(uri=str(tmp_path / name)),
                clock=clock,
            )
            for name in ("sip", "iex")
        )
    )
    repository = both.get_repository_def()

    def tick(sensor: str, instance: dg.DagsterInstance) -> list[dg.RunRequest]:
        lake = sensor.partition("_")[0]
        with dg.build_sensor_context(
            instance=instance,
            repository_def=repository,
            sensor_name=sensor,
            resources={f"{lake}_clock": clock, f"{lake}_lake": both.resources[f"{lake}_lake"]},
        ) as context:
            return list(repository.get_sensor_def(sensor).evaluate_tick(context).run_requests or ())

    with dg.DagsterInstance.ephemeral() as instance:
        (asked,) = tick("sip_new_sessions", instance)
        create_run_for_test(
            instance,
            job_name="sip_daily_ticks_job",
            status=dg.DagsterRunStatus.STARTED,
            tags={**asked.tags, "dagster/partition": "2024-07-03"},
        )
        again = tick("sip_new_sessions", instance)
        (other,) = tick("iex_new_sessions", instance)

    assert (asked.partition_key, asked.tags[PURPOSE]) == ("2024-07-03", "new session of sip")
    assert again == [], "it is being collected"
    assert (other.partition_key, other.tags[PURPOSE]) == ("2024-07-03", "new session of iex")


def test_the_package_gives_it_on_first_use() -> None:
    assert datalake_assets.DatalakeComponent is DatalakeComponent


# --- the document ---------------------------------------------------------------------------------

ROOT = Path(__file__).parents[1]


def blocks(language: str) -> list[str]:
    page = (ROOT / "docs" / "own-project.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def test_the_documents_yaml_is_what_a_component_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IEX_LAKE", "s3://bucket/iex")
    first, second = map(yaml.safe_load, blocks("yaml"))
    example = ROOT / "examples/own_project/src/trader/defs/sip/defs.yaml"

    assert blocks("yaml")[0] == example.read_text(encoding="utf-8")
    assert first["type"] == second["type"] == TYPE
    settings, variables = component(**second["attributes"]).settings()
    assert (settings.lake_uri, settings.alpaca_feed) == ("s3://bucket/iex", "iex")
    assert (settings.source, settings.automation) == ("alpaca", "off")
    assert variables["ALPACA_API_KEY"] == "ALPACA_API_KEY"


def test_the_documents_asset_is_the_examples() -> None:
    research = (ROOT / "examples/own_project/src/trader/defs/research.py").read_text("utf-8")

    assert blocks("python")[0] in research
