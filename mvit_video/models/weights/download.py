"""Downloads that are resumed, checked, renamed when whole, and done once however many processes ask."""

import contextlib
import errno
import http.client
import json
import logging
import os
import re
import shutil
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

from mvit_video.models.weights.cache import Expected, part_of, record_of, sha256_of
from mvit_video.models.weights.files import CheckpointError
from mvit_video.models.weights.progress import Progress
from mvit_video.runtime.formatting import size_text

try:
    import fcntl
except ModuleNotFoundError:  # not on Windows: there every process fetches on its own
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

_CHUNK = 1 << 18
_TIMEOUT_S = 30.0
_ATTEMPTS = 5  # that bring nothing new, before it is given up
_ATTEMPTS_UNREACHED = 2  # the same, as long as there was no answer yet: most often there is no network
_LONGEST_PAUSE_S = 30.0
_TEMPORARY = (408, 425, 429, 500, 502, 503, 504)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")


class DownloadError(CheckpointError):
    """A file could not be fetched; the text says why, and which file to put where."""


class _TryAgainError(Exception):
    """A request that failed and may succeed later."""


class _UnreachableError(_TryAgainError):
    """There was no answer at all."""


@dataclass(frozen=True, kw_only=True)
class _Begun:
    """What is known of a download that was begun: asked again, the server must have the same file."""

    url: str
    total: int | None = None
    validator: str | None = None


def download(url: str, target: Path, *, expected: Expected, name: str, pause_s: float = 1.0) -> None:
    """Fetch a file to `target`, unless another process has done so meanwhile.

    What arrives is kept beside the target, with the ending .part, until it is whole and has the published size and
    hash; then it is renamed. A cut connection is taken up where it broke off, also by a later call, if the server
    sends parts of files and still has the same one; else it begins anew. One process fetches, others wait for it.

    Args:
        url: http or https; redirects are followed.
        target: the file to make.
        expected: what is published about it.
        name: of the weights, for messages.
        pause_s: before the second attempt in a row that brings nothing; doubled from then on.

    Raises:
        DownloadError: the server cannot be reached or has no such file, another file arrived, or it cannot be written.
    """
    place = _Place(url=url, target=target, name=name)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(target, name) as alone:
            if target.exists():
                return
            part = part_of(target)
            if not alone:  # others may fetch it, too: each to a file of its own, which cannot be taken up later
                part = part.with_name(f"{target.name}.{socket.gethostname()}.{os.getpid()}.part")
            logger.info("%s: fetching %s to %s", name, place.shown_url, target)
            try:
                _receive(place, part, expected=expected, pause_s=pause_s)
                _check(place, part, expected=expected)
                os.replace(part, target)
                _discard(part)
            finally:
                if not alone:
                    _discard(part)
    except OSError as error:  # of the files: those of the network are DownloadErrors by now
        raise DownloadError(_unwritable(place, error)) from error


@dataclass(frozen=True, kw_only=True)
class _Place:
    """From where to where, for messages."""

    url: str
    target: Path
    name: str

    @property
    def shown_url(self) -> str:
        """Without its query, which may be a secret."""
        return self.url.partition("?")[0].partition("#")[0]

    def error(self, what: str) -> DownloadError:
        return DownloadError(
            f"{self.name}: {self.shown_url} {what}. Fetch it where there is a network and put it at {self.target}, or "
            "give the path of a file that you have; TORCH_HOME=FOLDER moves the cache"
        )


def _receive(place: _Place, part: Path, *, expected: Expected, pause_s: float) -> None:
    """Fill the part until it is whole; requests that bring something new may be as many as it takes."""
    most, fruitless, reached = _size(part), 0, False
    while True:
        try:
            _request(place, part, expected)
            return
        except _TryAgainError as failure:
            reached = reached or not isinstance(failure, _UnreachableError)
            fruitless = 0 if _size(part) > most else fruitless + 1
            most = max(most, _size(part))
            if fruitless >= (_ATTEMPTS if reached else _ATTEMPTS_UNREACHED):
                kept = f"; {size_text(_size(part))} have arrived and are kept for the next time" if _size(part) else ""
                raise place.error(f"cannot be fetched ({failure}, {fruitless} times in a row){kept}") from failure
            logger.warning("%s: %s; trying again at byte %d", place.name, failure, _size(part))
        time.sleep(min(_LONGEST_PAUSE_S, pause_s * 2**fruitless))


