"""What the files of a bundle say, where all hashes of the bundle itself were made anew by whoever changed it."""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from integrity.audit.container import Stored, stored, walk_directory, walk_headers, write_container
from integrity.audit.examine import examine
from integrity.audit.keys import SigningKey, Trust, load_signing_key
from integrity.audit.manifest import Manifest, ManifestSignature
from integrity.audit.model import Examination, Finding, ProblemKind
from integrity.audit.pieces import FileReader
from integrity.audit.texts import line_of
from integrity.errors import ArtifactError, LedgerError, Refused
from integrity.ledger.models import RunKind
from tests.unit import report_fixtures as runs
from tests.unit.audit_bundles import (
    Office,
    chain_made_anew,
    files_told,
    open_office,
    order_of,
    repacked,
    resealed,
)


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    opened = open_office(tmp_path_factory.mktemp("office"))
    yield opened
    opened.ledger.close()


@pytest.fixture(scope="module")
def exported(office: Office) -> Path:
    return office.export("exported").path


@pytest.fixture(scope="module")
def other(office: Office) -> Path:
    """The bundle of the run that passed."""
    return office.export("other", office.passed).path


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


def own_key(office: Office) -> SigningKey:
    key = load_signing_key(office.settings.audit)
    assert key is not None
    return key


def kinds(found: Examination) -> set[ProblemKind]:
    return {problem.kind for problem in found.problems}


# -- what an export holds ----------------------------------------------------------------------------------------------


def test_both_forms_of_a_bundle_are_proven_to_who_trusts_the_key(office: Office, exported: Path) -> None:
    packed = office.export("packed.zip", hide_other_runs=True)

    for path in (exported, packed.path):
        found = examine(path, office.trust)
        assert (found.finding, found.problems) == (Finding.PROVEN, ())
        assert found.facts is not None
        assert found.facts.run_id == office.failed
        assert found.facts.findings == len(runs.HOSTILE_KEYS)
        assert found.covered_to == found.facts.events - 1
    assert packed.checkpoint is not None


def test_the_same_files_make_the_same_zip_and_any_program_opens_it(exported: Path, tmp_path: Path) -> None:
    one = repacked(exported, tmp_path / "one.zip", order_of(exported)).read_bytes()
    two = repacked(exported, tmp_path / "two.zip", order_of(exported)).read_bytes()

    assert one == two
    with zipfile.ZipFile(io.BytesIO(one)) as packed:
        assert packed.testzip() is None
        assert packed.namelist() == order_of(exported)
        assert packed.read("report.json") == (exported / "report.json").read_bytes()


