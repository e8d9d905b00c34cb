"""The container files agree with each other and with the commands, hold no secret, and open nothing to the network."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import typer
from ruamel.yaml import YAML

from greenfly.cli import app

ROOT: Final = Path(__file__).parents[2]
TEXT: Final = (ROOT / "docker-compose.yml").read_text("utf-8")
EXAMPLE: Final = (ROOT / ".env.example").read_text("utf-8")
DOCKERFILE: Final = (ROOT / "Dockerfile").read_text("utf-8")
_SHOWN: Final = dict(re.findall(r"(?m)^#?([A-Z][A-Z_]*)=(.*)$", EXAMPLE))
_ONCE: Final = frozenset({"pipeline", "data"})
"""Services that end by themselves."""


def filled(text: str) -> str:
    """The file as Compose sees it, with every variable that has no default filled by a word."""
    return re.sub(
        r"(?<!\$)\$\{\w+:([-?])([^}]*)\}", lambda m: m.group(2) if m.group(1) == "-" else "secret", text
    )


def services() -> dict[str, dict[str, object]]:
    whole = YAML(typ="safe").load(filled(TEXT))
    return {str(name): dict(service) for name, service in whole["services"].items()}


def listed(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else str(value).split()


def variables() -> Iterator[tuple[str, str, str]]:
    """Name, ``-`` or ``?``, default or message of every variable."""
    yield from re.findall(r"(?<!\$)\$\{(\w+):?([-?]?)([^}]*)\}", TEXT)


def test_every_variable_has_a_default_or_must_be_set_and_is_in_the_example() -> None:
    used = {name: default if kind == "-" else "" for name, kind, default in variables()}
    assert used
    assert all(kind in {"-", "?"} for _, kind, _ in variables())
    assert used == _SHOWN


def test_no_password_is_in_the_files() -> None:
    passwords = {name for name, kind, _ in variables() if kind == "?"}
    assert passwords == {name for name in _SHOWN if name.endswith("_PASSWORD")}
    assert all(_SHOWN[name] == "" for name in passwords)
    for service in services().values():
        environment = service.get("environment", {})
        assert isinstance(environment, dict)
        for name, value in environment.items():
            if re.search("PASSWORD|AUTH_STRING|requirepass|LEDGER_URL", str(name)):
                assert "secret" in str(value), f"{name} is not filled from .env"


def test_ports_are_open_on_this_machine_only() -> None:
    published = [port for service in services().values() for port in listed(service.get("ports", []))]
    assert len(published) == 6
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_every_image_is_pinned_to_a_version() -> None:
    for name, service in services().items():
        image = str(service["image"])
        if "build" in service:
            assert image == "greenfly:local", name
        else:
            assert re.search(r":v?\d+\.\d+", image), f"{name}: {image}"


def test_what_runs_for_long_is_watched_and_comes_back() -> None:
    for name, service in services().items():
        if name in _ONCE:
            assert "restart" not in service
        elif name != "worker":
            assert table(service["healthcheck"])["test"], name
    assert {name for name, service in services().items() if "restart" in service} == set(
        services()
    ) - _ONCE - {
        "blue",
        "green",
    }


def table(value: object) -> dict[str, object]:
    assert isinstance(value, dict), value
    return value


def test_what_is_waited_for_can_become_what_is_waited_for() -> None:
    known = services()
    for name, service in known.items():
        for other, how in table(service.get("depends_on", {})).items():
            condition = table(how)["condition"]
            if condition == "service_healthy":
                assert "healthcheck" in known[other], f"{name} waits for {other}"
            else:
                assert condition == "service_completed_successfully"
                assert other in _ONCE
            # A service of a profile is not there for one without it, unless that can do without.
            mine, theirs = service.get("profiles"), known[other].get("profiles")
            assert theirs is None or theirs == mine or table(how).get("required") is False


def test_every_volume_is_declared_and_every_file_is_there() -> None:
    declared = set(YAML(typ="safe").load(filled(TEXT))["volumes"])
    mounted = [m.split(":")[0] for service in services().values() for m in listed(service.get("volumes", []))]
    assert {name for name in mounted if not name.startswith(".")} == declared
    for name in mounted:
        assert not name.startswith(".") or (ROOT / name).exists()


def test_monitoring_and_the_made_up_data_are_there_when_asked_for() -> None:
    profiles = {name: listed(s["profiles"]) for name, s in services().items() if "profiles" in s}
    assert profiles == {"prometheus": ["monitoring"], "grafana": ["monitoring"], "data": ["demo"]}


@pytest.mark.parametrize("name", ["pipeline", "worker", "exporter"])
def test_the_image_is_given_commands_that_there_are(name: str) -> None:
    click = typer.main.get_command(app)
    words = listed(services()[name]["command"])
    while words and not words[0].startswith("-") and hasattr(click, "commands"):
        assert words[0] in click.commands, f"there is no command {words[0]}"
        click = click.commands[words.pop(0)]
    known = {option for parameter in click.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


def test_what_runs_in_our_image_has_no_rights_to_spare() -> None:
    for service in services().values():
        if "build" in service:
            assert service["cap_drop"] == ["ALL"]
            assert service["security_opt"] == ["no-new-privileges:true"]


def test_prefect_prepares_its_page_where_it_may_write() -> None:
    prefect = services()["prefect"]
    environment = {str(k): str(v) for k, v in table(prefect["environment"]).items()}
    volumes = [Path(mount.split(":")[1]) for mount in listed(prefect["volumes"])]
    for name in ("PREFECT_HOME", "PREFECT_UI_STATIC_DIRECTORY"):
        assert any(Path(environment[name]).is_relative_to(volume) for volume in volumes), name


def test_settings_in_the_environment_are_settings_that_there_are() -> None:
    from integrity.settings import load_settings

    for service in services().values():
        environment = {str(k): str(v) for k, v in table(service.get("environment", {})).items()}
        load_settings(environ=environment)


def test_prometheus_scrapes_what_the_exporter_serves() -> None:
    scraped = YAML(typ="safe").load(ROOT / "ops" / "prometheus" / "prometheus.yml")["scrape_configs"]
    targets = [target for job in scraped for group in job["static_configs"] for target in group["targets"]]
    exporter = services()["exporter"]
    listen = listed(exporter["command"])[-2]
    assert targets == [f"exporter:{listen.rpartition(':')[2]}"]
    assert listed(exporter["ports"])[0].endswith(f":{listen.rpartition(':')[2]}")


# -- the image ---------------------------------------------------------------------------------------------------------


def stages() -> list[list[tuple[str, str]]]:
    """The instructions of each stage; those before the first one are left out."""
    joined = re.sub(r"\\\n", " ", re.sub(r"(?m)^#.*\n", "", DOCKERFILE))
    found: list[list[tuple[str, str]]] = []
    for line in filter(None, map(str.strip, joined.splitlines())):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            found.append([])
        if found:
            found[-1].append((word, rest.strip()))
    return found


def test_the_image_holds_every_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    copied = set(re.findall(r"(?m)^COPY (\w+) \./\1$", DOCKERFILE))
    allowed = set(re.findall(r"(?m)^!(\S+)$", (ROOT / ".dockerignore").read_text("utf-8")))
    assert copied == set(packages)
    assert copied <= allowed


def test_the_image_does_not_run_as_root() -> None:
    users = [rest for word, rest in stages()[-1] if word == "USER"]
    assert users
    assert users[-1].isdigit(), "a number, so that an orchestrator can see that it is not root"
    assert users[-1] != "0"
    assert f"--uid {users[-1]}" in DOCKERFILE


def test_the_base_is_pinned_and_the_same_everywhere() -> None:
    default = re.search(r"(?m)^ARG PYTHON_IMAGE=(\S+)$", DOCKERFILE)
    assert default is not None
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", default.group(1))
    assert {stage[0][1].split()[0] for stage in stages()} == {"${PYTHON_IMAGE}"}


def test_the_image_is_built_in_stages_from_the_lock_with_hashes() -> None:
    build, last = stages()[0], stages()[-1]
    assert len(stages()) > 1
    calls = [call for word, rest in build if word == "RUN" for call in rest.split("&&") if "/pip " in call]
    fetching = [call for call in calls if "--no-index" not in call]
    assert len(fetching) == 1
    assert "--require-hashes" in fetching[0]
    assert "--only-binary=:all:" in fetching[0], "tools that build would come without a hash"
    assert fetching[0].split()[-2:] == ["-r", "requirements.lock"]
    assert any(word == "ENV" and "PIP_NO_CACHE_DIR=1" in rest for word, rest in build)
    assert not [rest for word, rest in last if word == "RUN" and "install" in rest]


def test_the_image_holds_what_can_be_asked_for_and_no_tools() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    taken = re.findall(r'"greenfly\[([\w,]+)\]"', DOCKERFILE)
    assert [set(extras.split(",")) for extras in taken] == [set(project["project"]["optional-dependencies"])]
    assert "venv --without-pip /opt/greenfly" in DOCKERFILE
    assert [rest for word, rest in stages()[-1] if word == "COPY"] == [
        "--from=build /opt/greenfly /opt/greenfly"
    ]


def test_the_image_is_built_from_no_named_index_and_nothing_downloaded_on_the_side() -> None:
    assert not re.search(r"https?://|--index-url|--extra-index-url|--trusted-host|curl |wget ", DOCKERFILE)
    assert not [rest for stage in stages() for word, rest in stage if word == "ADD"]
    assert "--index-url" not in (ROOT / "requirements.lock").read_text("utf-8")


def test_the_folders_of_volumes_belong_to_the_user_of_the_image() -> None:
    last = stages()[-1]
    user = next(place for place, (word, _) in enumerate(last) if word == "USER")
    made = " ".join(rest for word, rest in last[user:] if word == "RUN")
    home = next(rest for word, rest in last if word == "WORKDIR")
    for service in services().values():
        if "build" not in service:
            continue
        for mount in listed(service.get("volumes", [])):
            folder = Path(mount.split(":")[1])
            assert folder.parent == Path(home)
            assert re.search(rf"mkdir\b.*\b{folder.name}\b", made), f"{folder} would belong to root"
