"""The options of a run, with their types, defaults, rules and meanings: the schemas behind `conf/`.

Each dataclass is the schema of one config group. Hydra composes YAML files over these schemas, so a key that is not
here, or a value of another type, is refused while the command line is read; check.py refuses what types cannot express.
The groups `model` and `data/source` carry a `_target_`, the function or class they configure; the fields beside it are
its arguments, so a user's own model or data source is a YAML file with another `_target_`.

An option is one line in the file of its group: `option(default, rule, help=...)`. docs/options.md is made of these.

This package imports neither torch nor the rest of the project, so that `--help` and `--cfg job` answer at once.
"""

from mvit_video.config.audit import Audit
from mvit_video.config.augment import Augment, ClassificationAugment, ImageAugment, VideoAugment
from mvit_video.config.data import Data, ImageData, VideoData
from mvit_video.config.detection import DetectionAugment, DetectionData
from mvit_video.config.evaluate import Evaluate
from mvit_video.config.launcher import LocalLauncher, SlurmLauncher, SubmititLocalLauncher, TorchrunLauncher
from mvit_video.config.machine import Machine
from mvit_video.config.model import Baseline, MViT
from mvit_video.config.optim import Optim
from mvit_video.config.plan import Plan
from mvit_video.config.predict import Predict
from mvit_video.config.prepare import Prepare, ReencodeOptions, ShardOptions
from mvit_video.config.preview import Preview
from mvit_video.config.registry import config_dir, register
from mvit_video.config.schedule import Schedule
from mvit_video.config.sources import (
    FolderSource,
    IndexSource,
    KineticsSource,
    LabeledVideoPathsSource,
    ListSource,
    MotionSource,
    Ssv2Source,
)
from mvit_video.config.task import ImageClassification, VideoClassification, VideoMultilabel
from mvit_video.config.train import Train
from mvit_video.config.trainer import Trainer

__all__ = [
    "Audit",
    "Augment",
    "Baseline",
    "ClassificationAugment",
    "Data",
    "DetectionAugment",
    "DetectionData",
    "Evaluate",
    "FolderSource",
    "ImageAugment",
    "ImageClassification",
    "ImageData",
    "IndexSource",
    "KineticsSource",
    "LabeledVideoPathsSource",
    "ListSource",
    "LocalLauncher",
    "MViT",
    "Machine",
    "MotionSource",
    "Optim",
    "Plan",
    "Predict",
    "Prepare",
    "Preview",
    "ReencodeOptions",
    "Schedule",
    "ShardOptions",
    "SlurmLauncher",
    "Ssv2Source",
    "SubmititLocalLauncher",
    "TorchrunLauncher",
    "Train",
    "Trainer",
    "VideoAugment",
    "VideoClassification",
    "VideoData",
    "VideoMultilabel",
    "config_dir",
    "register",
]
