"""The lake that is exported: made once a module, in a folder."""

from pathlib import Path

import pytest

from datalake_assets.lake.lake import Lake
from datalake_assets.storage.store import open_store
from datalake_assets_tests.exporters.market import lake_in


@pytest.fixture(scope="package")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    folder: Path = tmp_path_factory.mktemp("lake")
    return lake_in(open_store(str(folder)))
