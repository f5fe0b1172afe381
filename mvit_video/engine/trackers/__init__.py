"""Trackers of other makers (Weights & Biases, MLflow, Trackio): each in a process of its own, behind one interface."""

from mvit_video.engine.trackers.interface import FinalState, RunInfo, TrackedRun
from mvit_video.engine.trackers.process import TrackerProcess, end_all

__all__ = ["FinalState", "RunInfo", "TrackedRun", "TrackerProcess", "end_all"]
