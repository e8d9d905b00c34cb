"""Whatever is changed in an exported bundle is noticed, and the place is named.

``GREENFLY_TEST_AUDIT_DEEP=1`` tries 10,000 changes of the zip form and 10,000 of the folder form.
"""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from integrity.audit.examine import examine
from integrity.audit.model import Finding
from tests.unit.audit_bundles import (
    Office,
    covered,
    files_told,
    open_office,
    order_of,
    repacked,
    spans_of,
    tamper,
    tamper_with_files,
)

DEEP = os.environ.get("GREENFLY_TEST_AUDIT_DEEP") == "1"
TRIES = 10_000 if DEEP else 250
FOLDER_TRIES = 1_000 if DEEP else 60
SEED = int(os.environ.get("GREENFLY_TEST_AUDIT_SEED", "20261126"))


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    opened = open_office(tmp_path_factory.mktemp("office"))
    yield opened
    opened.ledger.close()


@pytest.fixture(scope="module")
def zip_bundle(office: Office) -> Path:
    return office.export("bundle.zip").path


@pytest.fixture(scope="module")
def folder_bundle(office: Office) -> Path:
    return office.export("bundle").path


def test_every_change_of_the_zip_form_is_noticed_and_its_place_named(
    office: Office, zip_bundle: Path, tmp_path: Path
) -> None:
    exported, rng, changed = zip_bundle.read_bytes(), random.Random(SEED), tmp_path / "changed.zip"
    tried: Counter[str] = Counter()
    for number in range(TRIES):
        tampered = tamper(exported, rng)
        changed.write_bytes(tampered.data)

        found = examine(changed, office.trust)

        told = (SEED, number, tampered.how, tampered.differs[:3], found.problems)
        assert found.finding is Finding.BROKEN, told
        assert covered(tampered.differs, spans_of(found.problems, None)), told
        tried[tampered.how] += 1
    assert len(tried) >= 10


def test_every_change_of_a_file_in_the_folder_form_is_noticed_and_its_place_named(
    office: Office, folder_bundle: Path, tmp_path: Path
) -> None:
    rng, changed = random.Random(SEED), tmp_path / "changed"
    shutil.copytree(folder_bundle, changed)
    names = order_of(changed)
    sizes = [(changed / name).stat().st_size for name in names]
    for number in range(TRIES):
        # Every other one by size, else the small files would hardly ever be met.
        name = rng.choice(names) if number % 2 else rng.choices(names, sizes)[0]
        exported = (folder_bundle / name).read_bytes()
        tampered = tamper(exported, rng)
        (changed / name).write_bytes(tampered.data)

        found = examine(changed, office.trust)

        told = (SEED, number, name, tampered.how, tampered.differs[:3], found.problems)
        assert found.finding is Finding.BROKEN, told
        assert covered(tampered.differs, spans_of(found.problems, name)), told
        (changed / name).write_bytes(exported)
    assert examine(changed, office.trust).finding is Finding.PROVEN


def test_every_change_of_whole_files_in_the_folder_form_is_noticed_by_name(
    office: Office, folder_bundle: Path, tmp_path: Path
) -> None:
    rng = random.Random(SEED)
    for number in range(FOLDER_TRIES):
        changed = tmp_path / "changed"
        shutil.copytree(folder_bundle, changed)
        tampered = tamper_with_files(changed, rng)

        found = examine(changed, office.trust)

        told = (SEED, number, tampered, found.problems)
        assert found.finding is Finding.BROKEN, told
        assert tampered.told <= files_told(found), told
        shutil.rmtree(changed)


def test_every_change_of_whole_files_in_a_well_made_zip_is_noticed_by_name(
    office: Office, folder_bundle: Path, tmp_path: Path
) -> None:
    rng, changed = random.Random(SEED), tmp_path / "changed.zip"
    names = order_of(folder_bundle)
    assert examine(repacked(folder_bundle, changed, names), office.trust).finding is Finding.PROVEN
    for number in range(FOLDER_TRIES):
        order = list(names)
        one, two = rng.sample(range(len(names)), 2)
        how = rng.choice(("deleted", "exchanged", "repeated"))
        if how == "deleted":
            del order[one]
        elif how == "exchanged":
            order[one], order[two] = order[two], order[one]
        else:
            order.insert(two, order[one])

        found = examine(repacked(folder_bundle, changed, order), office.trust)

        told = (SEED, number, how, order, found.problems)
        assert found.finding is Finding.BROKEN, told
        assert names[one] in files_told(found), told
