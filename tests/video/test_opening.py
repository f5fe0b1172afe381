"""Whatever stands in a file beside its video, its video is found and read."""

import struct
from pathlib import Path

import av

from mvit_video.data.datasets.rows import stated_duration
from mvit_video.prediction.live_source import live_source
from mvit_video.video import VideoReader
from mvit_video.video.opening import open_input, video_stream
from tests.video_library import Library, Recipe, write_video


def cover_first(source: Path, target: Path) -> None:
    """Put the cover picture, which stands at the end of an MP4 file's header, at its beginning."""
    content = source.read_bytes()
    start = content.index(b"moov") + 4
    first = start + struct.unpack(">I", content[start : start + 4])[0]  # after the box of the whole
    end = start - 8 + struct.unpack(">I", content[start - 8 : start - 4])[0]
    cover = content.index(b"udta", first) - 4
    target.write_bytes(content[:first] + content[cover:end] + content[first:cover] + content[end:])


def test_a_cover_picture_is_no_video_wherever_it_stands(library: Library, tmp_path: Path) -> None:
    source = tmp_path / "a.mp4"
    cover_first(library.path("cover.mp4"), source)
    with open_input(str(source)) as container:
        assert [stream.codec_context.name for stream in container.streams.video] == ["mjpeg", "h264"]
        assert video_stream(container).codec_context.name == "h264"


def test_a_title_in_any_character_set_is_no_reason_to_refuse_a_video(tmp_path: Path) -> None:
    """Titles of old AVI files, and of many on the web, are in Latin-1 or Shift-JIS."""
    plain, source = tmp_path / "plain.mkv", tmp_path / "a.mkv"
    write_video(plain, Recipe("plain.mkv"), range(10))
    with av.open(str(plain)) as reader, av.open(str(source), "w") as writer:
        writer.metadata["title"] = "the title of it"
        copy = writer.add_stream_from_template(reader.streams.video[0])
        for packet in reader.demux(video=0):
            if packet.size:
                packet.stream = copy
                writer.mux(packet)
    content = source.read_bytes()
    assert content.count(b"the title of it") == 1
    source.write_bytes(content.replace(b"the title of it", "de t\u00eftel van \u00fct".encode("latin-1")))
    with VideoReader(source) as video:
        assert video.info.num_frames == 10
    assert stated_duration(str(source)) == stated_duration(str(plain))
    live_source(str(source)).open().close()
