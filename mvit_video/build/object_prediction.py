"""What a detector says of images and of the frames of videos."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mvit_video
from mvit_video.build.detection_samples import detection_data, protocol
from mvit_video.build.file_predictor import LoadedModel
from mvit_video.build.samples import build_loading
from mvit_video.config import Predict
from mvit_video.data.datasets.extensions import IMAGES, PICTURES, VIDEOS, FileKind
from mvit_video.data.datasets.published_names import coco_category_numbers
from mvit_video.data.loading.image_files import ImageFiles
from mvit_video.data.loading.loader import eval_loader
from mvit_video.models.detection import Detector
from mvit_video.prediction.begun import BegunVideo, BegunVideos, same_times
from mvit_video.prediction.frames import Frame, VideoFrames
from mvit_video.prediction.lines import writing
from mvit_video.prediction.object_drawings import ObjectDrawings
from mvit_video.prediction.objects import COCO_FILE, best_of_each_class, found_objects, write_coco
from mvit_video.prediction.results import FilePrediction, FoundObject, Window
from mvit_video.prediction.tables import ResultTable
from mvit_video.runtime.formatting import count_text
from mvit_video.runtime.interruption import stop_if_asked
from mvit_video.video.index import VideoDecodeError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ObjectPredictor(LoadedModel):
    """A detector that looks at images, and at videos frame by frame; a `FilePredictor`."""

    kind: FileKind = PICTURES

    @classmethod
    def of(cls, loaded: LoadedModel) -> "ObjectPredictor":
        """The predictor of a loaded detector."""
        made = cls(**{field.name: getattr(loaded, field.name) for field in fields(LoadedModel)})
        if not made.masks:
            logger.warning("the detector was trained on boxes alone: it gives no masks")
        return made

    @property
    def masks(self) -> bool:
        """Whether objects have masks."""
        return not isinstance(self.model, Detector) or self.model.knows_masks

    @property
    def category_numbers(self) -> dict[str, int]:
        """The number of each class in COCO's files: those of the annotations that the detector was trained on."""
        splits = (self.training.get("run") or {}).get("data") or {}
        recorded = (splits.get("train") or {}).get("category_ids")
        if recorded is None:  # published, or of a run that recorded none
            return coco_category_numbers(self.class_names)
        return dict(zip(self.class_names, recorded, strict=True))

    @property
    def table(self) -> ResultTable:
        """With boxes."""
        return ResultTable(boxes=True, most=self.config.top_k)

    def predict(self, files: Sequence[str], *, begun: BegunVideos | None = None) -> Iterator[FilePrediction]:
        """The objects in this rank's share of the files: images first, then videos. See FilePredictor."""
        share = files[self.world.rank :: self.world.size]
        videos = [path for path in share if is_video(path)]
        yield from self._images([path for path in share if path not in set(videos)])
        known = {} if begun is None else begun.of(videos)
        for path in videos:
            try:
                yield self._video(path, known.get(path), begun)
            except VideoDecodeError as error:
                yield FilePrediction(path, error=error.reason)

    def find(self, pictures: Sequence[torch.Tensor]) -> list[tuple[FoundObject, ...]]:
        """The objects in pictures, each uint8 (3, H, W)."""
        if not pictures:
            return []
        with torch.inference_mode():
            found = self.model([picture.to(self.world.device) for picture in pictures])
        return [
            found_objects(one, self.class_names, threshold=self.config.threshold, masks=self.masks) for one in found
        ]

    def protocol(self, files: Sequence[str]) -> dict[str, Any]:
        """How results come about: results of one folder have all of it in common."""
        config = self.config
        return {
            **self.about,
            **protocol(config),
            "max_pixels": detection_data(config).max_pixels,
            "threshold": config.threshold,
            "rate": config.rate,
            "annotate": config.annotate,
            "class_names": list(self.class_names),
            "mvit_video": mvit_video.__version__,
        }

    def drawings(self, folder: Path, names: Mapping[str, str]) -> ObjectDrawings:
        """Boxes, masks and names on copies of the files."""
        return ObjectDrawings(folder=folder, names=names, class_names=self.class_names, annotate=self.config.annotate)

    def write_more(self, folder: Path, found: Sequence[FilePrediction]) -> None:
        """The objects of images in COCO's format."""
        images = write_coco(folder / COCO_FILE, found, self.category_numbers)
        if images:
            logger.info("the objects of %s in COCO's format: %s", count_text(images, "image"), folder / COCO_FILE)

    def _images(self, paths: Sequence[str]) -> Iterator[FilePrediction]:
        config = self.config
        batches = eval_loader(
            ImageFiles(paths, max_pixels=detection_data(config).max_pixels),
            clips_per_batch=config.trainer.eval_batch_size,
            rank=0,
            world_size=1,
            loading=build_loading(config, self.world, files=len(paths)),
        )
        for batch in batches:
            reasons = dict(batch.failures)
            readable = [picture for picture, failed in zip(batch.pictures(), batch.failed) if not failed]
            found = iter(self.find(readable))
            for path, failed in zip(batch.paths, batch.failed):
                yield FilePrediction(path, error=reasons[path]) if failed else FilePrediction(path, next(found))

    def _video(self, path: str, known: BegunVideo | None, begun: BegunVideos | None) -> FilePrediction:
        """The objects in the frames of a video, of which some may be done already.

        Raises:
            VideoDecodeError: it cannot be read.
        """
        frames = VideoFrames(path, rate=self.config.rate)
        windows = _done(known, frames)
        if windows:
            logger.info("%s: %d of %d frames are done already", path, len(windows), len(frames))
        batch: list[Frame] = []
        for frame in frames.read(len(windows)):
            batch.append(frame)
            if len(batch) == self.config.trainer.eval_batch_size:
                self._add(path, windows, batch, begun)
                batch = []
        self._add(path, windows, batch, begun)
        return FilePrediction(path, best_of_each_class(windows), windows=tuple(windows))

    def _add(self, path: str, windows: list[Window], batch: Sequence[Frame], begun: BegunVideos | None) -> None:
        """Look at some frames; what is known of them is noted, after which the process may be asked to stop."""
        found = self.find([frame.pixels.permute(2, 0, 1) for frame in batch])
        new = [Window(frame.start, frame.end, objects) for frame, objects in zip(batch, found)]
        if new and begun is not None:
            with writing(begun.path.parent):
                begun.add(path, len(windows), new, np.zeros(0))
            stop_if_asked()
        windows += new


