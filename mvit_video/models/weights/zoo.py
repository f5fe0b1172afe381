"""Published weights by name: what is known of each file, and from a name, a URL or a path to a file on this machine."""

import difflib
import functools
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from mvit_video.models.weights.cache import Expected, cache_folder, check
from mvit_video.models.weights.download import DownloadError, download

_SUFFIXES = (".pt", ".pth", ".pyth", ".pkl", ".bin", ".ckpt", ".safetensors", ".shards", ".onnx", ".pt2")
_TORCHVISION_ROUNDING = 525  # bytes: half of 0.001 MiB, to which torchvision rounds the sizes of its files


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What is known of a published file of weights.

    Attributes:
        name: under which it is asked for.
        url: where it is; None for files that are to be fetched by hand, from `page`.
        file: its name in the cache.
        publisher: who made it public.
        source: page that says so.
        licence: as stated, and of what.
        task: what its head does; "pretraining" has none to use.
        page: where a browser finds a file without `url`.
        size: bytes, if published.
        parameters: of the model, if published.
        sha256: all or the first of its hexadecimal digits, if published.
        accuracy: as published: "top1", "top5", "box_ap", "mask_ap" in per cent, "views" (temporal x spatial) and
            "measured_by".
        model: the preset that the weights are of (see list_models).
        experiment: the recipe that has their options: `+experiment=...`.
        classes: which list of class names is in the order of the head: "kinetics_400", "kinetics_600",
            "something_something_v2", "imagenet_1k" or "coco_2017"; None where nobody published one.
        preprocessing: of test inputs, by the names of the options data.*: num_frames, sampling, sampling_rate,
            target_fps, test_short_side, crop_size, mean, std, channel_order, test_temporal_views, test_spatial_views.
        note: what one should know besides.
    """

    name: str
    url: str | None
    file: str
    publisher: str
    source: str
    licence: str
    task: Literal["video", "image", "detection", "pretraining"]
    page: str | None = None
    size: int | None = None
    parameters: int | None = None
    sha256: str | None = None
    accuracy: Mapping[str, Any] = field(default_factory=dict)
    model: str | None = None
    experiment: str | None = None
    classes: str | None = None
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    note: str | None = None

    @property
    def path(self) -> Path:
        """Where the file is, or would be, in the cache."""
        return cache_folder() / self.file

    @property
    def expected(self) -> Expected:
        """What is published about the bytes of the file."""
        return Expected(size=self.size, size_rounding=_TORCHVISION_ROUNDING, sha256=self.sha256)


@dataclass(frozen=True, kw_only=True)
class ResolvedWeights:
    """A file of weights on this machine.

    Attributes:
        path: the file; the path as given for what is neither a name nor a URL, whether it exists or not.
        entry: what is known of it, if it was asked for by the name or the URL of published weights.
    """

    path: Path
    entry: Entry | None = None


@functools.cache
def zoo() -> Mapping[str, Entry]:
    """All published weights that are known, by name."""
    content = json.loads(files("mvit_video.models.weights").joinpath("zoo.json").read_text(encoding="utf-8"))
    return {
        name: Entry(name=name, **{**known, "preprocessing": content["preprocessing"][known["preprocessing"]]})
        for name, known in content["weights"].items()
    }


def is_published(source: str) -> bool:
    """Whether it is the name of published weights, or a URL: something that may have to be fetched."""
    return source in zoo() or "://" in source


def resolve(source: str | os.PathLike[str]) -> ResolvedWeights:
    """The file that a name, a URL or a path means, fetched into the cache if it is not there.

    Names are those of :func:`zoo`; whatever else has a separator or the ending of a file of weights, or exists, is a
    path. Only a string can be a name or a URL. The cache is torch.hub's folder of checkpoints, so that TORCH_HOME moves
    it. A fetched file is checked against its published size and hash at each use, and against the hash it had when it
    was first used. Processes that ask at once fetch once.

    Raises:
        ValueError: an unknown name (the nearest is named), a URL of another kind than http and https, or a name that
            is that of a file or folder here, too.
        DownloadError: it cannot be fetched; the message says which file to put where.
        CheckpointError: the file in the cache is not the published one, or has changed.
    """
    if not isinstance(source, str):
        return ResolvedWeights(path=Path(source))
    if "://" in source:
        return _of_url(source)
    entry = zoo().get(source)
    if entry is not None:
        if os.path.lexists(source):
            raise ValueError(
                f"{source} is the name of published weights, and {Path(source).resolve()} exists, too: write "
                f"{os.path.join('.', source)} for that, or rename it"
            )
        return ResolvedWeights(path=_fetched(entry), entry=entry)
    if looks_like_a_path(source):
        return ResolvedWeights(path=Path(source))
    raise ValueError(unknown_name(source))


def unknown_name(name: str) -> str:
    """What to say of a name that nothing has, with the nearest ones."""
    known = list(zoo())
    near = difflib.get_close_matches(name.lower(), known, n=3)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return (
        f"{name}: there is no such file, folder or published weights; {hint}`python -m mvit_video.weights` lists all "
        f"names; relative paths are taken from {Path.cwd()}"
    )


def looks_like_a_path(source: str) -> bool:
    """Whether a text means a file or a folder, and no name of published weights."""
    separators = [os.sep, *([os.altsep] if os.altsep else [])]
    return (
        any(separator in source for separator in separators)
        or source.endswith(_SUFFIXES)
        or source in (".", "..")
        or os.path.lexists(source)
    )


def _fetched(entry: Entry) -> Path:
    path = entry.path
    if not path.exists():
        if entry.url is None:
            note = f" {entry.note}" if entry.note else ""
            raise DownloadError(
                f"{entry.name} is published on a page for browsers alone: fetch it from {entry.page} and put it at "
                f"{path}.{note}"
            )
        download(entry.url, path, expected=entry.expected, name=entry.name)
    check(path, expected=entry.expected, name=entry.name, url=entry.url or entry.page)
    return path


def _of_url(url: str) -> ResolvedWeights:
    entry = next((entry for entry in zoo().values() if entry.url == url), None)
    if entry is not None:
        return ResolvedWeights(path=_fetched(entry), entry=entry)
    if urlsplit(url).scheme.lower() not in ("http", "https"):
        raise ValueError(f"{url}: only http and https can be fetched; give the path of a file on this machine")
    path = cache_folder() / file_of_url(url)
    name = path.name
    if not path.exists():
        download(url, path, expected=Expected(), name=name)
    check(path, expected=Expected(), name=name, url=without_query(url))
    return ResolvedWeights(path=path)


def file_of_url(url: str) -> str:
    """The name in the cache of what a URL leads to: two URLs never have the same, whatever their files are called."""
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    plain = re.sub(r"[^\w.+-]", "_", name)[-100:].lstrip(".") or "weights"
    stem, dot, suffix = plain.rpartition(".")
    number = hashlib.sha256(url.encode()).hexdigest()[:8]
    return f"{stem}_{number}.{suffix}" if dot and stem else f"{plain}_{number}"


def without_query(url: str) -> str:
    """The URL without what may be a secret: its query."""
    return urlsplit(url)._replace(query="", fragment="").geturl()
