"""`python -m mvit_video.prepare` on images: verified, indexed, compared across splits, reported, packed into shards."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mvit_video import prepare
from mvit_video.build.common import build_source
from mvit_video.build.image_classification import ImageClassification
from mvit_video.distributed.process_group import World
from mvit_video.preparation.image_content import signature
from tests import image_library
from tests.build.image_options import small_images
from tests.conftest import options
from tests.images.files import encoded, png_header

WORLD = World(rank=0, size=1, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A miniature ImageNet with broken, repeated and small images."""
    root = tmp_path_factory.mktemp("data")
    image_library.write_folders(root / "train", image_library.images(3))
    image_library.write_folders(root / "val", image_library.images(1, first=100))
    train = sorted((root / "train").rglob("*.JPEG"))
    first, second, third = (path.read_bytes() for path in (train[0], train[4], train[8]))
    train[1].write_bytes(b"")
    train[2].write_bytes(third[:300])
    train[3].write_bytes(png_header(50000, 50000))
    val = root / "val" / image_library.WNIDS[0]
    (val / "same.JPEG").write_bytes(first)
    with Image.open(train[4]) as picture:
        assert picture.size == (48, 40), len(second)
        (val / "alike.JPEG").write_bytes(encoded(picture.resize((60, 50)), "JPEG", quality=70))
        (val / "small.JPEG").write_bytes(encoded(picture.resize((30, 25)).rotate(90), "JPEG"))
    return root


def prepared(folder: Path, out: Path, *more: str) -> dict[str, Any]:
    config: Any = options(
        *small_images(folder, out, f"out={out}", "workers=1", "ask=false", *more), config_name="prepare"
    )
    report = prepare.run(config)
    assert report is not None
    return report


def test_images_are_verified_indexed_compared_and_packed(folder: Path, tmp_path: Path) -> None:
    report = prepared(folder, tmp_path, "shards.enabled=true")
    assert sorted(Path(problem["path"]).name for problem in report["problems"]) == [
        "n01440764_1.JPEG",
        "n01440764_2.JPEG",
        "n01443537_0.JPEG",
    ]
    assert {problem["status"] for problem in report["problems"]} == {"broken"}
    assert "more than max_pixels" in report["problems"][2]["reason"]
    assert (report["splits"]["train"]["usable"], report["splits"]["val"]["usable"]) == (6, 6)
    assert report["duplicates"]["across_splits"] == 1
    alike = [{Path(video["path"]).name for video in pair["videos"]} for pair in report["near_duplicates"]["list"]]
    assert alike == [{"n01443537_1.JPEG", "alike.JPEG"}]
    assert [(Path(row["path"]).name, row["pixels"]) for row in report["short"]["list"]] == [("small.JPEG", 25)]
    assert report["splits"]["train"]["formats"] == {"JPEG": 6}
    page = (tmp_path / "report.md").read_text()
    assert "6 usable" in page
    assert "Small images" in page
    assert "images per class" in page
    assert "video" not in page.replace("mvit_video", "")

    # The index, whose images lie in shards, gives the samples that the files give.
    source = [word for word in report["use"].split() if word.startswith("data")]
    builder = ImageClassification()
    plain = options(*small_images(folder, tmp_path))
    indexed = options(*[word for word in small_images(folder, tmp_path) if "source.folder" not in word], *source)
    splits = [builder.read_split(config, build_source(config.data, WORLD), "train") for config in (plain, indexed)]
    sets = [builder.train_loader(config, split, WORLD).dataset for config, split in zip((plain, indexed), splits)]
    names = [[Path(path).name for path in split.paths] for split in splits]
    assert len(names[1]) == 6
    for place, name in enumerate(names[1]):
        ours, theirs = sets[1]._read(0, place), sets[0]._read(0, names[0].index(name))
        assert isinstance(ours, torch.Tensor)
        assert torch.equal(ours, theirs)  # type: ignore[arg-type]


def test_images_are_not_encoded_again(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"reencode\.enabled=true: writes videos"):
        prepared(folder, tmp_path, "reencode.enabled=true")


def test_signatures_of_copies_are_near_and_of_others_far() -> None:
    def hashes(picture: Image.Image) -> np.ndarray:
        text = signature(np.asarray(picture))
        return np.array([int(text[i : i + 16], 16) for i in range(0, len(text), 16)], dtype=object)

    def bits(one: np.ndarray, other: np.ndarray) -> int:
        return sum((a ^ b).bit_count() for a, b in zip(one, other))

    pictures = [Image.open(Path(__file__).parents[2] / "docs" / "quickstart_curves.png").convert("RGB")]
    rng = np.random.default_rng(0)
    pictures.append(Image.fromarray(rng.integers(0, 255, (7, 9, 3), np.uint8)).resize((300, 200)))
    for picture in pictures:
        copy = picture.resize((picture.width // 2, picture.height // 2))
        assert bits(hashes(picture), hashes(copy)) < 8 * 6
    assert bits(hashes(pictures[0]), hashes(pictures[1])) > 8 * 12
