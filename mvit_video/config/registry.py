"""What Hydra is told: the schema of each group and command, and where the YAML files are."""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore

from mvit_video.config.audit import Audit
from mvit_video.config.augment import ImageAugment, VideoAugment
from mvit_video.config.data import ImageData, VideoData
from mvit_video.config.detection import Detection, DetectionAugment, DetectionData, Detector, ScenesSource
from mvit_video.config.detection_sources import CocoSource, YoloSource
from mvit_video.config.evaluate import Evaluate
from mvit_video.config.image_sources import (
    ImageFolderSource,
    ImageListSource,
    ImageNetSource,
    ImageParquetSource,
    ImageShardsSource,
    ImageTableSource,
)
from mvit_video.config.launcher import LocalLauncher, SlurmLauncher, SubmititLocalLauncher, TorchrunLauncher
from mvit_video.config.machine import Machine
from mvit_video.config.model import Baseline, MViT
from mvit_video.config.optim import Optim
from mvit_video.config.plan import Plan
from mvit_video.config.predict import Predict
from mvit_video.config.prepare import Prepare
from mvit_video.config.preview import Preview
from mvit_video.config.schedule import Schedule
from mvit_video.config.sources import (
    FolderSource,
    IndexSource,
    KineticsSource,
    LabeledVideoPathsSource,
    ListSource,
    MotionSource,
    ShapesSource,
    Ssv2Source,
)
from mvit_video.config.table_sources import (
    CharadesSource,
    Diving48Source,
    EpicKitchensSource,
    Hmdb51Source,
    JesterSource,
    TableSource,
    Ucf101Source,
)
from mvit_video.config.task import ImageClassification, VideoClassification, VideoMultilabel
from mvit_video.config.train import Train
from mvit_video.config.trainer import Trainer


@dataclass(frozen=True)
class Registered:
    """A schema and the name under which YAML files know it.

    Attributes:
        group: config group, None for the options of a command.
        name: in the group.
        schema: the dataclass.
        content: what it is for, where the group has another schema for something else.
    """

    group: str | None
    name: str
    schema: type
    content: str = ""


SCHEMAS = (
    Registered(None, "train_schema", Train),
    Registered(None, "evaluate_schema", Evaluate),
    Registered(None, "audit_schema", Audit),
    Registered(None, "predict_schema", Predict),
    Registered(None, "preview_schema", Preview),
    Registered(None, "prepare_schema", Prepare),
    Registered(None, "plan_schema", Plan),
    Registered("task", "video_classification", VideoClassification),
    Registered("task", "video_multilabel", VideoMultilabel),
    Registered("task", "image_classification", ImageClassification),
    Registered("task", "detection", Detection),
    Registered("model", "mvit_schema", MViT),
    Registered("model", "baseline_schema", Baseline),
    Registered("model", "detector_schema", Detector),
    Registered("data", "data_schema", VideoData, "videos"),
    Registered("data", "image_data_schema", ImageData, "images"),
    Registered("data", "detection_data_schema", DetectionData, "images with boxes"),
    Registered("data/source", "list", ListSource),
    Registered("data/source", "kinetics", KineticsSource),
    Registered("data/source", "ssv2", Ssv2Source),
    Registered("data/source", "folder", FolderSource),
    Registered("data/source", "labeled_video_paths", LabeledVideoPathsSource),
    Registered("data/source", "index", IndexSource),
    Registered("data/source", "motion", MotionSource),
    Registered("data/source", "shapes", ShapesSource),
    Registered("data/source", "table", TableSource),
    Registered("data/source", "ucf101", Ucf101Source),
    Registered("data/source", "hmdb51", Hmdb51Source),
    Registered("data/source", "diving48", Diving48Source),
    Registered("data/source", "charades", CharadesSource),
    Registered("data/source", "epic_kitchens", EpicKitchensSource),
    Registered("data/source", "jester", JesterSource),
    Registered("data/source", "imagenet", ImageNetSource),
    Registered("data/source", "image_folder", ImageFolderSource),
    Registered("data/source", "image_list", ImageListSource),
    Registered("data/source", "image_table", ImageTableSource),
    Registered("data/source", "image_shards", ImageShardsSource),
    Registered("data/source", "image_parquet", ImageParquetSource),
    Registered("data/source", "coco", CocoSource),
    Registered("data/source", "yolo", YoloSource),
    Registered("data/source", "scenes", ScenesSource),
    Registered("augment", "augment_schema", VideoAugment, "videos"),
    Registered("augment", "image_augment_schema", ImageAugment, "images"),
    Registered("augment", "detection_augment_schema", DetectionAugment, "images with boxes"),
    Registered("optim", "optim_schema", Optim),
    Registered("schedule", "schedule_schema", Schedule),
    Registered("trainer", "trainer_schema", Trainer),
    Registered("launcher", "local_schema", LocalLauncher),
    Registered("launcher", "torchrun_schema", TorchrunLauncher),
    Registered("launcher", "submitit_local_schema", SubmititLocalLauncher),
    Registered("launcher", "slurm_schema", SlurmLauncher),
    Registered("machine", "machine_schema", Machine),
)


def schema_of(group: str, values: Mapping[str, Any]) -> Registered | None:
    """The schema of a group that stored values were made over; None without a schema.

    It is that which knows most of them, and of several the one with the fewest further options.

    Args:
        group: "data" or another group whose choices are made over one of several schemas.
        values: by the names of options.
    """
    known = [entry for entry in SCHEMAS if entry.group == group and entry.name.endswith("_schema")]
    names = [{declared.name for declared in fields(entry.schema)} for entry in known]
    ranks = [(len(own & set(values)), -len(own)) for own in names]
    return known[ranks.index(max(ranks))] if known else None


def source_of(target: str) -> str | None:
    """The choice of the group `data/source` that stands for a class; None for a user's own."""
    return _choice_of("data/source", target)


def task_of(target: str) -> str | None:
    """The choice of the group `task` that stands for a class; None for a user's own."""
    return _choice_of("task", target)


def _choice_of(group: str, target: str) -> str | None:
    for entry in SCHEMAS:
        if entry.group == group and getattr(entry.schema, "_target_", None) == target:
            return entry.name
    return None


def choices_over(entry: Registered) -> list[str]:
    """Files of the group that are made over this schema, or over a file that is."""
    if entry.group is None or not entry.name.endswith("_schema"):
        return []
    texts = {file.stem: file.read_text("utf-8") for file in (Path(config_dir()) / entry.group).glob("*.yaml")}
    made, before = {entry.name}, 0
    while len(made) > before:
        before = len(made)
        over = re.compile(rf"^ *- ({'|'.join(map(re.escape, sorted(made)))})$", re.MULTILINE)
        made |= {name for name, text in texts.items() if over.search(text)}
    return sorted(made - {entry.name})


def config_dir() -> str:
    """Folder of the YAML files: inside an installed wheel, or beside the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside, beside = package / "conf", package.parent / "conf"
    if inside.is_dir():
        return str(inside)
    if beside.is_dir():
        return str(beside)
    raise FileNotFoundError(f"no configuration folder at {inside} or {beside}: reinstall mvit_video")


@functools.cache
def register() -> None:
    """Make the schemas known to Hydra under the names that YAML files use; once in a process, for it takes a while."""
    store = ConfigStore.instance()
    for entry in SCHEMAS:
        store.store(group=entry.group, name=entry.name, node=entry.schema)
