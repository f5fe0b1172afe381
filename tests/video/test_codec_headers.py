"""Codec headers: what may be left out, and what is missing."""

import av
import numpy as np
import pytest

from mvit_video.video.codec_headers import Av1Sequence, H264Sequence, PacketScanner, av1_units
from mvit_video.video.reader import VideoReader
from tests.video.test_reader_errors import sequence_header
from tests.video_library import Library, decode_all


def headers_of(library: Library, name: str) -> bytes:
    with av.open(str(library.path(name))) as container:
        extra = container.streams.video[0].codec_context.extradata
    assert extra is not None
    return extra


class TestH264:
    def test_sequence_by_hand(self) -> None:
        assert H264Sequence.of(sequence_header(4)) == H264Sequence(4, False, False)

    @pytest.mark.parametrize("name", ["gop12.mp4", "ten_bit.mp4", "full_chroma.mp4", "interlaced.mp4", "pyramid.mp4"])
    def test_sequences_of_x264(self, library: Library, name: str) -> None:
        extra = headers_of(library, name)
        sequence = H264Sequence.of(extra[8 : 8 + int.from_bytes(extra[6:8], "big")])
        assert sequence is not None
        assert 4 <= sequence.number_bits <= 16 and not sequence.gaps_allowed and not sequence.separate_planes

    def test_scaling_lists(self) -> None:
        """High profile with two lists: one of 16 equal steps, one that ends after a delta of -8."""
        head = "1" + "010" + "1" + "1" + "0"  # id 0, 4:2:0, 8 bit twice, no bypass
        lists = "1" + "1" + "1" * 16 + "1" + "000010001" + "0" * 6  # present; zero deltas; next_scale 0
        tail = "00100" + "011" + "00110" + "1"  # 3 + 4 bits of frame_num; count of kind 2; 5 pictures; gaps
        bits = head + lists + tail
        bits += "0" * (-len(bits) % 8)
        unit = bytes([0x67, 100, 0, 30]) + int(bits, 2).to_bytes(len(bits) // 8, "big")
        assert H264Sequence.of(unit) == H264Sequence(7, True, False)

    def test_cut_short(self) -> None:
        assert H264Sequence.of(sequence_header(4)[:4]) is None

    @pytest.mark.parametrize(
        "name",
        ["gop12.mp4", "open.mp4", "pyramid.mp4", "no_b.mp4", "interlaced.mp4", "stream.ts", "open.ts", "h264.avi"]
        + ["clock.mkv", "cut_open.mp4", "cut_open.ts", "raw.h264", "variable.mp4"],
    )
    def test_sound_files_have_no_gaps(self, library: Library, name: str) -> None:
        with VideoReader(library.path(name)) as video:
            assert video.frame_index.corrupt == ()

    def test_missing_reference_is_a_gap(self, library: Library) -> None:
        with av.open(str(library.path("gop12.mp4"))) as container:
            scanner = PacketScanner("h264", container.streams.video[0].codec_context.extradata)
            packets = [memoryview(packet) for packet in container.demux(video=0) if packet.size]
            assert [scanner.follows_a_gap(data) for data in packets[:6]] == [False] * 6
            assert [scanner.follows_a_gap(data) for data in packets[7:13]] == [False] * 6  # 6 was of use to none
            assert [scanner.follows_a_gap(data) for data in packets[14:16]] == [True, False]  # 13 was a P picture


class TestAv1:
    def test_sequence_of_svt(self, library: Library) -> None:
        ((kind, payload),) = av1_units(headers_of(library, "av1.mp4")[4:])
        assert kind == 1
        assert Av1Sequence.of(payload) == Av1Sequence(0, False, 2, 2, 0, 7)

    def test_still_picture(self) -> None:
        assert Av1Sequence.of(bytes([0b00011000]) + bytes(20)) is None

    def test_unknown_headers_keep_everything(self, library: Library) -> None:
        with av.open(str(library.path("av1.mp4"))) as container:
            packets = [memoryview(packet) for packet in container.demux(video=0) if packet.size]
        scanner = PacketScanner("libdav1d", None)
        unknown = [scanner.kind(data).droppable for data in packets[1:12]]
        assert not any(unknown)

    def test_units(self) -> None:
        data = bytes([0x12, 0, 0x32, 3, 1, 2, 3, 0x0A, 1, 9])  # delimiter, frame, sequence header
        assert av1_units(data) == [(2, b""), (6, b"\1\2\3"), (1, b"\t")]

    def test_leaving_pictures_out_changes_none(
        self, library: Library, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        path = tmp_path_factory.mktemp("av1") / "pyramid.mp4"
        rows, columns = np.mgrid[0:64, 0:96]
        with av.open(str(path), "w") as container:
            options = {"preset": "10", "crf": "40", "g": "64", "svtav1-params": "lp=1:pred-struct=2"}
            stream = container.add_stream("libsvtav1", rate=25, options=options)
            stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
            for number in range(64):
                picture = np.repeat((128 + 90 * np.sin((columns + 2 * number) / 6 + rows / 9))[..., None], 3, 2)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture.astype(np.uint8), "rgb24")))
            container.mux(stream.encode())
        truth = decode_all(path)
        with VideoReader(path) as video:
            assert video.frame_index.droppable.sum() >= 10
            for indices in ([63], [5, 37], range(0, 64, 7), range(50, 10, -3)):
                assert np.array_equal(video.read(indices).numpy(), truth[list(indices)])
