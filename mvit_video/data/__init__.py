"""From lists of videos to batches of clips: datasets, sampling, augmentation, loading, and an embedded data set."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mvit_video.data.augmentation.transforms import TrainTransform
    from mvit_video.data.datasets.class_folders import from_folder
    from mvit_video.data.datasets.manifest import Manifest
    from mvit_video.data.loading.batch import Batch, Sample
    from mvit_video.data.loading.collation import collate
    from mvit_video.data.loading.dataset import DecodeOptions, EvalDataset
    from mvit_video.data.loading.plain import TrainingClips, evaluation_clips, normalize, training_clips

__all__ = [
    "Batch",
    "DecodeOptions",
    "EvalDataset",
    "Manifest",
    "Sample",
    "TrainTransform",
    "TrainingClips",
    "collate",
    "evaluation_clips",
    "from_folder",
    "normalize",
    "training_clips",
]

_MODULES = {
    "Batch": "loading.batch",
    "DecodeOptions": "loading.dataset",
    "EvalDataset": "loading.dataset",
    "Manifest": "datasets.manifest",
    "Sample": "loading.batch",
    "TrainTransform": "augmentation.transforms",
    "TrainingClips": "loading.plain",
    "collate": "loading.collation",
    "evaluation_clips": "loading.plain",
    "from_folder": "datasets.class_folders",
    "normalize": "loading.plain",
    "training_clips": "loading.plain",
}


def __getattr__(name: str) -> object:
    """A public name, imported when it is first asked for: `data.sampling` is arithmetic, and needs none of these."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
