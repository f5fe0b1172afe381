"""Models on a hub: `push` puts one there with its page, `from_pretrained` takes one from there.

Both go through huggingface_hub (`pip install 'mvit_video[hub]'`), which has its own rules for tokens, caches and other
servers: HF_TOKEN, HF_HOME, HF_ENDPOINT. A local folder takes the place of a repository everywhere.
"""

import logging
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mvit_video.config import Predict

if TYPE_CHECKING:
    from mvit_video.models import MViT
    from mvit_video.models.detection import Detector

logger = logging.getLogger(__name__)

WEIGHTS = "model.safetensors"
CARD = "README.md"
_REPO = re.compile(r"[\w.-]+/[\w.-]+")
NEEDS_EXTRA = "pip install 'mvit_video[hub]'"


class HubError(RuntimeError):
    """A hub could not be reached, or did not do what was asked."""


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """What was put where.

    Attributes:
        place: address of the commit, or the folder.
        files: names of the files there.
    """

    place: str
    files: tuple[str, ...]


def push(
    config: Predict,
    repo: str,
    *,
    also: Sequence[Literal["torch_export", "onnx"]] = (),
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    clips: Sequence[str] = (),
    licence: str | None = None,
    private: bool = False,
    revision: str | None = None,
) -> Pushed:
    """Export a model as safetensors, and put it on a hub, or into a folder, with a page that says what it is.

    Paths of this machine are taken out of the file.

    Args:
        config: the options of the model, see predictor.prediction_options.
        repo: OWNER/NAME, made if it is not there; or a folder: a path that begins with "." or "/".
        also: further formats of classifiers, as `model.pt2` and `model.onnx`; those are always fp32.
        precision: of the safetensors file.
        clips: to compare on, see build.export.Export.
        licence: by the hub's short names, such as "apache-2.0".
        private: a repository that is made now is not for everybody.
        revision: branch to commit to; None: the main one.

    Raises:
        ValueError: the name is neither, or the model cannot be exported.
        HubError: the hub refuses, or is out of reach.
    """
    folder = local_folder(repo)
    if folder is None:
        if not _REPO.fullmatch(repo):
            raise ValueError(
                f"{repo}: is neither OWNER/NAME of a repository nor a folder, whose path begins with . or /"
            )
        hub = _hub()
    if licence is None:
        logger.warning("no licence is stated, and the page says so; --licence apache-2.0 states one")
    with tempfile.TemporaryDirectory(prefix="push") as made:
        files = _write(config, folder or Path(made), repo, also=also, precision=precision, clips=clips, licence=licence)
        if folder is not None:
            return Pushed(place=str(folder), files=files)
        with _refusals(f"push to {repo}"):
            api = hub.HfApi(library_name="mvit_video")
            api.create_repo(repo, private=private, exist_ok=True)
            if revision is not None:
                api.create_branch(repo, branch=revision, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repo, folder_path=made, revision=revision, commit_message=f"{config.name}: weights and page"
            )
    return Pushed(place=str(commit.commit_url), files=files)


def _write(
    config: Predict,
    folder: Path,
    repo: str,
    *,
    also: Sequence[Literal["torch_export", "onnx"]],
    precision: Literal["fp32", "bf16", "fp16"],
    clips: Sequence[str],
    licence: str | None,
) -> tuple[str, ...]:
    """The files in a folder; their names."""
    from mvit_video.build.export import Export, check_exports, export
    from mvit_video.exporting.model_card import model_card
    from mvit_video.runtime.files import write_text

    check_exports(config, also)
    wanted = Export(
        output=folder / WEIGHTS, kind="safetensors", precision=precision, clips=tuple(clips), keep_paths=False
    )
    made = export(config, wanted)
    logger.info("%s", made.text())
    names = [WEIGHTS]
    for kind in also:
        more = export(config, Export(output=folder / "model", kind=kind, clips=tuple(clips), keep_paths=False))
        logger.info("%s", more.text())
        names.append(more.path.name)
    # Of a folder its name alone: the path is one of this machine.
    shown = repo if local_folder(repo) is None else f"./{folder.resolve().name}"
    card = model_card(made.about, title=config.name, repo=shown, files=names, licence=licence)
    write_text(folder / CARD, card)
    return (*names, CARD)


def hub_file(repo: str | os.PathLike[str], *, revision: str | None = None) -> Path:
    """The weights of a repository on this machine, fetched into the hub's cache if need be; or those of a folder.

    Args:
        repo: OWNER/NAME, or a folder that `push` wrote.
        revision: branch, tag or commit; None: the main branch.

    Raises:
        ValueError: the name is neither, or the folder holds no weights.
        HubError: the hub has no such repository or file, or is out of reach and the file is not in the cache.
    """
    name = os.fspath(repo)
    folder = local_folder(name)
    if folder is not None or Path(name).is_dir():
        path = (folder or Path(name)) / WEIGHTS
        if not path.is_file():
            raise ValueError(f"{name}: the folder holds no {WEIGHTS}; `python -m mvit_video.push RUN {name}` writes it")
        return path
    if not _REPO.fullmatch(name):
        raise ValueError(f"{name}: is neither OWNER/NAME of a repository nor a folder; relative paths begin with ./")
    hub = _hub()
    with _refusals(f"fetch {WEIGHTS} of {name}"):
        return Path(hub.hf_hub_download(name, WEIGHTS, revision=revision, library_name="mvit_video"))


def from_pretrained(
    repo: str | os.PathLike[str], *, revision: str | None = None, **overrides: object
) -> "MViT | Detector":
    """The network of a repository with its weights, in evaluation mode; `Predictor.from_pretrained` reads files, too.

        model = mvit_video.from_pretrained("someone/birds")
        model = mvit_video.from_pretrained("someone/birds", num_classes=3)  # with a new head, to be trained

    Args:
        repo, revision: see hub_file.
        **overrides: fields of MViTConfig, of a detector those of DetectorConfig; see models.from_checkpoint.

    Raises:
        ValueError, HubError: as hub_file; or the file is neither an MViT nor a detector.
    """
    from mvit_video.models import from_checkpoint

    return from_checkpoint(hub_file(repo, revision=revision), **overrides).eval()  # type: ignore[arg-type]


def local_folder(repo: str) -> Path | None:
    """The folder that is meant, if the name begins as a path does."""
    expanded = os.path.expanduser(repo)
    return Path(expanded) if expanded.startswith((".", os.sep)) else None


def _hub() -> Any:
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        raise HubError(f"models on a hub need the package huggingface_hub: {NEEDS_EXTRA}") from error
    return huggingface_hub


@contextmanager
def _refusals(what: str) -> Iterator[None]:
    """The errors of the hub and of the network as one of ours, with the way out."""
    from huggingface_hub.errors import HTTPError  # of its HTTP client, also where there is no connection

    try:
        yield
    except (HTTPError, OSError, ValueError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise HubError(
            f"could not {what} ({type(error).__name__}: {' '.join(lines[:2])}): check the name, the network and the "
            "token (`hf auth login`, or HF_TOKEN); HF_ENDPOINT names another hub"
        ) from error
