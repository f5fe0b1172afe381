"""The same bytes twice. Only files of equal size are read."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from mvit_video.video.location import VideoLocation

_CHUNK = 1 << 20


def content_keys(
    locations: Sequence[VideoLocation], *, threads: int, on_progress: Callable[[int], None]
) -> tuple[list[str], list[int]]:
    """What tells equal files apart from different ones.

    Args:
        locations: of the videos.
        threads: files read at a time.
        on_progress: called with 1 after each file that was read.

    Returns:
        A key for each video, equal for equal bytes and empty where no other has its size; and the places of those that
        were not compared: behind URLs, folders of pictures, files that cannot be read.
    """
    sizes: dict[int, list[int]] = defaultdict(list)
    skipped = []
    for place, location in enumerate(locations):
        size = _size(location)
        if size is None:
            skipped.append(place)
        else:
            sizes[size].append(place)
    # A file that is listed twice is read once.
    spans = {_span(locations[place]) for places in sizes.values() if len(places) > 1 for place in places}
    digests: dict[tuple[str, int, int | None], str] = {}

    def digest(span: tuple[str, int, int | None]) -> None:
        try:
            digests[span] = _digest(*span)
        except OSError:
            digests[span] = ""
        on_progress(1)

    with ThreadPoolExecutor(max(1, threads)) as pool:
        list(pool.map(digest, sorted(spans, key=str)))
    keys = [digests.get(_span(location), "") for location in locations]
    unreadable = [place for place, location in enumerate(locations) if digests.get(_span(location)) == ""]
    return keys, sorted({*skipped, *unreadable})


def _span(location: VideoLocation) -> tuple[str, int, int | None]:
    return location.url, location.start, location.size


def _size(location: VideoLocation) -> int | None:
    if location.remote or os.path.isdir(location.url):
        return None
    try:
        return os.stat(location.url).st_size - location.start if location.size is None else location.size
    except OSError:
        return None


def _digest(path: str, start: int, size: int | None) -> str:
    digest = hashlib.blake2b(digest_size=16)
    left = size
    with open(path, "rb") as file:
        file.seek(start)
        while left is None or left > 0:
            data = file.read(_CHUNK if left is None else min(left, _CHUNK))
            if not data:
                break
            digest.update(data)
            left = None if left is None else left - len(data)
    return digest.hexdigest()