def _request(place: _Place, part: Path, expected: Expected) -> None:
    """Ask once for what is missing, and write it.

    Raises:
        _TryAgainError: the connection failed or broke off.
        DownloadError: asking again would be no use.
    """
    have, begun = _size(part), _read_begun(part)
    if begun is None or begun.url != place.url or have == 0:
        have, begun = 0, None
    elif have == begun.total:
        return
    request = urllib.request.Request(place.url, headers={"User-Agent": "mvit_video", "Accept-Encoding": "identity"})
    if begun is not None:
        request.add_header("Range", f"bytes={have}-")
        if begun.validator is not None:
            request.add_header("If-Range", begun.validator)
    try:
        response = _open(request)
    except urllib.error.HTTPError as error:
        _explain(error, place, part, have)
        return
    with response:
        if response.status == 206 and begun is not None:
            total = _total_of_part(response, have, begun, part)
        else:
            have, total = 0, _total_of_whole(response, place)
        _check_room(place, part, total, have, expected)
        _write_begun(part, _Begun(url=place.url, total=total, validator=_validator(response)))
        _copy(response, part, have=have, total=total, name=place.name)


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but not from https to http, where anybody on the way could give another file."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if req.type == "https" and not newurl.lower().startswith("https:"):
            raise urllib.error.HTTPError(newurl, code, "a redirect from https to an unsafe address", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(request: urllib.request.Request) -> http.client.HTTPResponse:
    """The answer to a request.

    Raises:
        HTTPError: the server refuses.
        _UnreachableError: there is none.
    """
    try:
        response: http.client.HTTPResponse = urllib.request.build_opener(_SafeRedirects).open(
            request, timeout=_TIMEOUT_S
        )
    except urllib.error.HTTPError:
        raise
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise _UnreachableError(f"no answer: {reason}") from error
    return response


def _explain(error: urllib.error.HTTPError, place: _Place, part: Path, have: int) -> None:
    """What an answer other than the file means; returns where the part turns out to be whole."""
    status = f"HTTP {error.code} {error.reason}"
    if error.code == 416:  # nothing follows what is there already
        found = _CONTENT_RANGE.fullmatch(error.headers.get("Content-Range", ""))
        if found is not None and found[2] == str(have):
            return
        _discard(part)
        raise _TryAgainError(f"{status}: what was there is not the beginning of its file") from error
    if error.code in _TEMPORARY:
        raise _TryAgainError(status) from error
    gone = "is not there any more" if error.code in (404, 410) else "is refused"
    raise place.error(f"{gone} ({status})") from error


def _total_of_part(response: http.client.HTTPResponse, have: int, begun: _Begun, part: Path) -> int | None:
    found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    total = int(found[2]) if found is not None and found[2] != "*" else None
    if found is None or found[1] != str(have) or (begun.total is not None and total != begun.total):
        _discard(part)
        raise _TryAgainError("the server has another file than the one that was begun")
    return total


def _total_of_whole(response: http.client.HTTPResponse, place: _Place) -> int | None:
    if response.headers.get_content_type() == "text/html":
        raise place.error("gives a page for browsers, not a file")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise place.error(
            f"comes with Content-Encoding {response.headers['Content-Encoding']}, which was not asked for"
        )
    length = response.headers.get("Content-Length")
    return int(length) if length is not None and length.isdigit() else None


def _check_room(place: _Place, part: Path, total: int | None, have: int, expected: Expected) -> None:
    if total is None:
        return
    wrong = expected.wrong_size(total)
    if wrong is not None:
        _discard(part)
        raise place.error(f"is another file than the published one: {wrong}")
    free = shutil.disk_usage(part.parent).free
    if free < total - have:
        raise DownloadError(
            f"{place.name}: {size_text(total - have)} are to be fetched, and {part.parent} has room for "
            f"{size_text(free)}: make room there, or TORCH_HOME=FOLDER moves the cache"
        )


def _copy(response: http.client.HTTPResponse, part: Path, *, have: int, total: int | None, name: str) -> None:
    """Write what arrives behind the first `have` bytes.

    Raises:
        _TryAgainError: less arrived than was announced.
        OSError: it cannot be written.
    """
    with open(part, "r+b" if have else "wb", buffering=0) as file, Progress(name, have=have, total=total) as progress:
        file.truncate(have)
        file.seek(have)
        while chunk := _read(response):
            _write(file, chunk)
            have += len(chunk)
            progress.show(have)
        os.fsync(file.fileno())
    if total is None:
        logger.warning("%s: the server does not say how long the file is: %s arrived", name, size_text(have))
    elif have != total:
        raise _TryAgainError(f"the connection broke off after {have:,} of {total:,} bytes")


def _read(response: http.client.HTTPResponse) -> bytes:
    """Some of what has arrived; b"" at the end."""
    try:
        return response.read1(_CHUNK)
    except (OSError, http.client.HTTPException) as error:  # a time-out, a reset, a chunk that ends too early
        raise _TryAgainError(f"the connection broke off: {error}") from error


def _write(file: BinaryIO, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[file.write(view) :]


def _check(place: _Place, part: Path, *, expected: Expected) -> None:
    """Refuse what is not the published file, or not the one that was fetched before; it is removed.

    Raises:
        DownloadError: it is another file.
    """
    wrong = expected.wrong_size(_size(part)) or expected.wrong_hash(sha256_of(part))
    if wrong is not None:
        _discard(part)
        raise place.error(f"is another file than the published one, and was removed: {wrong}")
    record = record_of(place.target)
    if record.is_file():
        before = json.loads(record.read_text(encoding="utf-8")).get("sha256")
        if before != sha256_of(part):
            now = sha256_of(part)
            _discard(part)
            raise place.error(
                f"has another file than when it was first fetched, and it was removed: its SHA-256 is {now}, and was "
                f"{before} ({record}; remove that if the new file is right)"
            )


@contextlib.contextmanager
def _alone(target: Path, name: str) -> Iterator[bool]:
    """Wait until no other process fetches this file; False where the file system has no locks."""
    lock = target.with_name(f"{target.name}.lock")
    with contextlib.ExitStack() as stack:
        while True:
            file = stack.enter_context(open(lock, "ab"))
            if not _take(file, lock, name):
                lock.unlink(missing_ok=True)
                yield False
                return
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), os.stat(lock)):
                    break
            file.close()  # whoever had it has removed it, and somebody may have made a new one
        try:
            yield True
        finally:
            lock.unlink(missing_ok=True)


