"""The code a job runs: a copy made at submission, which edits made while the job waits do not reach."""

import hashlib
import os
import shutil
from pathlib import Path


def snapshot(folder: Path) -> Path:
    """Copy the package and its conf/ to `folder`/<hash of the files>, absolute; equal code is kept once."""
    package = Path(__file__).resolve().parents[1]
    sources = [(path, Path("mvit_video") / path.relative_to(package)) for path in _files(package)]
    if not (package / "conf").is_dir() and (package.parent / "conf").is_dir():
        conf = package.parent / "conf"
        sources += [(path, Path("conf") / path.relative_to(conf)) for path in _files(conf)]
    digest = hashlib.sha256()
    for path, name in sorted(sources, key=lambda pair: str(pair[1])):
        digest.update(str(name).encode() + b"\0" + path.read_bytes())
    target = folder.absolute() / digest.hexdigest()[:16]
    if target.is_dir():
        return target
    beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    for path, name in sources:
        (beside / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, beside / name)
    os.replace(beside, target)
    return target


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