def test_sizes_beyond_four_gigabytes_take_the_64_bit_form(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a" * 200)
    (tmp_path / "b").write_bytes(b"b" * 300)
    (tmp_path / "c").write_bytes(b"c")
    parts = [(stored(name, (tmp_path / name).read_bytes()), tmp_path / name) for name in "abc"]
    with (tmp_path / "large.zip").open("wb") as out:
        write_container(parts, out, large=250)

    with zipfile.ZipFile(tmp_path / "large.zip") as packed:
        assert packed.testzip() is None
        assert [(item.filename, item.file_size) for item in packed.infolist()] == [
            ("a", 200),
            ("b", 300),
            ("c", 1),
        ]
    with FileReader(tmp_path / "large.zip") as reader:
        front, complete = walk_headers(reader, 250)
        assert complete
        assert [one.part for one in front] == [part for part, _ in parts]
        assert walk_directory(reader, 250) == front


def test_findings_are_exact_in_parquet(exported: Path) -> None:
    table = pq.read_table(exported / "findings.parquet")

    assert table.column("key").to_pylist() == list(runs.HOSTILE_KEYS)
    assert {str(kind) for kind in table.schema.types} >= {"binary", "timestamp[us, tz=UTC]"}


def test_no_secret_and_no_private_key_is_in_a_bundle(office: Office, exported: Path) -> None:
    private = (office.folder / "key").read_text().splitlines()[-2]
    for path in exported.iterdir():
        if path.suffix != ".parquet":
            text = path.read_text()
            assert private not in text
            assert runs.PASSWORD not in text or path.name == "chain.jsonl"


def test_other_runs_are_told_by_hashes_only_where_that_is_asked_for(office: Office) -> None:
    hidden = office.export("hidden", hide_other_runs=True).path
    chain = (hidden / "chain.jsonl").read_text()

    assert office.passed not in chain
    assert office.failed in chain
    found = examine(hidden, office.trust)
    assert found.finding is Finding.PROVEN
    assert any("hashes only" in note for note in found.notes)


def test_files_of_the_run_are_included_where_that_is_asked_for(office: Office) -> None:
    path = office.export("with-files", office.passed, with_files=True).path

    assert (path / "artifact-001-dump.rdb").read_bytes() == (
        office.settings.state_dir / "dump.rdb"
    ).read_bytes()
    assert examine(path, office.trust).finding is Finding.PROVEN


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_a_file_that_is_not_what_the_run_wrote_is_not_included(office: Office, damage: str) -> None:
    path = office.settings.state_dir / "dump.rdb"
    held = path.read_bytes()
    path.unlink()
    if damage == "changed":
        path.write_bytes(held + b"x")

    with pytest.raises(ArtifactError) as caught:
        office.export("damaged", office.passed, with_files=True)

    path.write_bytes(held)
    assert str(path) in caught.value.problem
    assert not list(office.folder.glob("*damaged*"))


def test_a_bundle_never_replaces_anything_and_a_live_run_is_not_exported(
    office: Office, tmp_path: Path
) -> None:
    (office.folder / "there").mkdir()
    with pytest.raises(Refused):
        office.export("there")
    live = office.ledger.start_run(RunKind.VERIFY, office.settings)
    with pytest.raises(Refused):
        office.export("live", live.id)
    live.let_go()


def test_nothing_is_exported_from_a_ledger_that_was_tampered_with(tmp_path: Path) -> None:
    office = open_office(tmp_path)
    with office.ledger.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE event SET actor = 'nobody' WHERE sequence = 3")

    with pytest.raises(LedgerError):
        office.export("bundle")

    assert not (tmp_path / "bundle").exists()
    office.ledger.close()


# -- changed by somebody who makes the hashes anew ---------------------------------------------------------------------


def no_error(events: list[dict[str, object]]) -> None:
    """The failed run did not fail."""
    ended = next(e for e in reversed(events) if e["kind"] == "run.finished")
    ended["payload"] = str(ended["payload"]).replace('"FAIL"', '"PASS"')


def without_line(path: Path, number: int) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    del lines[number]
    path.write_bytes(b"".join(lines))


def change_json(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    table = json.loads(path.read_bytes())
    change(table)
    path.write_bytes(line_of(table))


def change_report(bundle: Path, before: str, after: str) -> None:
    path = bundle / "report.json"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))


