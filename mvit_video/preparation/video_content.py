"""Videos, as the preparation reads and reports them; see content.py."""

from collections.abc import Mapping, Sequence
from typing import Any

from mvit_video.data.datasets.extensions import VIDEOS
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.sampling import ClipSampler, clip_span
from mvit_video.preparation import duplicates
from mvit_video.preparation.content import IndexedContent
from mvit_video.preparation.inventory import SplitEntry
from mvit_video.preparation.journal import Record
from mvit_video.preparation.quantities import histogram, most_common, quantiles
from mvit_video.preparation.scan import scan_file
from mvit_video.preparation.segment_frames import duration, frame_count
from mvit_video.video.reader import MAX_PIXELS

_DURATIONS = (1, 2, 5, 10, 20, 60, 300)  # s, edges of the histogram


class VideoContent(IndexedContent):
    """A `Content`: see content.py.

    Args:
        sampler: how clips are taken, for what counts as short.
    """

    kind = VIDEOS
    scan = staticmethod(scan_file)
    preload: tuple[str, ...] = ("mvit_video.preparation.scan", "mvit_video.preparation.reencode")
    max_pixels = MAX_PIXELS
    near_rule = duplicates.RULE
    too_small_title = "Short videos"
    quantities: Mapping[str, str] = {
        "duration, s": "duration_s",
        "frames": "frames",
        "frames/s": "fps",
        "short side, pixels": "short_side",
        "file, bytes": "file_bytes",
    }
    histograms: Mapping[str, str] = {
        "Durations, s": "duration_histogram",
        "Frame rates": "fps_histogram",
        "Picture sizes": "sizes",
        "Codecs": "codecs",
        "Containers": "containers",
    }

    def __init__(self, sampler: ClipSampler) -> None:
        self.sampler = sampler

    @property
    def too_small_rule(self) -> str:
        """See Content."""
        return span_rule(self.sampler)

    def statistics(
        self, entries: Sequence[SplitEntry], records: Mapping[int, Record], manifest: Manifest
    ) -> dict[str, Any]:
        """See Content; durations and frames are those of segments where entries are such."""
        of = [records[entry.item] for entry in entries]
        durations = [duration(entry, record) for entry, record in zip(entries, of)]
        return {
            "hours": sum(durations) / 3600,
            "duration_s": quantiles(durations),
            "duration_histogram": histogram(durations, _DURATIONS),
            "frames": quantiles([frame_count(entry, record) for entry, record in zip(entries, of)]),
            "fps": quantiles([record.fps for record in of]),
            "fps_histogram": most_common(f"{record.fps:.4g}" for record in of),
            "codecs": most_common(record.codec for record in of),
            "containers": most_common(record.container for record in of),
        }

    def too_small(self, entry: SplitEntry, record: Record) -> dict[str, float] | None:
        """Fewer frames than a clip spans: its last frame is repeated (mode "span"), or frames are."""
        needed, held = frames_needed(self.sampler, record.fps), frame_count(entry, record)
        return None if held >= needed else {"frames": held, "needed": round(needed, 1)}


def frames_needed(sampler: ClipSampler, fps: float) -> float:
    """Frames that a clip covers in a video of that rate."""
    if sampler.mode == "segments":
        return sampler.num_frames
    return clip_span(
        num_frames=sampler.num_frames, sampling_rate=sampler.sampling_rate, fps=fps, target_fps=sampler.target_fps
    )


def span_rule(sampler: ClipSampler) -> str:
    """What "short" means, in words."""
    if sampler.mode == "segments":
        return f"fewer than {sampler.num_frames} frames, one for each segment"
    seconds = sampler.num_frames * sampler.sampling_rate / sampler.target_fps
    return (
        f"shorter than a clip of {sampler.num_frames} frames, one in {sampler.sampling_rate:g} at "
        f"{sampler.target_fps:g} frames/s: {seconds:.3g} s"
    )
