"""The embedded set `scenes` as a data source."""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from mvit_video.data.datasets.sources import Split, logged
from mvit_video.data.detection.annotations import DetectionManifest
from mvit_video.data.detection.coco_json import from_coco
from mvit_video.data.embedded.scenes import ScenesSpec, generate_scenes


@dataclass(kw_only=True)
class ScenesSource:
    """The embedded set of detection, generated on first use; see scenes.ScenesSpec. Its test set validates, too."""

    root: str
    train_images: int = 1200
    test_images: int = 200
    seed: int = 0

    def prepare(self) -> None:
        """Generate the scenes where they are not there yet."""
        spec = ScenesSpec(train_images=self.train_images, test_images=self.test_images, seed=self.seed)
        generate_scenes(self.root, spec)

    def has(self, split: Split) -> bool:
        """See Source: the set has every split."""
        return True

    def manifest(self, split: Split) -> DetectionManifest:
        """See Source."""
        name = "train" if split == "train" else "test"
        root = Path(self.root)
        manifest = from_coco(root / "annotations" / f"{name}.json", root=root / name, empty_images="keep")
        return cast(DetectionManifest, logged(manifest, split))
