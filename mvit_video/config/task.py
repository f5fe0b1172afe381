"""The group `task`: what a run trains its model for."""

from dataclasses import dataclass


@dataclass
class VideoClassification:
    """Naming the class of a video. Another task is another `_target_`: see docs/extending.md."""

    _target_: str = "mvit_video.build.video_classification.VideoClassification"
