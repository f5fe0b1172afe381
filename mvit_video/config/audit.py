"""Options of `python -m mvit_video.audit`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvit_video.config.rules import option
from mvit_video.config.sources import SPLITS
from mvit_video.config.train import Train


@dataclass
class Audit(Train):
    """Everything an audit needs: the options of the training, the weights, what to look at."""

    run: str | None = option(
        None, help="name or directory of the run to audit: its options and its best checkpoint; null: by `name`"
    )
    checkpoint: str | None = option(
        None, help="weights to audit, or the directory of a run; null: the run's best checkpoint"
    )
    use_ema: bool = option(True, help="take the averaged weights where the checkpoint holds them")
    split: str = option("test", choices=SPLITS[1:], help="split whose number is audited; without a test split val")
    output: str | None = option(None, help="folder of the page; null: <run>/audit. An earlier audit there is replaced")
    takes: bool = option(True, help="look for takes of one recording: reads some frames of every video of both splits")
    frames: int = option(5, at_least=2, help="frames of each video that are compared")
    similarity: float = option(
        0.75, above=0, below=1, help="how near frames must be (cosine) for two videos to count as takes of a recording"
    )
    frame_orders: bool = option(
        True, help="score the split with single, shuffled and reversed frames too: three further evaluations"
    )

    @property
    def job_dir(self) -> Path:
        """Apart from the training's own: an audit is no further start of the run."""
        return self.run_dir / "audit_job"

    @classmethod
    def splits_read(cls, options: Any) -> list[str]:
        """See Train."""
        return ["train", options.split]
