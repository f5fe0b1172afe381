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
