"""What the model sees, for people: samples as contact sheets, with a page that lists them.

A task makes the items (tasks/clip_preview.py), at the last point before the model; this module draws them.
"""

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from mvit_video.engine.contact_sheet import (
    Pictures,
    Row,
    Sheet,
    boxed_letters,
    columns_that_fit,
    enlarged,
    enlargement,
    frame_durations,
    printable,
    save_animation,
    save_picture,
    shorten,
    spread,
)
from mvit_video.runtime.files import write_text

logger = logging.getLogger(__name__)

ROWS_PER_SHEET = 8
INDEX_TITLE = "# What the model sees:"
Kind = Literal["train", "test"]


@dataclass(frozen=True)
class Item:
    """A sample as the model gets it, and what is known about it.

    Attributes:
        title: what it is: class and, for mixed samples, the shares; or class and view.
        target: what the model's answer is compared with (training), classes and values; else the class.
        path: its file.
        position: where in the run or the split it is.
        pictures: uint8 (T, H, W, 3); None if the file could not be read.
        frames: number in the file of each picture; empty if not known.
        fps: of the file; 0 if not known.
        total: frames of the file; 0 if not known.
        mixed_with: file that the rest of a mixed sample comes from.
        problem: why the file could not be read.
    """

    title: str
    target: str
    path: str
    position: str
    pictures: Pictures | None
    frames: tuple[int, ...] = ()
    fps: float = 0.0
    total: int = 0
    mixed_with: str = ""
    problem: str = ""

    @property
    def extent(self) -> str:
        """The stretch of the file that it covers, in words."""
        if not self.frames:
            return ""
        first, last = min(self.frames), max(self.frames)
        return f"frames {first} to {last} of {self.total}, {self.fps:.4g} frames/s"


@dataclass(frozen=True, kw_only=True)
class Look:
    """How samples become pictures.

    Attributes:
        frames: pictures per row; None: as many as fit.
        scale: whole factor of enlargement; None: chosen for the size of the samples.
        animate: write each sample as an animated picture, too.
    """

    frames: int | None = None
    scale: int | None = None
    animate: bool = False


@dataclass(frozen=True)
class Section:
    """Samples that are shown together.

    Attributes:
        kind: "train" or "test", the beginning of the files' names.
        heading: above each sheet.
        about: further lines there.
        items: what is shown.
        failures: (path, reason) of files that could not be read.
        item: what the set is a set of, in the singular, for texts.
    """

    kind: Kind
    heading: str
    about: Sequence[str]
    items: Sequence[Item]
    failures: Sequence[tuple[str, str]] = ()
    item: str = "file"


def write_preview(folder: Path, sections: Sequence[Section], *, title: str, options: str, look: Look) -> list[Path]:
    """Write sheets, animations and index.md, each beside its place and renamed; the files, the index last.

    Sheets and animations that an earlier index in the folder lists and this one does not are removed.

    Args:
        folder: made if it is not there.
        sections: what to show.
        title: of the index.
        options: YAML text for the index.
        look: how to show it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _warn_of_missing_glyphs(sections)
    earlier = _files_of(folder / "index.md")
    lines = [f"{INDEX_TITLE} {escaped(title)}", ""]
    written: list[Path] = []
    for section in sections:
        files, text = _write_section(folder, section, look)
        written += files
        lines += text
    lines += ["## Options", "", "```yaml", options.rstrip("\n"), "```", ""]
    write_text(folder / "index.md", "\n".join(lines))
    for name in earlier - {path.name for path in written}:
        (folder / name).unlink(missing_ok=True)
    return [*written, folder / "index.md"]


def _warn_of_missing_glyphs(sections: Sequence[Section]) -> None:
    missing = boxed_letters(text for section in sections for item in section.items for text in (item.title, item.path))
    if missing:
        logger.warning(
            "no installed font has %s: the sheets show boxes for these letters, index.md has them. A font that covers "
            "many languages, such as Noto Sans CJK, is found once it is installed",
            shorten(missing, 20),
        )


def _files_of(index: Path) -> set[str]:
    """Names of the sheets and animations that an index of ours lists."""
    if not index.is_file():
        return set()
    text = index.read_text(encoding="utf-8", errors="replace")
    if not text.startswith(INDEX_TITLE):
        return set()
    return set(re.findall(r"\]\(((?:train|test)_(?:clip_)?\d+\.(?:png|webp))\)", text))


def _write_section(folder: Path, section: Section, look: Look) -> tuple[list[Path], list[str]]:
    """Write a section's files; they, and its lines of the index."""
    lines = [f"## {escaped(section.heading)}", "", *(f"{escaped(line)}  " for line in section.about), ""]
    written: list[Path] = []
    pages = paginate(section.items, ROWS_PER_SHEET)
    number = 0
    for page, items in enumerate(pages, start=1):
        path = folder / f"{section.kind}_{page:02d}.png"
        heading = section.heading if len(pages) == 1 else f"{section.heading}  ·  sheet {page} of {len(pages)}"
        notes = failure_notes(section) if page == len(pages) else []
        save_picture(make_sheet(items, heading=heading, about=section.about, notes=notes, look=look).draw(), path)
        written.append(path)
        lines += [f"![{section.heading}, sheet {page}]({path.name})", "", *_table_head(section)]
        for row, item in enumerate(items, start=1):
            number += 1
            animation = None
            if look.animate and item.pictures is not None:
                animation = folder / f"{section.kind}_clip_{number:02d}.webp"
                _animate(item, animation, look)
                written.append(animation)
            lines.append(_table_row(row, item, animation, frames=_has_frames(section)))
        lines.append("")
    if section.failures:
        lines += ["Could not be read:", ""]
        lines += [f"- {code(path)}: {escaped(reason)}" for path, reason in section.failures] + [""]
    return written, lines