def _take(file: BinaryIO, lock: Path, name: str) -> bool:
    if fcntl is None:
        return False
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("%s: another process fetches it; waiting (%s)", name, lock)
            fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def _unwritable(place: _Place, error: OSError) -> str:
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        part = part_of(place.target)
        return (
            f"{place.name}: {place.target.parent} is full ({reason}); {size_text(_size(part))} are kept in {part.name} "
            "for the next time. Make room there, or TORCH_HOME=FOLDER moves the cache"
        )
    return (
        f"{place.name}: {place.target} cannot be written ({reason}). TORCH_HOME=FOLDER moves the cache to "
        f"a folder that can be, or have somebody put {place.shown_url} there"
    )


def _begun_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_begun(part: Path) -> _Begun | None:
    """What is known of the part; None if there is nothing that can be trusted, and it begins anew."""
    try:
        return _Begun(**json.loads(_begun_file(part).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _write_begun(part: Path, begun: _Begun) -> None:
    _begun_file(part).write_text(json.dumps(vars(begun)), encoding="utf-8")


def _validator(response: http.client.HTTPResponse) -> str | None:
    """What tells this file from a later one of that URL; a weak ETag does not tell bytes apart."""
    tag = response.headers.get("ETag")
    return tag if tag is not None and not tag.startswith("W/") else response.headers.get("Last-Modified")


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _begun_file(part).unlink(missing_ok=True)


def _size(part: Path) -> int:
    try:
        return part.stat().st_size
    except FileNotFoundError:
        return 0
