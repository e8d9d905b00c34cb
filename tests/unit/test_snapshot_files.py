"""Files of a snapshot: what is written is what is read, encrypted or not, and nothing but that."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pyrage
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from integrity.errors import ArtifactError, ConfigurationError
from integrity.settings import SnapshotSettings, load_settings
from integrity.snapshot.files import Sink, hash_file, open_seekable, open_stream
from integrity.snapshot.sealing import NO_KEYS, Keys, generate_key, load_keys, read_recipients

OWN = pyrage.x25519.Identity.generate()
OTHER = pyrage.x25519.Identity.generate()
KEYS = Keys((OWN,))
CONTENT = bytes(range(256)) * 2_000


def write(path: Path, pieces: Sequence[bytes], *, sealed: bool) -> Sink:
    with Sink(path, (OWN.to_public(),) if sealed else ()) as sink:
        for piece in pieces:
            sink.write(piece)
    return sink


@given(st.lists(st.binary(max_size=200_000), max_size=8), st.booleans(), st.integers(1, 300_000))
@settings(max_examples=40, deadline=None)
def test_what_is_written_is_read_in_any_pieces(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], sealed: bool, step: int
) -> None:
    path = tmp_path_factory.mktemp("files") / ("a.age" if sealed else "a")
    content = b"".join(pieces)

    sink = write(path, pieces, sealed=sealed)

    with open_stream(path, KEYS) as stream:
        read = []
        while piece := stream.read(step):
            read.append(piece)
    assert b"".join(read) == content
    with open_seekable(path, KEYS) as file:
        assert file.read() == content
    on_disk = path.read_bytes()
    assert (sink.tell(), sink.contents_xxh3) == (len(content), xxhash.xxh3_128_hexdigest(content))
    assert (sink.file.bytes, sink.file.xxh3_128) == (len(on_disk), xxhash.xxh3_128_hexdigest(on_disk))
    assert sink.file == hash_file(path)
    assert (on_disk == content) is not sealed


def test_an_encrypted_file_is_opened_by_the_age_library_alone_and_shows_no_content(tmp_path: Path) -> None:
    write(tmp_path / "a.age", [CONTENT, b"a word that is easy to find"], sealed=True)

    data = (tmp_path / "a.age").read_bytes()

    assert data.startswith(b"age-encryption.org/v1\n-> X25519 ")
    assert b"easy to find" not in data
    assert pyrage.decrypt(data, [OWN]) == CONTENT + b"a word that is easy to find"


def read_all(path: Path) -> None:
    with open_stream(path, KEYS) as stream:
        while stream.read(100_000):
            pass


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "last byte gone": lambda data: data[:-1],
    "cut in a chunk": lambda data: data[:70_000],
    "cut in the head": lambda data: data[:20],
    "empty": lambda data: b"",
    "longer": lambda data: data + b"x",
    "a bit of the last chunk": lambda data: data[:-40] + bytes([data[-40] ^ 1]) + data[-39:],
    "a letter of the head": lambda data: data[:90] + (b"B" if data[90:91] == b"A" else b"A") + data[91:],
    "another file": lambda data: b"not encrypted at all" * 100,
    "another key": lambda data: pyrage.encrypt(CONTENT, [OTHER.to_public()]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_file_or_a_wrong_key_is_told_by_the_files_name(tmp_path: Path, change: str) -> None:
    path = tmp_path / "dump.rdb.age"
    write(path, [CONTENT], sealed=True)
    path.write_bytes(CHANGES[change](path.read_bytes()))
    # What stands in the head for a key cannot be told from what stands there for another one.
    told = "another key" if change in ("another key", "a letter of the head") else "decrypt"

    with pytest.raises(ArtifactError, match=told) as streamed:
        read_all(path)
    with pytest.raises(ArtifactError, match=told) as sought, open_seekable(path, KEYS):
        pass

    assert str(path) in streamed.value.problem
    assert str(path) in sought.value.problem


def test_no_key_and_no_file_are_told_by_name(tmp_path: Path) -> None:
    path = tmp_path / "dump.rdb.age"
    write(path, [b"x"], sealed=True)

    with pytest.raises(ArtifactError, match=r"dump\.rdb\.age is encrypted, and no key"):
        open_stream(path, NO_KEYS)
    for missing in (tmp_path / "gone", tmp_path / "gone.age"):
        with pytest.raises(ArtifactError, match=r"gone.* is missing"):
            open_stream(missing, KEYS)
        with pytest.raises(ArtifactError, match=r"gone.* is missing"):
            hash_file(missing)


def test_a_reader_that_stops_early_leaves_no_thread_waiting(tmp_path: Path) -> None:
    path = tmp_path / "a.age"
    write(path, [CONTENT] * 20, sealed=True)

    with open_stream(path, KEYS) as stream:
        assert stream.read(10) == CONTENT[:10]


@pytest.mark.parametrize("sealed", [False, True])
def test_a_full_disk_is_an_error_of_the_writer(tmp_path: Path, sealed: bool) -> None:
    script = f"""
