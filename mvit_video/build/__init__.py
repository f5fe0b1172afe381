"""From options to objects: what tasks share (common.py), one short file per task, and the jobs that commands run."""

from mvit_video.build.evaluation import evaluate
from mvit_video.build.training import train

__all__ = ["evaluate", "train"]
