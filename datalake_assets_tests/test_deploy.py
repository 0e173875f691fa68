"""The files of `deploy/` agree with the program, with each other, and with what is safe.

Here: what can be known of them without starting anything. Not here: the processes that they
describe (`test_stack`), the Lambda function (`test_lambda_package`).
"""

import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster import DagsterInvalidConfigError
from dagster._config import process_config, resolve_to_config_type
from dagster._core.instance.ref import InstanceRef

import datalake_assets
from datalake_assets.settings import SETTINGS

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {"code-server", "webserver", "daemon"}
INSTANCE = yaml.safe_load((DEPLOY / "dagster.yaml").read_text(encoding="utf-8"))
HELM = yaml.safe_load((DEPLOY / "helm-values.yaml").read_text(encoding="utf-8"))
(CODE,) = HELM["dagster-user-deployments"]["deployments"]
(LOCATION,) = yaml.safe_load((DEPLOY / "workspace.yaml").read_text(encoding="utf-8"))["load_from"]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

SECRET = re.compile(r"PASSWORD|SECRET|_KEY|TOKEN|DATALAKE_RATE_LIMIT|ALERT", re.IGNORECASE)
VERSION = datalake_assets.__version__


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, with their lines joined."""
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [
        (word, rest.strip())
        for word, _, rest in (x.partition(" ") for x in joined.splitlines())
        if word
    ]


def last_stage() -> list[tuple[str, str]]:
    all_of_them = instructions()
    start = max(place for place, (word, _) in enumerate(all_of_them) if word == "FROM")
    return all_of_them[start:]


def references(value: Any, of: str) -> Iterator[str]:
    """The variables that a tree of configuration names by `{env: NAME}`."""
    if isinstance(value, dict):
        if set(value) == {of}:
            yield value[of]
        for part in value.values():
            yield from references(part, of)
    elif isinstance(value, list):
        for part in value:
            yield from references(part, of)


# --- the image ------------------------------------------------------------------------------------


def test_the_image_runs_as_a_number_that_is_not_root_and_tells_how_it_is() -> None:
    words = dict(last_stage())
    user, _, group = words["USER"].partition(":")

    assert int(user) > 0
    assert int(group) > 0
    assert "grpc-health-check" in words["HEALTHCHECK"]
    assert not [word for word, _ in last_stage() if word == "ADD"]


def test_the_last_stage_of_the_image_installs_and_compiles_nothing() -> None:
    ran = " ".join(rest for word, rest in last_stage() if word == "RUN")

    assert not re.search(r"\b(pip|apt|apt-get|gcc|make|curl|wget)\b", ran)
    built = " ".join(rest for word, rest in instructions() if word == "RUN")
    assert "--constraint constraints.txt" in built
    assert "--without-pip" in built


def test_the_image_is_not_built_without_the_compiled_decoder() -> None:
    built = " ".join(rest for word, rest in instructions() if word == "RUN")

    assert re.search(r"apt-get install .*\bgcc libc6-dev\b", built)
    # Isolated: where the source lies, Python would take that one.
    assert '/opt/datalake/bin/python -I -c "from datalake_assets.sources import _pages"' in built


def test_no_secret_is_an_argument_or_a_variable_of_the_image() -> None:
    for word, rest in instructions():
        if word in ("ARG", "ENV"):
            assert not SECRET.search(rest), rest


def test_the_images_are_of_a_version_and_ours_is_the_programs() -> None:
    (base,) = [
        rest for word, rest in instructions() if word == "ARG" and rest.startswith("PYTHON=")
    ]
    named = [base.partition("=")[2], *(service["image"] for service in SERVICES.values())]

    for image in named:
        assert re.search(r":(?!latest)[\w.-]+$", image), image
    for name in OURS:
        assert SERVICES[name]["image"] == f"us-equity-datalake:{VERSION}"
    assert HELM["dagsterWebserver"]["image"]["tag"] == VERSION
    assert f"us-equity-datalake:{VERSION}" in (DEPLOY / "Dockerfile").read_text(encoding="utf-8")


def test_what_the_image_copies_is_there_and_let_through_and_nothing_else_is() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in ignored if line and not line.startswith("#")]
    let_through = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    copied = {
        source
        for word, rest in instructions()
        if word == "COPY" and "--from" not in rest
        for source in shlex.split(rest)[:-1]
    }

    assert rules[0] == "*"
    assert copied == let_through
    assert all((ROOT / source).exists() for source in copied)


def test_every_extra_that_the_image_may_install_is_the_projects() -> None:
    text = "\n".join(
        (DEPLOY / name).read_text(encoding="utf-8") for name in ("Dockerfile", "helm-values.yaml")
    )
    extras = {name for found in re.findall(r"EXTRAS=([\w,]+)", text) for name in found.split(",")}

    assert {"postgres", "kubernetes"} == extras
    assert extras <= PYPROJECT["project"]["optional-dependencies"].keys()


# --- where the code is ----------------------------------------------------------------------------


def test_every_file_starts_the_same_code_server() -> None:
    module = PYPROJECT["tool"]["dagster"]["module_name"]
    location = PYPROJECT["tool"]["dagster"]["code_location_name"]
    command = dict(last_stage())["CMD"]
    server = LOCATION["grpc_server"]

    assert server["location_name"] == location
    for words in (command, " ".join(CODE["codeServerArgs"])):
        assert re.search(rf"--module-name\W+{re.escape(module)}\b", words)
        assert re.search(rf"--location-name\W+{re.escape(location)}\b", words)
    port = SERVICES["daemon"]["environment"]["CODE_SERVER_PORT"]
    assert f'"{port}"' in command
    assert CODE["port"] == int(port)
    assert SERVICES["webserver"]["environment"]["CODE_SERVER_HOST"] in SERVICES


# --- the instance ---------------------------------------------------------------------------------


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Each variable that the instance names, with a value."""
    values = {name: "5432" if "PORT" in name else "given" for name in references(INSTANCE, "env")}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return values