import resource, sys
from pathlib import Path
import pyrage
from integrity.snapshot.files import Sink
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
recipients = (pyrage.x25519.Identity.generate().to_public(),) if {sealed} else ()
try:
    with Sink(Path(sys.argv[1]), recipients) as sink:
        for _ in range(200):
            sink.write(bytes(100_000))
except OSError as error:
    print("told", error.strerror)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "a")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=os.getcwd(),
    )

    assert done.stdout.startswith("told"), done.stderr
    assert "File too large" in done.stdout


# -- keys --------------------------------------------------------------------------------------------------------------


def test_a_new_key_is_for_its_owner_alone_and_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key"

    recipient = generate_key(path)

    assert path.stat().st_mode & 0o777 == 0o600
    text = path.read_text("ascii")
    assert f"# public key: {recipient}\n" in text
    [identity] = load_keys(SnapshotSettings(identity_file=path)).identities
    assert pyrage.decrypt(pyrage.encrypt(b"x", list(read_recipients([recipient]))), [identity]) == b"x"
    with pytest.raises(ConfigurationError, match="already"):
        generate_key(path)
    assert path.read_text("ascii") == text


def test_a_key_comes_from_a_file_or_from_the_environment() -> None:
    loaded = load_settings(
        environ={
            "GREENFLY_SNAPSHOT__IDENTITY": str(OWN),
            "GREENFLY_SNAPSHOT__ENCRYPT_TO": f"{OWN.to_public()}, {OTHER.to_public()}",
        }
    ).settings.snapshot

    assert str(OWN) not in repr(loaded)
    assert loaded.encrypt_to == (str(OWN.to_public()), str(OTHER.to_public()))
    [identity] = load_keys(loaded).identities
    assert str(identity) == str(OWN)
    assert "AGE-SECRET" not in repr(load_keys(loaded))


@pytest.mark.parametrize("text", ["", "# only a comment\n", "AGE-SECRET-KEY-1WRONG", "\xff"])
def test_a_key_that_is_none_is_told_without_its_text(tmp_path: Path, text: str) -> None:
    path = tmp_path / "key"
    path.write_bytes(text.encode("latin-1"))

    with pytest.raises(ConfigurationError) as told:
        load_keys(SnapshotSettings(identity_file=path))

    assert str(path) in str(told.value)
    assert "1WRONG" not in str(told.value)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_keys(SnapshotSettings(identity_file=tmp_path / "gone"))


@pytest.mark.parametrize("text", ["age1xyz", "AGE-SECRET-KEY-1QQQ", "", "ssh-ed25519 AAAA"])
def test_a_recipient_that_is_none_is_refused_by_the_settings(text: str) -> None:
    with pytest.raises(ConfigurationError, match="encrypt_to"):
        load_settings({"snapshot": {"encrypt_to": [text]}}, environ={})


def test_a_recipient_with_a_wrong_checksum_is_refused() -> None:
    text = str(OWN.to_public())
    wrong = text[:-1] + ("q" if text[-1] != "q" else "p")

    with pytest.raises(ConfigurationError, match="no age recipient"):
        read_recipients([wrong])