def paginate(items: Sequence[Item], rows: int) -> list[list[Item]]:
    """Clips in sheets of `rows` at most; the views of one video stay together where a sheet holds them all."""
    groups: list[list[Item]] = []
    for item in items:
        if groups and item.problem == "" and groups[-1][-1].path == item.path:
            groups[-1].append(item)
        else:
            groups.append([item])
    pages: list[list[Item]] = []
    for group in groups:
        if pages and len(pages[-1]) + len(group) <= rows:
            pages[-1] += group
        else:
            pages += [group[start : start + rows] for start in range(0, len(group), rows)]
    return pages


def failure_notes(section: Section) -> list[str]:
    """Lines at the foot of a section's last sheet. Test files that failed have rows of their own."""
    if section.kind == "test" or not section.failures:
        return []
    shown = [f"{shorten(path, 80)}: could not be read: {reason}" for path, reason in section.failures[:10]]
    more = len(section.failures) - len(shown)
    ending = [f"... and {more} more, see index.md"] if more else []
    return [f"Replaced by other {section.item}s of the split, as in training:", *shown, *ending]


def make_sheet(items: Sequence[Item], *, heading: str, about: Sequence[str], notes: Sequence[str], look: Look) -> Sheet:
    """The sheet of a page of items, all of the same size."""
    shape = next((item.pictures.shape for item in items if item.pictures is not None), (1, 1, 1, 3))
    enlarge = look.scale or enlargement(min(shape[1:3]))
    columns = min(shape[0], look.frames or columns_that_fit(shape[2] * enlarge))
    return Sheet(
        heading=heading,
        about=about,
        rows=[_row(item, spread(shape[0], columns)) for item in items],
        notes=notes,
        columns=columns,
        enlarge=enlarge,
    )


def _row(item: Item, columns: Sequence[int]) -> Row:
    source = shorten(item.path, 110)
    if item.mixed_with:
        source += f"  ·  mixed with {shorten(os.path.basename(item.mixed_with), 60)}"
    details = "  ·  ".join(part for part in (item.extent, item.position) if part)
    marks = [str(item.frames[column]) for column in columns] if item.frames else []
    pictures = None if item.pictures is None else item.pictures[np.array(columns)]
    return Row((item.title, source, details), pictures, marks, item.problem)


def _animate(item: Item, path: Path, look: Look) -> None:
    assert item.pictures is not None
    factor = look.scale or enlargement(min(item.pictures.shape[1:3]))
    big = np.stack([enlarged(picture, factor) for picture in item.pictures])
    pace = frame_durations(item.frames, item.fps) if item.frames else [100] * len(big)
    save_animation(big, path, milliseconds=pace)


def _has_frames(section: Section) -> bool:
    """Whether numbers of frames are known of anything in it; images have none."""
    return any(item.frames for item in section.items)


def _table_head(section: Section) -> list[str]:
    columns = ["row", "class", "target", "file", *(["frames"] if _has_frames(section) else []), "where"]
    return [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]


def _table_row(row: int, item: Item, animation: Path | None, *, frames: bool) -> str:
    number = str(row) if animation is None else f"[{row}]({animation.name})"
    file = code(item.path)
    if item.mixed_with:
        file += f", mixed with {code(item.mixed_with)}"
    title = escaped(item.title) if item.pictures is not None else f"{escaped(item.title)}: **could not be read**"
    shown = f"{item.extent}: {', '.join(map(str, item.frames))}" if item.frames else ""
    cells = [number, title, escaped(item.target), file, *([shown] if frames else []), escaped(item.position)]
    return f"| {' | '.join(cells)} |"


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, in a table too."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", printable(text))


def code(text: str) -> str:
    """A path as code; a backquote or a bar in it would end the code or the cell."""
    return "`" + printable(text).replace("`", "'").replace("|", r"\|") + "`"
