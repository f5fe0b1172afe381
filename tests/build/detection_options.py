"""Options of short runs of detection on a few embedded scenes."""

from collections.abc import Sequence
from pathlib import Path

TRAIN_IMAGES, TEST_IMAGES = 4, 3


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
