"""Searching folders: one rule, `walk`, that every command follows, and a count of what it leaves out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fer_deploy.errors import printable
from fer_deploy.files import AnyPath, identity_of, kind_of_file, shown

_LITTER = frozenset(
    {
        # macOS
        "__macosx", "icon\r", "network trash folder", "temporary items",
        # Windows
        "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "$recycle.bin", "recycler",
        "system volume information",
        # storage servers: Synology, QNAP
        "@eadir", "@tmp", "@recycle", "@recently-snapshot", "@__thumb", "#recycle", "#snapshot",
        # Linux, Python, Spark and Delta Lake: files that are being written, and logs with files of their own
        "lost+found", "__pycache__", "_temporary", "_spark_metadata", "_delta_log",
    }
)  # fmt: skip
"""Names, lower case, of files and folders that systems leave among a user's own: thumbnails, deleted files, logs."""

_REMEDIES = {".heic": "save as JPEG", ".heif": "save as JPEG"}
"""What to do with files that could be read if they were saved otherwise."""

_LISTED_REASONS = 12
"""At most so many kinds of left-out files are named in one line."""


def is_hidden(name: str) -> bool:
    """Whether a file or folder is left out of every search by its name: hidden, or litter of the file system.

    >>> is_hidden(".git"), is_hidden("Thumbs.db"), is_hidden("@eaDir"), is_hidden("_MG_0001.JPG")
    (True, True, True, False)
    """
    return name.startswith(".") or name.lower() in _LITTER


@dataclass
class LeftOut:
    """What a search left out, counted by reason, for a command to print.

    >>> left_out = LeftOut()
    >>> left_out.add_file("a.HEIC"), left_out.add_file("b.heic"), left_out.add_hidden(".git")
    (None, None, None)
    >>> str(left_out)
    'left out: 2 *.heic (save as JPEG), 1 hidden'
    """

    counts: Counter[str] = field(default_factory=Counter)
    """How many files or folders were left out for each reason."""
    problems: list[str] = field(default_factory=list)
    """One line for each folder that could not be read."""

    def add_file(self, name: str) -> None:
        """Count a file that is of no kind that is looked for, by its ending."""
        suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122  a name, not a path
        if not suffix:
            self.counts["without an ending"] += 1
            return
        remedy = f" ({_REMEDIES[suffix]})" if suffix in _REMEDIES else ""
        self.counts[f"*{printable(suffix)[:20]}{remedy}"] += 1

    def add_hidden(self, name: str) -> None:
        """Count a file or folder that `is_hidden`."""
        self.counts["hidden" if name.startswith(".") else printable(name)] += 1

    def __str__(self) -> str:
        """One line: "left out: 3 *.heic (save as JPEG), 1 hidden"; empty where nothing was left out."""
        if not self.counts:
            return ""
        ordered = sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))
        parts = [f"{count:,} {reason}" for reason, count in ordered[:_LISTED_REASONS]]
        if rest := ordered[_LISTED_REASONS:]:
            parts.append(f"{sum(count for _, count in rest):,} of {len(rest):,} other kinds")
        return f"left out: {', '.join(parts)}"


@dataclass(frozen=True)
class WalkedFile:
    """A file that `walk` came to.

    Attributes:
        name: the path relative to the folder that was walked, `/` between folders. Bytes that are not UTF-8 are
            surrogates in it, as `os.fsdecode` makes them: `os.fsencode(name)` gives the bytes.
        entry: the file as the system listed it, for its path and its status.
    """

    name: str
    entry: os.DirEntry[str]

    @property
    def path(self) -> Path:
        """Where the file is: the folder that was walked, and `name`."""
        return Path(self.entry.path)

    def status(self) -> os.stat_result | None:
        """The file's size and times, links followed; None for a link to nothing or to itself."""
        try:
            return self.entry.stat()
        except OSError:
            return None


def walk(
    folder: AnyPath,
    left_out: LeftOut,
    *,
    suffixes: Collection[str] | None = None,
    except_in: Iterable[Path] = (),
) -> Iterator[WalkedFile]:
    """The files in a folder and its subfolders. Every command that searches a folder searches it by this rule.

    - Names that begin with "." and litter of file systems (`is_hidden`) are left out, whether files or folders. Names
      that begin with "_" are read: cameras write _MG_0001.JPG. The folder itself may have any name.
    - Links to folders are followed, after all real subfolders, unless they lead to a folder that contains this one. No
      folder is entered twice, so that loops of links end and no file is read again under another name.
    - Links to files are files, and so is a link to nothing: opening it gives the reason why it cannot be read. Named
      pipes, sockets and devices are left out.
    - The order is always the same: a folder's files by the bytes of their names, then its subfolders, likewise.
    - At most one folder's file names are in memory, and the names of the subfolders that wait.
    - A folder that cannot be read is a line in `left_out.problems`. Whatever else is left out is counted in `left_out`.

    Args:
        folder: where to begin; a path of text or of bytes.
        left_out: counts what is left out, during the walk.
        suffixes: endings, lower case, of the files to give; others are left out. None gives all files.
        except_in: folders that are not entered, such as those that this command writes to.
    """
    refused = {identity_of(parent): "link to a folder above" for parent in Path(os.fsdecode(folder)).resolve().parents}
    refused |= {identity_of(place): "folder of results" for place in except_in}
    entered: set[tuple[int, int]] = set()
    waiting = [("", os.fsdecode(folder))]
    links: list[tuple[str, str]] = []
    while waiting or links:
        if not waiting:
            links.sort(key=lambda link: os.fsencode(link[0]), reverse=True)
            waiting.append(links.pop())
        prefix, place = waiting.pop()
        identity = identity_of(place)
        if identity is not None:
            if identity in refused or identity in entered:
                left_out.counts[refused.get(identity, "link to a folder that is read already")] += 1
                continue
            entered.add(identity)
        folders: list[tuple[str, str]] = []
        for entry in _entries_of(place, left_out):
            if is_hidden(entry.name):
                left_out.add_hidden(entry.name)
                continue
            kind = _kind_of_entry(entry)
            if kind == "folder":
                (links if entry.is_symlink() else folders).append((f"{prefix}{entry.name}/", entry.path))
            elif kind != "file":
                left_out.counts[kind] += 1
            elif suffixes is not None and os.path.splitext(entry.name)[1].lower() not in suffixes:  # noqa: PTH122
                left_out.add_file(entry.name)
            else:
                yield WalkedFile(prefix + entry.name, entry)
        waiting.extend(reversed(folders))


def _entries_of(folder: str, left_out: LeftOut) -> list[os.DirEntry[str]]:
    """What is in a folder, by the bytes of the names; nothing, and a problem, where it cannot be read."""
    try:
        with os.scandir(folder) as scan:
            return sorted(scan, key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        left_out.problems.append(f"{shown(folder)}: cannot be searched: {error.strerror or error}")
        return []


def _kind_of_entry(entry: os.DirEntry[str]) -> str:
    """`folder`, `file`, or the plural of what else it is."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
        mode = entry.stat().st_mode
    except OSError:  # a link to nothing or to itself
        return "file"
    return kind_of_file(mode).removeprefix("a ")
