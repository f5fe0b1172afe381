from pathlib import Path

import av
import numpy as np
import pytest

from mvit_video.data.datasets.extensions import EXTENSIONS_OF_DEMUXER, VIDEO_EXTENSIONS
from mvit_video.video.reader import VideoReader

# How a file of each container that FFmpeg can also write is made: extension -> (muxer, codec, pixel format).
WRITTEN = {
    ".3gp": ("3gp", "mpeg4", "yuv420p"),
    ".f4v": ("f4v", "libx264", "yuv420p"),
    ".qt": ("mov", "mpeg4", "yuv420p"),
    ".MTS": ("mpegts", "libx264", "yuv420p"),
    ".m2ts": ("mpegts", "mpeg2video", "yuv420p"),
    ".vob": ("vob", "mpeg2video", "yuv420p"),
    ".m2v": ("mpeg2video", "mpeg2video", "yuv420p"),
    ".mpe": ("mpeg", "mpeg1video", "yuv420p"),
    ".asf": ("asf", "msmpeg4", "yuv420p"),
    ".wmv": ("asf", "wmv2", "yuv420p"),
    ".divx": ("avi", "mpeg4", "yuv420p"),
    ".ogv": ("ogg", "libvpx", "yuv420p"),
    ".mxf": ("mxf", "mpeg2video", "yuv422p"),
    ".rm": ("rm", "rv20", "yuv420p"),
    ".nut": ("nut", "mpeg4", "yuv420p"),
    ".gif": ("gif", "gif", "rgb8"),
    ".ivf": ("ivf", "libvpx", "yuv420p"),
    ".h264": ("h264", "libx264", "yuv420p"),
    ".mjpg": ("mjpeg", "mjpeg", "yuvj420p"),
    ".y4m": ("yuv4mpegpipe", "wrapped_avframe", "yuv420p"),
}


def test_every_extension_is_of_a_demuxer_that_the_decoder_has() -> None:
    for demuxer in EXTENSIONS_OF_DEMUXER:
        assert av.ContainerFormat(demuxer).is_input, demuxer
    listed = [extension for extensions in EXTENSIONS_OF_DEMUXER.values() for extension in extensions]
    assert sorted(listed) == sorted(VIDEO_EXTENSIONS)
    assert len(set(listed)) == len(listed)
    assert all(extension == extension.lower() and extension.startswith(".") for extension in listed)


@pytest.mark.parametrize("extension", WRITTEN)
def test_the_decoder_reads_a_file_of_the_extension(tmp_path: Path, extension: str) -> None:
    muxer, codec, pixels = WRITTEN[extension]
    path = tmp_path / f"a{extension}"
    with av.open(str(path), "w", format=muxer) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 176, 144, pixels
        for number in range(8):
            picture = np.full((144, 176, 3), 30 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format=pixels)))
        container.mux(stream.encode())
    with VideoReader(path) as video:
        assert video.info.num_frames == 8
        means = video.read(range(8)).float().mean((1, 2, 3)).tolist()
    assert means == pytest.approx([30.0 * number for number in range(8)], abs=20)
