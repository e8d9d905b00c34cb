"""The applications' Lua scripts, read from the files and folders that ``assess.scripts`` names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from integrity.assess.lua_script import LuaScript, read_script

_MOST_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ScriptFile:
    """One file, looked through."""

    name: str
    """As it was named, or below the folder that was."""
    text: str
    script: LuaScript

    @property
    def includes(self) -> bool:
        """Whether a tool puts other files into it before it is sent, as BullMQ's does: ``--- @include "file"``."""
        return "@include" in self.text

    @property
    def body(self) -> str:
        """The text without a shebang; lines keep their numbers."""
        return self.text[len(self.script.shebang) :] if self.script.shebang else self.text


def read_scripts(paths: Iterable[str]) -> tuple[list[ScriptFile], list[str]]:
    """Every script, and why some could not be read."""
    files: list[ScriptFile] = []
    problems: list[str] = []
    for path in paths:
        found = list(_files(Path(path)))
        if not found:
            problems.append(f"{path}: no such file, or a folder without *.lua")
        for file in found:
            try:
                if file.stat().st_size > _MOST_BYTES:
                    problems.append(f"{file}: over 1 MiB")
                    continue
                text = file.read_text("utf-8", errors="surrogateescape")
            except OSError as error:
                problems.append(f"{file}: {error.strerror}")
                continue
            files.append(ScriptFile(str(file), text, read_script(text)))
    return files, problems


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from sorted(file for file in path.rglob("*.lua") if file.is_file())
    elif path.exists():
        yield path
