"""Detectors: MViT in windows, feature pyramid, Mask R-CNN and its cascade. Imports torch and torchvision.ops alone."""

from mvit_video.models.detection.batch_norm import synchronise
from mvit_video.models.detection.config import DetectorConfig, get_detector_config, list_detectors
from mvit_video.models.detection.detector import Detections, Detector, create_detector
from mvit_video.models.detection.examination import Examination

__all__ = [
    "Detections",
    "Detector",
    "DetectorConfig",
    "Examination",
    "create_detector",
    "get_detector_config",
    "list_detectors",
    "synchronise",
]