SWINDLES: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "the last event cut off": (lambda bundle, _: without_line(bundle / "chain.jsonl", -1), "bundle.json"),
    "an event taken out": (lambda bundle, _: without_line(bundle / "chain.jsonl", 4), "chain.jsonl"),
    "the whole chain made anew": (
        lambda bundle, _: chain_made_anew(bundle, no_error),
        "checkpoints.jsonl, line 2",
    ),
    "the chain made anew without its end": (
        lambda bundle, _: chain_made_anew(bundle, lambda events: events.__delitem__(slice(-2, None))),
        "checkpoints.jsonl, line 3",
    ),
    "a checkpoint taken out": (
        lambda bundle, _: without_line(bundle / "checkpoints.jsonl", 0),
        "checkpoints.jsonl",
    ),
    "another run's page": (lambda bundle, other: shutil.copy(other / "report.html", bundle), "report.html"),
    "another run's report": (lambda bundle, other: shutil.copy(other / "report.json", bundle), "report.json"),
    "another run's table": (
        lambda bundle, other: shutil.copy(other / "findings.parquet", bundle),
        "findings.parquet",
    ),
    "another verdict": (
        lambda bundle, _: change_report(bundle, '"verdict": "FAIL"', '"verdict": "PASS"'),
        "report.json",
    ),
    "an event of the timeline changed": (
        lambda bundle, _: change_report(bundle, '"kind": "phase.started"', '"kind": "phase.skipped"'),
        "report.json",
    ),
    "a finding taken out of the report": (
        lambda bundle, _: without_line(bundle / "report.json", -4),
        "report.json",
    ),
    "a finding taken out of the table": (
        lambda bundle, _: without_line(bundle / "findings.csv", 1),
        "findings.csv",
    ),
    "another number of findings": (
        lambda bundle, _: change_json(bundle / "bundle.json", lambda facts: facts.update(findings=1)),
        "findings.csv",
    ),
    "an artifact that was never written": (
        lambda bundle, _: change_json(
            bundle / "artifacts.json",
            lambda table: table.update(
                artifacts=[{"kind": "rdb", "name": "x", "bytes": 1, "sha256": "0", "at": "", "file": None}]
            ),
        ),
        "artifacts.json",
    ),
    "a file more": (lambda bundle, _: (bundle / "more.json").write_text("{}"), "more.json"),
    "a file less": (lambda bundle, _: (bundle / "findings.csv").unlink(), "findings.csv"),
    "a key that is another": (
        lambda bundle, _: change_json(
            bundle / "keys.json",
            lambda table: table["keys"][0].update(key_id="0" * 32),  # type: ignore[index]
        ),
        "keys.json",
    ),
    "a table that is none": (
        lambda bundle, _: (bundle / "findings.parquet").write_bytes(b"PAR1"),
        "findings.parquet",
    ),
    "facts that are nested": (
        lambda bundle, _: (bundle / "bundle.json").write_bytes(b"[" * 100_000),
        "bundle.json",
    ),
    "facts of a newer format": (
        lambda bundle, _: change_json(
            bundle / "bundle.json", lambda facts: facts.update(format="greenfly-audit-facts 2")
        ),
        "bundle.json",
    ),
}


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed anew"])
@pytest.mark.parametrize("name", SWINDLES)
def test_what_does_not_fit_the_rest_is_noticed_by_name_even_where_the_hashes_do(
    office: Office, bundle: Path, other: Path, name: str, *, signed: bool
) -> None:
    swindle, told = SWINDLES[name]
    swindle(bundle, other)
    resealed(bundle, own_key(office) if signed else None)

    found = examine(bundle, office.trust)

    assert found.finding is Finding.BROKEN
    assert told in files_told(found)
    assert ProblemKind.CHANGED not in kinds(found)


def test_who_changes_everything_alike_is_told_apart_by_the_signature_alone(
    office: Office, bundle: Path
) -> None:
    """Without any key the whole record can be made anew; that is what unsigned means."""
    chain_made_anew(bundle, lambda _: None)
    resealed(bundle)

    assert examine(bundle, Trust()).finding is Finding.UNSIGNED
    assert examine(bundle, office.trust).finding is Finding.UNSIGNED
    stranger = SigningKey(Ed25519PrivateKey.generate())
    for trust in (office.trust, Trust()):
        found = examine(resealed(bundle, stranger), trust)
        assert (found.finding, found.key_id) == (Finding.UNKNOWN_KEY, stranger.public.id)
    assert examine(bundle, Trust([stranger.public])).finding is Finding.PROVEN


def test_files_changed_and_listed_anew_under_the_old_signature_are_noticed(
    office: Office, bundle: Path
) -> None:
    signature = (bundle / "manifest.sig").read_bytes()
    change_report(bundle, '"verdict": "FAIL"', '"verdict": "PASS"')
    data = (resealed(bundle) / "manifest.json").read_bytes()
    key_id = json.loads(signature)["key_id"]
    (bundle / "manifest.json").write_bytes(
        data.replace(b'"signed_by":null', f'"signed_by":"{key_id}"'.encode())
    )
    (bundle / "manifest.sig").write_bytes(signature)

    found = examine(bundle, office.trust)

    assert found.finding is Finding.BROKEN
    assert ProblemKind.SIGNATURE in kinds(found)


def test_a_missing_signature_is_noticed(office: Office, bundle: Path) -> None:
    (bundle / "manifest.sig").unlink()

    found = examine(bundle, office.trust)

    assert (found.finding, files_told(found)) == (Finding.BROKEN, {"manifest.sig"})


# -- what is no bundle -------------------------------------------------------------------------------------------------