def instance(folder: Path, text: str) -> InstanceRef:
    (folder / "dagster.yaml").write_text(text, encoding="utf-8")
    return InstanceRef.from_dir(str(folder))


def test_dagster_takes_the_instance_and_the_configuration_of_each_of_its_parts(
    tmp_path: Path, given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dagster._core.run_coordinator import RunCoordinator
    from dagster._core.storage.compute_log_manager import ComputeLogManager

    from datalake_assets.records.postgres import PostgresStorage

    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    shutil.copy(DEPLOY / "dagster.yaml", tmp_path)
    ref = InstanceRef.from_dir(str(tmp_path))
    assert ref.storage_data is not None
    assert ref.storage_data.class_name == PostgresStorage.__name__
    assert ref.storage_data.module_name == PostgresStorage.__module__
    checked = process_config(
        resolve_to_config_type(PostgresStorage.config_type()), ref.storage_data.config_dict
    )
    assert checked.success, checked.errors
    assert ref.run_coordinator_data is not None
    coordinator = ref.run_coordinator_data.rehydrate(as_type=RunCoordinator)
    assert type(coordinator).__name__ == "QueuedRunCoordinator"
    logs = ref.compute_logs_data.rehydrate(as_type=ComputeLogManager)
    assert type(logs).__name__ == "S3ComputeLogManager"
    assert ref.settings["run_retries"]["retry_on_asset_or_op_failure"] is False


@pytest.mark.parametrize("wrong", ["max_retires: 2", "poll_seconds: 30"])
def test_a_misspelt_key_of_the_instance_would_be_found(
    tmp_path: Path, given: dict[str, str], wrong: str
) -> None:
    text = (DEPLOY / "dagster.yaml").read_text(encoding="utf-8")
    section = "run_retries:" if "retires" in wrong else "run_monitoring:"
    with pytest.raises(DagsterInvalidConfigError):
        instance(tmp_path, text.replace(section, f"{section}\n  {wrong}"))


def test_the_driver_of_the_records_is_named_wherever_they_are_in_postgres() -> None:
    assert INSTANCE["storage"]["custom"]["config"]["postgres_db"]["scheme"] == "postgresql+psycopg2"
    assert HELM["postgresql"]["postgresqlScheme"] == "postgresql+psycopg2"


def test_only_lost_runs_are_launched_again_and_kubernetes_says_the_same() -> None:
    retries, monitoring = INSTANCE["run_retries"], INSTANCE["run_monitoring"]
    daemon = HELM["dagsterDaemon"]

    assert daemon["runRetries"] == {
        "enabled": retries["enabled"],
        "maxRetries": retries["max_retries"],
        "retryOnAssetOrOpFailure": retries["retry_on_asset_or_op_failure"],
    }
    assert retries["enabled"]
    assert not retries["retry_on_asset_or_op_failure"]
    assert monitoring["max_runtime_seconds"] > 0, "the default launcher asks nobody"
    assert daemon["runMonitoring"]["enabled"]
    assert HELM["additionalInstanceConfig"]["concurrency"] == INSTANCE["concurrency"]
    queued = daemon["runCoordinator"]["config"]["queuedRunCoordinator"]
    assert queued["maxConcurrentRuns"] is None, "Dagster refuses it beside `concurrency`"
    assert HELM["telemetry"] == INSTANCE["telemetry"] == {"enabled": False}


# --- compose --------------------------------------------------------------------------------------


def test_what_compose_publishes_is_for_this_machine_alone() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]

    assert published == ["127.0.0.1:3000:3000"]
    assert not [name for name, service in SERVICES.items() if "network_mode" in service]


