"""The group `task`: what a run trains its model for."""

from dataclasses import dataclass

from mvit_video.config.rules import option


@dataclass
class VideoMultilabel:
    """Naming all classes of a video that may have several: binary cross-entropy, average precision."""

    _target_: str = "mvit_video.build.video_multilabel.VideoMultilabel"


@dataclass
class VideoClassification:
    """Naming the class of a video. Another task is another `_target_`: see docs/extending.md."""

    _target_: str = "mvit_video.build.video_classification.VideoClassification"
    class_weights: str = option(
        "none",
        choices=("none", "balanced"),
        help="weights of the classes in the loss; balanced: videos / (classes * videos of the class)",
    )


@dataclass
class ImageClassification:
    """Naming the class of an image: soft-target cross entropy, top-1 and top-5."""

    _target_: str = "mvit_video.build.image_classification.ImageClassification"
    class_weights: str = option(
        "none",
        choices=("none", "balanced"),
        help="weights of the classes in the loss; balanced: images / (classes * images of the class)",
    )
    classes: str = option(
        "all",
        neutral=True,
        help="evaluation: all: any class of the model may be named; present: those that the split has (ImageNet-A, "
        "-R); else a file with one class name a line",
    )
