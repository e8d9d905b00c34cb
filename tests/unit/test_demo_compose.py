"""The container files agree with each other, and open nothing to the network."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMPOSE = (ROOT / "docker-compose.yml").read_text("utf-8")
EXAMPLE = (ROOT / ".env.example").read_text("utf-8")


def test_every_variable_has_a_default_and_is_in_the_example() -> None:
    used = re.findall(r"(?<!\$)\$\{(\w+)(:-[^}]*)?\}", COMPOSE)
    shown = dict(re.findall(r"(?m)^#?([A-Z][A-Z_]*)=(.*)$", EXAMPLE))
    assert used
    assert {name: default.removeprefix(":-") for name, default in used} == shown


def test_ports_are_open_on_this_machine_only() -> None:
    published = re.findall(r"(?m)^    ports:\n((?:      - .*\n)+)", COMPOSE)
    assert len(published) == 2
    assert all(line.strip().startswith("- 127.0.0.1:") for block in published for line in block.splitlines())


def test_the_image_holds_every_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    copied = set(re.findall(r"(?m)^COPY (\w+) \./\1$", (ROOT / "Dockerfile").read_text("utf-8")))
    allowed = set(re.findall(r"(?m)^!(\S+)$", (ROOT / ".dockerignore").read_text("utf-8")))
    assert copied == set(packages)
    assert copied <= allowed


def test_the_image_does_not_run_as_root() -> None:
    lines = (ROOT / "Dockerfile").read_text("utf-8").splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users
    assert users[-1] not in {"root", "0"}
