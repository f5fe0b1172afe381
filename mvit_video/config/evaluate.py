"""Options of `python -m mvit_video.evaluate`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvit_video.config.rules import option
from mvit_video.config.sources import SPLITS
from mvit_video.config.train import Train


@dataclass
class Evaluate(Train):
    """Everything an evaluation needs: the options of the training, the weights, the order of the frames."""

    run: str | None = option(
        None, help="name or directory of the run to evaluate: its options and its best checkpoint; null: by `name`"
    )
    checkpoint: str | None = option(
        None,
        help="weights to evaluate: a published name, a URL, a file, or the directory of a run; null: the run's best",
    )
    use_ema: bool = option(True, help="take the averaged weights where the checkpoint holds them")
    frame_order: str = option(
        "forward",
        choices=("forward", "reversed", "shuffled", "single"),
        help="order in which the model sees the frames of a clip; single: the middle one again and again",
    )
    split: str = option("test", choices=SPLITS, help="split to evaluate; a source without test split gives validation")
    output: str | None = option(
        None,
        help="folder of the results; null: <run>/evaluation, or <run>/evaluation_<frame_order>, with a number behind "
        "it where results of another protocol are there",
    )

    @property
    def job_dir(self) -> Path:
        """Apart from the training's own: an evaluation is no further start of the run."""
        return self.run_dir / "evaluation_job"

    @classmethod
    def splits_read(cls, options: Any) -> list[str]:
        """See Train."""
        return [options.split]
