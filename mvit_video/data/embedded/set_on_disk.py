"""What embedded sets share: one process writes a set, and a set made from other options is not taken for this one."""

import argparse
import fcntl
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mvit_video.runtime.files import replacing

logger = logging.getLogger(__name__)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file beside its place and rename it."""
    with replacing(path, per_process=True) as beside:
        beside.write_bytes(content)


def check_size(spec: object, names: Sequence[str], *, step: int, why: str) -> None:
    """Refuse numbers of files that do not divide among the classes, and a negative seed.

    Args:
        spec: what determines the set; has `seed` and the fields `names`.
        names: of the numbers of files.
        step: each must be a positive multiple of it.
        why: "for 4 classes with equally many images".

    Raises:
        ValueError: with the nearest number that will do.
    """
    for name in names:
        count = getattr(spec, name)
        if count <= 0 or count % step:
            near = max(step, round(count / step) * step)
            raise ValueError(f"{name}={count} must be a positive multiple of {step}, {why}; use {name}={near}")
    seed = getattr(spec, "seed")  # noqa: B009 - of any spec
    if seed < 0:
        raise ValueError(f"seed={seed} must not be negative")


def check_same(root: Path, name: str, *, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Refuse a set that was made from another spec or by another version of the generator.

    Args:
        root: folder of the set.
        name: of the kind of set.
        wanted, found: what determines it.

    Raises:
        ValueError: they differ.
    """
    different = [
        f"{key} {found.get(key)} (asked for: {value})" for key, value in wanted.items() if found.get(key) != value
    ]
    if different:
        raise ValueError(
            f"{root} holds another {name} set, with {', '.join(different)}; give another directory or delete {root}"
        )


def lacking(
    root: Path, name: str, *, version: int, spec: Any, missing: Callable[[Mapping[str, Any]], str | None]
) -> str | None:
    """What keeps a folder from holding this very set, whole; None if nothing does.

    Args:
        root: folder of the set, with its record `<name>.json`.
        name: of the kind of set.
        version: of its generator.
        spec: what determines it, a dataclass.
        missing: the first file of a record that is not there as it was written.

    Raises:
        ValueError: the folder holds another set.
    """
    record = f"{name}.json"
    try:
        content = json.loads((root / record).read_bytes())
    except FileNotFoundError:
        return f"no {record}"
    except json.JSONDecodeError:
        return f"{record} is damaged"
    found = {"generator version": content.get("version"), **content.get("spec", {})}
    check_same(root, name, wanted={"generator version": version, **asdict(spec)}, found=found)
    path = missing(content)
    return None if path is None else f"{path} is missing or damaged"


def first_missing(content: Mapping[str, Any], root: Path, folders: Sequence[str]) -> str | None:
    """The first of `content["bytes"]` that does not have its size; `folders` hold all of its files."""
    sizes: dict[str, int] = {}
    for folder in folders:
        if (root / folder).is_dir():
            with os.scandir(root / folder) as entries:
                sizes.update({f"{folder}/{entry.name}": entry.stat().st_size for entry in entries})
    return next((path for path, size in content["bytes"].items() if sizes.get(path) != size), None)


def image_set_command(
    name: str, spec: type[Any], generate: Callable[[Path, Any], object], arguments: Sequence[str] | None
) -> None:
    """Command line of an embedded set of images: generate it into a directory.

    Args:
        name: of the set, and of its module.
        spec: a dataclass with `train_images`, `test_images` and `seed`.
        generate: writes the set.
        arguments: words of the command line; None: those of this process.
    """
    default = spec()
    parser = argparse.ArgumentParser(
        prog=f"python -m mvit_video.data.embedded.{name}", description=f"Write the embedded data set `{name}`."
    )
    parser.add_argument("out", type=Path, help="directory of the set")
    parser.add_argument("--train-images", type=int, default=default.train_images, help="default %(default)s")
    parser.add_argument("--test-images", type=int, default=default.test_images, help="default %(default)s")
    parser.add_argument("--seed", type=int, default=default.seed, help="default %(default)s")
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        generate(args.out, spec(train_images=args.train_images, test_images=args.test_images, seed=args.seed))
    except ValueError as error:
        parser.error(str(error))


@contextmanager
def only_writer(lock_file: Path) -> Iterator[None]:
    """Hold the lock of a set; the system frees it when its holder dies, however it dies."""
    with lock_file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("another process is writing %s; waiting for it", lock_file.parent)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
