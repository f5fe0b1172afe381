"""Published weights and what of them is here: `python -m mvit_video.weights [NAME...]`, `--fetch NAME...`."""

import argparse
import fnmatch
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mvit_video.models.weights.cache import RECORD_ENDING, cache_folder, state_of
from mvit_video.models.weights.zoo import Entry, resolve, unknown_name, zoo
from mvit_video.runs import Column, render
from mvit_video.runtime.formatting import count_text, size_text
from mvit_video.runtime.output import write_out

_STATES = {
    "absent": "",
    "partial": "begun",
    "present": "here",
    "damaged": "not the published file",
    "changed": "changed since its first use",
}


@dataclass(frozen=True)
class Listed:
    """Published weights, and what the cache has of them (see cache.state_of)."""

    entry: Entry
    state: str

    @classmethod
    def of(cls, entry: Entry) -> "Listed":
        """As it is now."""
        return cls(entry, state_of(entry.path, expected=entry.expected))


_COLUMNS = (
    Column("name", lambda item: item.entry.name),
    Column("task", lambda item: item.entry.task, optional=1),
    Column("accuracy", lambda item: accuracy_text(item.entry.accuracy)),
    Column("size", lambda item: entry_size(item.entry), right=True, optional=2),
    Column("from", lambda item: item.entry.publisher, optional=4),
    Column("hash", lambda item: "published" if item.entry.sha256 else "", optional=5),
    Column("model", lambda item: item.entry.model or "", optional=6),
    Column("cache", lambda item: _STATES[item.state]),
)


def accuracy_text(accuracy: Mapping[str, Any]) -> str:
    """ "81.0 top-1 (5x1)", "48.3 box AP", or nothing."""
    if "top1" in accuracy:
        return f"{round(accuracy['top1'], 2)} top-1" + (f" ({accuracy['views']})" if "views" in accuracy else "")
    return f"{accuracy['box_ap']} box AP" if "box_ap" in accuracy else ""


def entry_size(entry: Entry) -> str:
    """The published size of the file, or what its parameters take in float32, marked by "~"; nothing if unknown."""
    if entry.size is not None:
        return size_text(entry.size)
    return f"~{size_text(4 * entry.parameters)}" if entry.parameters else ""


def chosen(words: Sequence[str]) -> list[Entry]:
    """The entries that have one of these names, or match one of these patterns or parts of names; all without words.

    Raises:
        ValueError: a word fits none; the nearest names are named.
    """
    known = zoo()
    found: dict[str, Entry] = {} if words else dict(known)
    for word in words:
        fitting = [word] if word in known else [name for name in known if fnmatch.fnmatch(name, f"*{word}*")]
        if not fitting:
            raise ValueError(unknown_name(word))
        found |= {name: known[name] for name in fitting}
    return list(found.values())


def fetch(names: Sequence[str]) -> str:
    """Fetch weights by name or URL; where each of them lies.

    Raises:
        ValueError, CheckpointError: see mvit_video.models.weights.resolve.
    """
    return "".join(f"{resolve(name).path}\n" for name in names)


def table(items: Sequence[Listed], *, width: int, colours: bool) -> str:
    """One line for each, and what else is in the cache."""
    here = [item.entry.path for item in items if item.state == "present"]
    size = sum(path.stat().st_size for path in here)
    lines = [
        render(_COLUMNS, items, width=width, colours=colours),
        f"{count_text(len(items), 'file')}, {len(here)} of them here ({size_text(size)}), in {cache_folder()}\n",
    ]
    others = other_files()
    if others:
        lines.append("Fetched by a URL, and here, too:\n")
        lines += [f"  {path}, {size_text(path.stat().st_size)}, from {url}\n" for path, url in others]
    if any(entry_size(item.entry).startswith("~") for item in items):
        lines.append("~: not published; 4 bytes for each parameter\n")
    lines.append("--fetch NAME fetches, NAME alone shows all that is known\n")
    return "".join(lines)


def other_files() -> list[tuple[Path, str]]:
    """Files of the cache that were fetched by URLs of no known name, and the URLs."""
    known = {entry.file for entry in zoo().values()}
    records = sorted(cache_folder().glob(f"*{RECORD_ENDING}"))
    places = [(record, record.with_name(record.name.removesuffix(RECORD_ENDING))) for record in records]
    return [
        (path, json.loads(record.read_text(encoding="utf-8")).get("url") or "?")
        for record, path in places
        if path.name not in known and path.is_file()
    ]


def details(item: Listed) -> str:
    """All that is known of published weights, a line each."""
    facts = {key: value for key, value in asdict(item.entry).items() if value not in (None, {})}
    facts["accuracy"] = ", ".join(f"{key} {value}" for key, value in item.entry.accuracy.items())
    facts["preprocessing"] = ", ".join(f"{key}={value}" for key, value in item.entry.preprocessing.items())
    facts |= {"size": entry_size(item.entry), "cache": f"{item.entry.path} ({_STATES[item.state] or 'not here yet'})"}
    return "".join(f"{key + ':':<15} {value}\n" for key, value in facts.items() if value)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m mvit_video.weights",
        description="Published weights by name, to be given as weights= and checkpoint=, to from_checkpoint and "
        "create_model(pretrained=).",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="names, parts of names, or patterns; none: all")
    parser.add_argument("--fetch", action="store_true", help="fetch these names or URLs, and print where they are")
    parser.add_argument("--json", action="store_true", help="JSON instead of a table: one object for each")
    options = parser.parse_args(arguments)
    if options.fetch and not options.names:
        parser.error("--fetch needs the names of what is to be fetched")
    try:
        if options.fetch:
            text = fetch(options.names)
        else:
            items = [Listed.of(entry) for entry in chosen(options.names)]
            text = _shown(items, options)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return write_out(text, sys.stdout)


def _shown(items: Sequence[Listed], options: argparse.Namespace) -> str:
    if options.json:
        objects = ({**asdict(item.entry), "path": str(item.entry.path), "cache": item.state} for item in items)
        return "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in objects)
    if len(items) == 1 and items[0].entry.name in options.names:
        return details(items[0])
    colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    return table(items, width=shutil.get_terminal_size((80, 24)).columns, colours=colours)


if __name__ == "__main__":
    sys.exit(main())
