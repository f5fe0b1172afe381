"""Predictions in Python: `Predictor("runs/birds")("video.mp4")`, as `python -m mvit_video.predict` makes them."""

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mvit_video.api import log_here, with_arguments
from mvit_video.config import Predict
from mvit_video.config.check import to_object
from mvit_video.config.compose import compose_options

if TYPE_CHECKING:
    from mvit_video.build.file_predictor import FilePredictor
    from mvit_video.prediction.explanation import ExplainedClip
    from mvit_video.prediction.results import FilePrediction, Window

PathLike = str | os.PathLike[str]

_COMMAND = "is for `python -m mvit_video.predict`, which writes files; a Predictor writes none"
# Options of the command that would do nothing here.
_OF_THE_COMMAND = {
    "annotate": _COMMAND,
    "output": _COMMAND,
    "parts": _COMMAND,
    "part": _COMMAND,
    "explain": f"{_COMMAND}, and predictor.explain(PATH) gives the maps",
    "live": "predictor.live(SOURCE) looks at a stream",
    "sources": "predictor.predict([PATH, ...]) takes them",
}


def prediction_options(
    given: Mapping[str, Any], *, experiment: str | None = None, config_dir: PathLike | None = None
) -> Predict:
    """The options of a prediction: those of the run or weights that `given` names, with what else it gives.

    Raises:
        ValueError, CheckpointError: as Predictor.
    """
    from mvit_video.build.prediction_options import take_weights_options, weights_groups

    # Images have other groups of options than videos.
    words = [f"{key}={given[key]}" for key in ("weights", "output_dir") if key in given]
    implied = {} if experiment else dict(word.split("=", 1) for word in weights_groups(words))
    experiment = implied.pop("+experiment", experiment)
    log_here()
    composition = compose_options(
        "predict", experiment=experiment, options={**implied, **given}, config_folder=config_dir
    )
    take_weights_options(composition.config, [key for key in composition.given if key not in implied])
    config = to_object(composition.config)
    assert isinstance(config, Predict)
    return config


class Predictor:
    """A model that says what is in videos or images.

        predictor = Predictor("runs/birds")
        for one in predictor("garden.mp4").predictions:
            print(one.name, one.score)

    Options (frames, rate, size, mean, views) and class names come from the run. The weights are read with the first
    prediction, once.

    Args:
        weights: a run, its name or its folder, the name of published weights, or a file of weights.
        options: what differs, by the names of docs/options.md: {"windows": True, "data.test_temporal_views": 1}.
        experiment: whose options count for weights that hold none.
        class_names: file with one class name a line, for weights that hold none.
        top_k: classes that are given for each file.
        output_dir: folder of all runs, where a name is looked for.
        config_dir: folder of further YAML files, as --config-dir.

    Raises:
        ValueError: there are no such weights, or an option is unknown, impossible or for the command alone.
        CheckpointError: published weights cannot be fetched.
    """

    def __init__(
        self,
        weights: PathLike,
        options: Mapping[str, Any] | None = None,
        *,
        experiment: str | None = None,
        class_names: PathLike | None = None,
        top_k: int = 5,
        output_dir: PathLike | None = None,
        config_dir: PathLike | None = None,
    ) -> None:
        idle = sorted(key for key, value in (options or {}).items() if key in _OF_THE_COMMAND and value)
        if idle:
            raise ValueError("; ".join(f"{key}: {_OF_THE_COMMAND[key]}" for key in idle) + "; leave out what is named")
        given = with_arguments(options, weights=weights, class_names=class_names, top_k=top_k, output_dir=output_dir)
        self._config = prediction_options(given, experiment=experiment, config_dir=config_dir)

    @classmethod
    def from_pretrained(
        cls, repo: PathLike, options: Mapping[str, Any] | None = None, *, revision: str | None = None, top_k: int = 5
    ) -> "Predictor":
        """A predictor with the weights of a repository on a hub, or of a folder that `push` wrote.

        Args:
            repo, revision: see mvit_video.hub.hub_file.
            options, top_k: as above.

        Raises:
            ValueError, HubError: as mvit_video.hub.hub_file.
        """
        from mvit_video.hub import hub_file

        return cls(hub_file(repo, revision=revision), options, top_k=top_k)

    @cached_property
    def _predictor(self) -> "FilePredictor":
        from mvit_video.build.prediction import build_predictor
        from mvit_video.distributed.process_group import World
        from mvit_video.runtime.env import choose_device, own_state

        device = choose_device(self._config.trainer.device)  # type: ignore[arg-type]
        with own_state():
            return build_predictor(self._config, World(rank=0, size=1, device=device))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the model, in the order of its outputs."""
        return self._predictor.class_names

    def __call__(self, path: PathLike) -> "FilePrediction":
        """What is in one file; a file that cannot be read gives a result with its `error`.

        Raises:
            TypeError: it is no path, but several, or pictures in memory.
        """
        (found,) = self._predictor.predict([_path_of(path)])
        return found

    def explain(self, path: PathLike, *, name: str | None = None) -> "Iterator[ExplainedClip]":
        """Where and when the model looks in one file: its clips, one by one, each with a map over its pictures.

            for clip in predictor.explain("garden.mp4"):
                pictures, maps = clip.overlay(), clip.maps

        Args:
            path: of a video or an image.
            name: the class that the maps are for; None: the most likely one of the file, or of each window.

        Raises:
            ValueError: the model is no MViT, it has no such class, or the file cannot be read.
        """
        from mvit_video.build.prediction import naming_classes

        refused = (
            "explain shows what speaks for a class of a file, and the weights are a detector's, whose boxes say it"
        )
        _, clips = naming_classes(self._predictor, refused=refused).explain(self(path), name=name)
        return clips

    def live(self, source: PathLike) -> "Iterator[Window]":
        """The windows of a camera, a pipe or a network stream, each when it is over and looked at, until it ends.

        Args:
            source: such as /dev/video0, rtsp://host/stream, a pipe, or "-" for standard input.

        Raises:
            ValueError: it cannot be opened, or the model looks at images.
        """
        from mvit_video.build.live import live_windows

        return live_windows(self._predictor, os.fspath(source))

    def predict(self, sources: PathLike | Sequence[PathLike]) -> "Iterator[FilePrediction]":
        """What is in many files, one after the other; some are decoded ahead, and batches go across files.

        With loader processes (`trainer.num_workers`) a script calls this under `if __name__ == "__main__":`.

        Args:
            sources: files, folders, patterns, lists and URLs, or one of them.

        Raises:
            ValueError: one of them does not exist, or holds no file of the model's kind.
            TypeError: one of them is no path, but a picture in memory, say.
        """
        from mvit_video.prediction.files import find_files

        several = [sources] if isinstance(sources, str | os.PathLike) else sources
        return self._predictor.predict(find_files([_path_of(source) for source in several], self._predictor.kind))


def _path_of(path: PathLike) -> str:
    """The path as text.

    Raises:
        TypeError: it is none.
    """
    if isinstance(path, str | os.PathLike):
        return os.fsdecode(path)
    raise TypeError(
        f"a Predictor takes the path of a file, and is given a {type(path).__name__}: predictor.predict([PATH, ...]) "
        "takes several; pictures in memory go to the network itself (mvit_video.models.from_checkpoint), or into a file"
    )
