from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mvit_video.data.datasets.class_folders import from_folder
from mvit_video.data.datasets.manifest import from_list, from_ssv2_json
from mvit_video.video.location import VideoLocation
from mvit_video.video.reader import VideoDecodeError, VideoReader
from tests.data.datasets.files import names_of, touch, write
from tests.data.loading.test_dataset import eval_dataset
from tests.video_library import barcode, number_in


def frames(folder: Path, numbers: range = range(1, 13), *, extension: str = "jpg", digits: int = 5) -> Path:
    """A video of pictures that carry their numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        Image.fromarray(barcode(number)).save(folder / f"{number:0{digits}}.{extension}")
    return folder


def reader(folder: Path, **options: object) -> VideoReader:
    return VideoReader(VideoLocation(name=str(folder), url=str(folder), frame_rate=12.0), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("extension", ["jpg", "png", "JPEG"])
def test_frames_come_by_their_number(tmp_path: Path, extension: str) -> None:
    with reader(frames(tmp_path / "34870", extension=extension)) as video:
        assert (video.info.num_frames, video.info.fps, video.info.duration) == (12, 12.0, 1.0)
        assert (video.info.height, video.info.width, video.info.codec) == (64, 96, extension.lower())
        clip = video.read([11, 0, 4, 0])
        assert [number_in(frame) for frame in clip.numpy()] == [12, 1, 5, 1]
        assert video.frames_between(0.5, 1.0) == range(6, 12)
        with pytest.raises(VideoDecodeError, match="asked for frame 12 of 12"):
            video.read([12])


def test_pictures_are_whole_pixels_in_every_way_of_reading(tmp_path: Path) -> None:
    folder = frames(tmp_path / "a", range(3), extension="png", digits=1)
    with reader(folder) as video:
        whole = video.read([0, 2])
        assert torch.equal(whole, torch.from_numpy(np.stack([barcode(0), barcode(2)])))
        assert torch.equal(video.read([2], crop=(3, 5, 20, 31))[0], whole[1, 3:23, 5:36])
        assert [number_in(frame) for frame in video.read_yuv([1, 2]).rgb().numpy()] == [1, 2]


def test_numbers_without_leading_zeros_are_in_order(tmp_path: Path) -> None:
    folder = frames(tmp_path / "a", range(8, 12), digits=1)  # 10.jpg sorts before 8.jpg
    touch(folder, "notes.txt", "._8.jpg")
    with reader(folder) as video:
        assert [number_in(frame) for frame in video.read(range(4)).numpy()] == [8, 9, 10, 11]


def cut(picture: Path) -> None:
    picture.write_bytes(picture.read_bytes()[:700])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "00005.jpg").unlink(), r"frame number 5 is missing, behind 00004\.jpg"),
        (lambda f: (f / "5.jpg").touch(), r"00005\.jpg and 5\.jpg have the same number"),
        (lambda f: (f / "cover.jpg").touch(), r"cover\.jpg has no number at the end of its name"),
        (lambda f: (f / "00003.jpg").write_bytes(b"none"), r"00003\.jpg cannot be decoded: cannot identify image file"),
        (lambda f: (f / "00001.jpg").write_bytes(b""), r"00001\.jpg cannot be decoded"),
        (lambda f: cut(f / "00003.jpg"), r"00003\.jpg cannot be decoded: image file is truncated"),
        (lambda f: Image.new("RGB", (90, 64)).save(f / "00003.jpg"), r"00003\.jpg has 90x64 pixels, 00001\.jpg has"),
        (lambda f: [path.unlink() for path in f.iterdir()], r"holds no pictures \(\.jpg, "),
    ],
)  # fmt: skip
def test_what_is_wrong_names_the_file(tmp_path: Path, change: object, message: str) -> None:
    folder = frames(tmp_path / "a")
    change(folder)  # type: ignore[operator]
    with pytest.raises(VideoDecodeError, match=message) as caught, reader(folder) as video:
        video.read(range(video.info.num_frames))
    assert caught.value.path == str(folder)


def test_large_pictures_and_odd_rates_are_refused(tmp_path: Path) -> None:
    folder = frames(tmp_path / "a")
    with pytest.raises(VideoDecodeError, match="pictures of 96x64 exceed max_pixels=100"):
        reader(folder, max_pixels=100)
    with pytest.raises(ValueError, match=r"frame_rate=0\.0: must be a positive number"):
        VideoReader(VideoLocation(name="a", url=str(folder), frame_rate=0.0))
    with pytest.raises(VideoDecodeError, match=r"is a directory; give the path of a file .*with a frame_rate"):
        VideoReader(folder)


def test_folders_of_frames_in_class_folders(tmp_path: Path) -> None:
    frames(tmp_path / "wave" / "1")
    frames(tmp_path / "wave" / "day 2" / "2")
    frames(tmp_path / "nod" / "3")
    manifest = from_folder(tmp_path, frame_rate=12)
    assert names_of(manifest, tmp_path) == ["nod/3", "wave/1", "wave/day 2/2"]
    assert not manifest.left_out
    with VideoReader(manifest.location(1)) as video:
        assert video.info.fps == 12
    with pytest.raises(ValueError, match=r"no video in .*they are the frames of videos, .*data\.source\.frame_rate"):
        from_folder(tmp_path)


def test_folders_of_frames_in_lists(tmp_path: Path) -> None:
    frames(tmp_path / "34870")
    source = write(tmp_path / "train.txt", "34870 12 1\n")
    manifest = from_list(source, root=tmp_path, frame_rate=12)
    assert (names_of(manifest, tmp_path), manifest.labels) == (["34870"], (1,))
    sample = eval_dataset(manifest, temporal_views=1)[0]
    assert (sample.failed, sample.clips.shape) == (False, (3, 8, 48, 48, 3))
    with pytest.raises(ValueError, match="1 of 1 listed videos do not exist"):
        from_list(source, root=tmp_path)


def test_extracted_frames_of_ssv2(tmp_path: Path) -> None:
    frames(tmp_path / "frames" / "78687")
    annotation = write(tmp_path / "train.json", '[{"id": "78687", "template": "Holding [something]"}]')
    labels = write(tmp_path / "labels.json", '{"Holding something": "0"}')
    manifest = from_ssv2_json(annotation, root=tmp_path / "frames", labels_file=labels, frame_rate=30)
    assert names_of(manifest, tmp_path) == ["frames/78687"]
    assert manifest.location(0).frame_rate == 30
