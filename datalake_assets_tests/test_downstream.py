"""Assets that come after ours, selected together with them: for what do they run?

Not here: in a backfill of the UI (`automation.test_downstream_backfill`).
"""

import re
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from datalake_assets_tests import neighbour
from datalake_assets_tests.workbench import (
    MONDAY,
    QUIET,
    TUESDAY,
    WEDNESDAY,
    Market,
    names,
)

# Dagster says by which of the policies it would backfill this job.
pytestmark = pytest.mark.filterwarnings("ignore:Asset job .* with varying BackfillPolicies")

THEIRS = ("no_policy", "same_policy", "single_run")


@pytest.fixture
def market() -> Market:
    return Market(names(20))


@pytest.fixture
def definitions(tmp_path: Path, market: Market) -> dg.Definitions:
    return neighbour.build(str(tmp_path / "lake"), market)


def run(
    definitions: dg.Definitions, job: str, first: object, last: object = None
) -> tuple[dg.ExecuteInProcessResult, Counter[tuple[str, str | None]], str]:
    """A run over one partition or a range: its materializations, each counted, and its log."""
    span = {
        "dagster/asset_partition_range_start": f"{first}",
        "dagster/asset_partition_range_end": f"{last}",
    }
    with dg.DagsterInstance.ephemeral() as instance:
        result = definitions.resolve_job_def(job).execute_in_process(
            instance=instance,
            run_config=QUIET,
            raise_on_error=False,
            **({"partition_key": f"{first}"} if last is None else {"tags": span}),
        )
        events = result.get_asset_materialization_events()
        counted = Counter(
            (event.asset_key.to_user_string(), event.partition)
            for event in events
            if event.asset_key
        )
        text = "\n".join(entry.user_message for entry in instance.all_logs(result.run_id))
    # Taken by the collection itself.
    counted.pop(("stock_universe", None), None)
    return result, counted, text


def once(assets: tuple[str, ...], days: list[date]) -> Counter[tuple[str, str | None]]:
    return Counter((asset, str(day)) for asset in assets for day in days)


def test_after_a_published_session_they_run_in_the_same_run_and_it_is_materialized_once(
    definitions: dg.Definitions,
) -> None:
    result, materialized, _ = run(definitions, "sessions_and_theirs", MONDAY)

    assert result.success
    assert materialized == once(("daily_ticks", *THEIRS), [MONDAY])


def test_after_a_range_of_published_sessions_they_run_for_each_of_them(
    definitions: dg.Definitions,
) -> None:
    result, materialized, _ = run(definitions, "sessions_and_theirs", MONDAY, WEDNESDAY)

    assert result.success
    assert materialized == once(("daily_ticks", *THEIRS), [MONDAY, TUESDAY, WEDNESDAY])


@pytest.mark.parametrize("last", [None, WEDNESDAY])
def test_when_a_session_was_not_published_they_don_t_run_and_the_run_fails_saying_so(
    last: date | None, definitions: dg.Definitions, market: Market
) -> None:
    market.failing = {("AAB", MONDAY)}

    result, materialized, log = run(definitions, "sessions_and_theirs", MONDAY, last)

    assert not result.success
    published = [] if last is None else [TUESDAY, WEDNESDAY]
    assert materialized == once(("daily_ticks",), published)
    for asset in THEIRS:
        assert f"Dependencies for step {asset} failed: ['daily_ticks']. Not executing." in log


def test_a_run_that_finds_everything_published_already_lets_them_run(
    definitions: dg.Definitions,
) -> None:
    assert run(definitions, "sessions_and_theirs", MONDAY)[0].success
    with dg.DagsterInstance.ephemeral() as instance:
        result = definitions.resolve_job_def("sessions_and_theirs").execute_in_process(
            instance=instance,
            run_config={**QUIET, "resources": {"collector": {"config": {"missing_only": True}}}},
            partition_key=f"{MONDAY}",
        )
        assert {str(step.step_key) for step in result.get_step_success_events()} >= {*THEIRS}


def test_after_a_published_year_they_run_in_the_same_run_and_it_is_materialized_once(
    definitions: dg.Definitions,
) -> None:
    assert run(definitions, "sessions_and_theirs", MONDAY)[0].success

    result, materialized, _ = run(definitions, "years_and_theirs", "2024")

    assert result.success
    assert materialized == Counter([("symbol_year_ticks", "2024"), ("of_a_year", "2024")])


def test_an_eager_one_is_asked_for_by_dagster_once_the_newest_session_is_published(
    definitions: dg.Definitions,
) -> None:
    single_run = dg.AssetSelection.assets("single_run")
    with dg.DagsterInstance.ephemeral() as instance:

        def asked(
            at: datetime, before: dg.EvaluateAutomationConditionsResult | None = None
        ) -> dg.EvaluateAutomationConditionsResult:
            return dg.evaluate_automation_conditions(
                definitions,
                instance,
                single_run,
                evaluation_time=at,
                cursor=before.cursor if before else None,
            )

        evening = datetime(2024, 7, 2, 22, 10, tzinfo=UTC)
        before = asked(evening)
        instance.report_runless_asset_event(
            dg.AssetMaterialization("daily_ticks", partition=f"{TUESDAY}")
        )
        after = asked(evening + timedelta(minutes=1), before)
        again = asked(evening + timedelta(minutes=2), after)

    key = dg.AssetKey("single_run")
    assert before.total_requested == 0
    assert after.get_requested_partitions(key) == {f"{TUESDAY}"}
    assert again.total_requested == 0


def test_the_project_of_the_document_runs_its_asset_after_a_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[1] / "docs" / "own-project.md").read_text(encoding="utf-8")
    *_, source = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    monkeypatch.setenv("DATALAKE_URI", str(tmp_path / "lake"))
    monkeypatch.setenv("DATALAKE_SYMBOLS", "AAA,AAB")
    # Somebody else's variable is in nobody's way.
    monkeypatch.setenv("ALPACA_BASE_URL", "https://paper-api.alpaca.markets")
    module: dict[str, Any] = {}
    exec(source, module)

    ours_and_theirs = module["defs"]()
    with dg.DagsterInstance.ephemeral() as instance:
        result = ours_and_theirs.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey("daily_ticks"), dg.AssetKey("market_volume")],
            partition_key=f"{MONDAY}",
            run_config=QUIET,
        )
        (event,) = result.asset_materializations_for_node("market_volume")

    assert event.partition == f"{MONDAY}"
    assert event.metadata["volume"].value > 0
    assert len(ours_and_theirs.get_repository_def().sensor_defs) >= 8
