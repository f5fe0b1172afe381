"""Options of short runs of detection on a few embedded scenes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

TRAIN_IMAGES, TEST_IMAGES = 4, 3
# A block a stage and fewer boxes, where the options of a detector by name do not matter.
MODEL = {
    "_target_": "mvit_video.models.detection.create_detector", "name": "mask_rcnn_mvitv2_scenes", "num_classes": 5,
    "channels": 16, "hidden": 32, "proposals": 50, "rois_sampled": 24, "detections_per_image": 20,
    "short_side": 64, "long_side": 80,
    "backbone": {"depth": 4, "embed_dim": 16, "stage_starts": [1, 2, 3], "drop_path": 0.2},
}  # fmt: skip


def small(config: Any) -> Any:
    """The options with a smaller detector."""
    config.model = MODEL
    return config


def few_scenes(root: Path, output: Path, *more: str) -> Sequence[str]:
    """Overrides for seconds-long runs on four scenes."""
    return [
        "+experiment=scenes_mask_rcnn_mvitv2",
        f"data.source.root={root}",
        f"data.source.train_images={TRAIN_IMAGES}",
        f"data.source.test_images={TEST_IMAGES}",
        "data.crop_size=64",
        "model.short_side=64",
        "model.long_side=80",
        "model.detections_per_image=10",
        f"output_dir={output}",
        "name=tiny",
        "schedule.epochs=2",
        "schedule.warmup_epochs=1",
        "trainer.batch_size=2",
        "trainer.global_batch=null",
        "trainer.num_workers=0",
        "trainer.threads=1",
        "trainer.precision=fp32",
        "trainer.device=cpu",
        "trainer.log_every=1",
        "trainer.eval_every=2",
        *more,
    ]