def zipped(tmp_path: Path, names: dict[str, bytes], compression: int) -> Path:
    path = tmp_path / "made.zip"
    with zipfile.ZipFile(path, "w", compression) as packed:
        for name, data in names.items():
            packed.writestr(name, data)
    return path


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_of_another_program_is_refused_and_a_bomb_never_unpacked(
    tmp_path: Path, compression: int
) -> None:
    bomb = zipped(tmp_path, {"manifest.json": bytes(50_000_000)}, compression)

    found = examine(bomb, Trust())

    assert (found.finding, found.facts) == (Finding.BROKEN, None)
    assert kinds(found) == {ProblemKind.CONTAINER}


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "a/b", "..", ".hidden", "nul\x00", "A" * 500]
)
def test_a_name_that_leads_elsewhere_is_refused(bundle: Path, tmp_path: Path, name: str) -> None:
    data = (bundle / "manifest.json").read_text().replace("report.html", json.dumps(name)[1:-1])
    with pytest.raises(ValueError, match=r"."):
        Manifest.read(data.encode())
    parts = [
        (stored("manifest.json", data.encode()), bundle / "manifest.json"),
        (Stored(name, 0, 0), tmp_path / "x"),
    ]
    (bundle / "manifest.json").write_text(data)
    (tmp_path / "x").write_bytes(b"")
    with (tmp_path / "made.zip").open("wb") as out:
        write_container(parts, out)

    for path in (bundle, tmp_path / "made.zip"):
        assert examine(path, Trust()).finding is Finding.BROKEN


@pytest.mark.parametrize("kind", ["link", "fifo", "folder", "odd name"])
def test_what_is_no_plain_file_is_named_and_not_opened(
    office: Office, bundle: Path, tmp_path: Path, kind: str
) -> None:
    place = bundle / ("evil\x1b[2J.json" if kind == "odd name" else "evil.json")
    match kind:
        case "link":
            place.symlink_to("/dev/zero")
        case "fifo":
            os.mkfifo(place)
        case "folder":
            place.mkdir()
        case _:
            place.write_text("{}")

    found = examine(bundle, office.trust)

    assert kinds(found) == {ProblemKind.EXTRA}
    assert "\x1b" not in json.dumps(found.to_dict()) + found.problems[0].place
    assert any("evil" in name for name in files_told(found))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("form", ["folder", "zip"])
def test_a_bundle_of_a_newer_format_is_refused_by_name(
    office: Office, bundle: Path, tmp_path: Path, form: str, *, signed: bool
) -> None:
    path = bundle / "manifest.json"
    data = path.read_bytes().replace(b"greenfly-audit-bundle 1", b"greenfly-audit-bundle 2")
    path.write_bytes(data)
    (bundle / "manifest.sig").unlink()
    if signed:
        (bundle / "manifest.sig").write_bytes(ManifestSignature.make(own_key(office), data).to_bytes())

    there = bundle if form == "folder" else repacked(bundle, tmp_path / "new.zip", order_of(bundle))
    found = examine(there, office.trust)

    assert [(p.kind, p.file) for p in found.problems] == [(ProblemKind.FORMAT, "manifest.json")]
    assert "greenfly-audit-bundle 2" in found.problems[0].text


@pytest.mark.parametrize(
    "content", [b"", b"PK", b"not a zip at all", b"PK\x03\x04" + bytes(100), bytes(1 << 20)]
)
def test_what_is_no_bundle_at_all_is_broken(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file.zip").write_bytes(content)

    assert examine(tmp_path / "file.zip", Trust()).finding is Finding.BROKEN


def test_nothing_and_an_empty_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError):
        examine(tmp_path / "missing", Trust())
    found = examine(tmp_path, Trust())
    assert [(p.kind, p.file) for p in found.problems] == [(ProblemKind.MISSING, "manifest.json")]


@pytest.mark.parametrize(
    "what", [b"{" * 100_000, b"[]", b"null", b'{"files":[],"format":"greenfly-audit-bundle 1"}', b"\xff"]
)
def test_a_manifest_that_is_none_is_named(tmp_path: Path, what: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(what)

    assert "manifest.json" in files_told(examine(tmp_path, Trust()))
