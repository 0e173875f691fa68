"""A person materializes actions, securities and factors by clicking, and sees what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from datalake_assets_tests.ui.conftest import DagsterDev
from datalake_assets_tests.ui.test_materialize import SEEN_WITHIN_MS, follow_run

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytest.importorskip("playwright.sync_api", reason="installed by make test-ui")
from playwright.sync_api import expect

pytestmark = pytest.mark.ui

CHECKS = {
    "corporate_actions": ["actions_are_sound"],
    "securities": ["identities_agree"],
    "adjustment_factors": ["actions_agree_with_prices", "jumps_are_explained"],
}


@pytest.mark.parametrize("asset", CHECKS)
def test_each_asset_is_materialized_by_a_click_and_shows_its_columns_and_checks(
    page: Page, dagster_dev: DagsterDev, pictures: Path, asset: str
) -> None:
    page.goto(f"/assets/{asset}")
    page.get_by_role("button", name="Materialize").first.click()
    # Dagster asks when something upstream is not there, as in a lake without a session.
    confirm = page.get_by_role("button", name="Confirm")
    launched = page.get_by_role("listitem").filter(has_text="Launched run")
    confirm.or_(launched).first.wait_for()
    if confirm.is_visible():
        confirm.click()
    follow_run(page, dagster_dev, pictures / f"securities_{asset}_run.png")

    page.goto(f"/assets/{asset}")
    expect(page.get_by_text("Row count")).to_be_visible(timeout=SEEN_WITHIN_MS)
    expect(page.get_by_text("symbol", exact=True).first).to_be_visible()
    page.screenshot(path=pictures / f"securities_{asset}.png")

    page.goto(f"/assets/{asset}?view=checks&checkDetail={CHECKS[asset][0]}")
    expect(page.get_by_text("Evaluation result")).to_be_visible(timeout=SEEN_WITHIN_MS)
    for check in CHECKS[asset]:
        expect(page.get_by_text(check, exact=True).first).to_be_visible()
    expect(page.get_by_text("Not executed")).to_have_count(0)
    page.screenshot(path=pictures / f"securities_{asset}_checks.png")
