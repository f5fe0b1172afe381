"""Options of `python -m mvit_video.predict`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mvit_video.config.rules import option
from mvit_video.config.train import Train


@dataclass
class Predict(Train):
    """Everything a prediction needs: the files, the weights with the options of their training, what to write."""

    sources: list[str] = option(
        [], help="files, folders, patterns, lists and URLs; on the command line they stand without `sources=`"
    )
    weights: str | None = option(
        None,
        help="what to predict with: a run or published weights by name, a directory, a URL, a file; null: see `run`",
    )
    run: str | None = option(None, help="name or directory of the run to predict with; the same as weights=NAME")
    checkpoint: str | None = option(None, help="file of weights instead of the run's best checkpoint")
    use_ema: bool = option(True, help="take the averaged weights where the checkpoint holds them")
    class_names: str | None = option(
        None, help="file with one class name a line, for weights that hold none; null: those of the checkpoint"
    )
    top_k: int = option(
        5,
        at_least=1,
        help="classes that are given for each file, the most likely ones; of a detector objects that are printed",
    )
    windows: bool = option(
        False, help="look at videos window by window, for long ones in which several things happen, and draw a timeline"
    )
    window_s: float | None = option(None, above=0, help="seconds of a window; null: those of the model's clip")
    overlap: float = option(0.5, at_least=0, below=1, help="share of a window that the next one has in common with it")
    threshold: float = option(
        0.5,
        at_least=0,
        at_most=1,
        help="score from which a class counts in a timeline, below it stands `other`; of a detector the score from "
        "which an object is given",
    )
    rate: float | None = option(
        None, above=0, help="frames of each second of a video that a detector looks at; null: every frame"
    )
    annotate: bool = option(
        False,
        help="write each video again as MP4 with the words, or boxes and masks, drawn on it and its sound, each image "
        "as PNG",
    )
    explain: bool = option(
        False, help="draw where and when the model looks, as a sheet and for videos as an overlay video"
    )
    features: bool = option(
        False,
        help="keep what enters the model's head, too: float32, a row for each view of a file or for each window, as "
        "features/NAME.npy",
    )
    parts: int | None = option(
        None,
        at_least=1,
        help="jobs that share the files out, each resumable: an array of SLURM (launcher=slurm), or started by hand "
        "with part=N; null: one job",
    )
    part: int | None = option(None, at_least=0, help="which of the parts this job is, from 0; set by launcher=slurm")
    live: bool = option(
        False,
        help="look at the source as it arrives and never go back, for addresses and files that grow; cameras, pipes "
        "and streaming protocols (rtsp://, udp://, ...) are always looked at so",
    )
    output: str | None = option(
        None,
        help="folder of the results; null: ./predictions, with a number behind it where results of other weights or "
        "options are there",
    )

    @property
    def job_dir(self) -> Path:
        """Apart from the training's own: a prediction is no further start of the run."""
        return self.run_dir / "prediction_job"

    @classmethod
    def splits_read(cls, options: Any) -> list[str]:
        """See Train. A prediction reads no data set."""
        return []

    @classmethod
    def unneeded(cls, options: Any) -> set[str]:
        """See Train. A prediction reads no data set."""
        source = options.data.source
        if not isinstance(source, DictConfig):
            return set()
        return {f"data.source.{key!s}" for key in source if OmegaConf.is_missing(source, key)}