def check_object_prediction(config: Predict) -> None:
    """Refuse options of predictions that do not go with a detector, with a ValueError."""
    if config.windows:
        raise ValueError(
            "windows=true is for models that name classes of clips, and a detector looks at single frames: leave it "
            "out; rate=N looks at N frames a second"
        )
    if config.explain:
        raise ValueError(
            "explain=true draws what speaks for a class of a clip or image; a detector says where its objects are: "
            "leave it out, annotate=true draws boxes and masks"
        )
    if config.features:
        raise ValueError(
            "features=true writes what the classes of a clip or image come from, and a detector has a map of features "
            "for each of its levels: leave it out"
        )
    own = protocol(config)["detector"].get("score_threshold")
    if own is not None and config.threshold < own:
        raise ValueError(
            f"threshold={config.threshold:g}: the detector itself gives nothing below model.score_threshold={own:g}; "
            f"give model.score_threshold={config.threshold:g}, too"
        )


def is_video(path: str) -> bool:
    """Whether a file is looked at frame by frame; what has an extension of images, or none of videos, is an image."""
    name = path.split("?")[0]
    return VIDEOS.has(name) and not IMAGES.has(name)


def _done(known: BegunVideo | None, frames: VideoFrames) -> list[Window]:
    """The first frames of a video that were looked at before, at the same times."""
    if known is None:
        return []
    expected = list(zip(frames.times, [*frames.times[1:], frames.end]))
    return list(known.windows) if same_times(known.windows, expected) else []