@pytest.mark.parametrize("name", sorted(OURS))
def test_a_container_of_ours_can_change_nothing_of_itself_and_gain_no_rights(name: str) -> None:
    service = SERVICES[name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "user" not in service, "the image says who"
    assert not service.get("privileged")
    assert "volumes" not in service


def test_a_service_waits_until_what_it_needs_is_well_and_says_so_of_itself() -> None:
    for name, service in SERVICES.items():
        assert "healthcheck" in service or name == "code-server", name  # its image has one
        for needed, how in service.get("depends_on", {}).items():
            assert needed in SERVICES
            assert how == {"condition": "service_healthy"}


def test_no_secret_stands_in_the_compose_file_and_each_comes_from_the_example() -> None:
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    example = (DEPLOY / "env.example").read_text(encoding="utf-8")
    offered = dict(re.findall(r"^(?:# )?([A-Z][A-Z0-9_]*)=(.*)$", example, re.MULTILINE))
    used = set(re.findall(r"\$\{([A-Z0-9_]+)", text))

    assert used == offered.keys()
    for name, value in offered.items():
        assert not (SECRET.search(name) and value), f"{name} must be left to who deploys"
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if SECRET.search(name) and name != "DATALAKE_RATE_LIMIT":
                assert re.fullmatch(r"\$\{[A-Z0-9_]+(:\?[^}]*|:-)\}", value), name


def test_another_bucket_or_region_is_named_once_and_people_can_be_told() -> None:
    settings = SERVICES["code-server"]["environment"]

    assert f"s3://{settings['DAGSTER_LOGS_BUCKET']}/lake" in settings["DATALAKE_URI"]
    for name in OURS:
        environment = SERVICES[name]["environment"]
        assert environment["AWS_DEFAULT_REGION"] == environment["AWS_REGION"], "boto3's own"
    assert {"DATALAKE_ALERT_WEBHOOK", "DATALAKE_ALERT_URLS"} <= settings.keys()


def test_each_process_has_what_the_instance_asks_for_and_keys_are_where_runs_are() -> None:
    asked = set(references(INSTANCE, "env")) | set(references(LOCATION, "env"))
    for name in OURS:
        assert asked <= SERVICES[name]["environment"].keys()
    for name, service in SERVICES.items():
        ours = {
            key
            for key in service.get("environment", {})
            if key.startswith(("ALPACA_", "DATALAKE_"))
        }
        assert ours <= {setting.variable for setting in SETTINGS}
        assert bool(ours) == (name == "code-server")


# --- Kubernetes -----------------------------------------------------------------------------------


def test_no_secret_stands_in_the_helm_values() -> None:
    secret = {setting.variable for setting in SETTINGS if setting.secret}
    environment = {entry["name"]: entry for entry in CODE["env"]}

    assert secret & environment.keys() >= {"ALPACA_API_KEY", "ALPACA_SECRET_KEY"}
    for name, entry in environment.items():
        assert ("valueFrom" in entry) == (name in secret)
        if name in secret:
            assert entry["valueFrom"]["secretKeyRef"]["key"] == name
    assert environment.keys() <= {setting.variable for setting in SETTINGS} | {"AWS_REGION"}
    assert HELM["generatePostgresqlPasswordSecret"] is False
    assert "postgresqlPassword" not in HELM["postgresql"]


def test_no_pod_is_root_and_none_is_open_to_the_world() -> None:
    run = HELM["runLauncher"]["config"]["k8sRunLauncher"]["runK8sConfig"]
    pods = [
        HELM["dagsterWebserver"],
        HELM["dagsterDaemon"],
        CODE,
        {
            "podSecurityContext": run["podSpecConfig"]["securityContext"],
            "securityContext": run["containerConfig"]["securityContext"],
            "resources": run["containerConfig"]["resources"],
        },
    ]
    for pod in pods:
        assert pod["podSecurityContext"]["runAsNonRoot"] is True
        assert dict(last_stage())["USER"].startswith(f"{pod['podSecurityContext']['runAsUser']}:")
        assert pod["securityContext"]["allowPrivilegeEscalation"] is False
        assert pod["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert {"requests", "limits"} <= pod["resources"].keys()
    assert HELM["ingress"] == {"enabled": False}
    assert HELM["dagsterWebserver"]["service"]["type"] == "ClusterIP"
    assert HELM["dagsterWebserver"]["service"]["port"] >= 1024


def test_the_chart_is_of_the_version_of_dagster_that_is_installed_in_the_image() -> None:
    text = (DEPLOY / "helm-values.yaml").read_text(encoding="utf-8")
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    (version,) = re.findall(r"dagster/dagster --version (\S+)", text)

    assert f"dagster=={version}" in pins


# --- the documents --------------------------------------------------------------------------------


def test_the_readme_names_every_file() -> None:
    text = (DEPLOY / "README.md").read_text(encoding="utf-8")
    listed = {target.rstrip("/") for target in re.findall(r"\]\(([\w.-]+/?)\)", text)}
    here = {path.name for path in DEPLOY.iterdir() if not fnmatch(path.name, "__*__")}

    assert listed == here - {"README.md"}


@pytest.mark.parametrize("name", ["README.md", "ecs.md"])
def test_every_link_of_the_documents_leads_somewhere(name: str) -> None:
    text = (DEPLOY / name).read_text(encoding="utf-8")
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)]

    assert [target for target in targets if not (DEPLOY / target).exists()] == []


def test_the_launcher_of_ecs_takes_its_configuration() -> None:
    from dagster_aws.ecs import EcsRunLauncher

    text = (DEPLOY / "ecs.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    launcher = yaml.safe_load(block)["run_launcher"]

    assert launcher["class"] == EcsRunLauncher.__name__
    checked = process_config(
        resolve_to_config_type(EcsRunLauncher.config_type()), launcher["config"]
    )
    assert checked.success, checked.errors
