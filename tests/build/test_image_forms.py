"""A recipe takes ImageNet in each form that it is stored in, and its samples are the same in all of them."""

from pathlib import Path

import pytest
import torch

from mvit_video.build.common import build_source, build_task_builder
from mvit_video.data.loading.batch import Sample
from mvit_video.distributed.process_group import World
from tests.conftest import options
from tests.image_library import NAMES, images, write_flat, write_folders, write_list, write_parquet, write_shards

WORLD = World(rank=0, size=1, device=torch.device("cpu"))


def written(form: str, folder: Path) -> list[str]:
    """The miniature ImageNet in a form, and the options that read it."""
    parts = {"train": images(3), "val": images(2, first=500)}
    names = folder / "names.txt"
    names.write_text("\n".join(NAMES) + "\n")
    for split, part in parts.items():
        if form == "folders":
            write_folders(folder / split, part)
        elif form == "flat":
            (write_folders if split == "train" else write_flat)(folder / split, part)
        elif form == "list":
            write_list(folder / f"{split}.txt", part)
        elif form == "shards":
            write_shards(folder / "wds", part, prefix=split)
        else:
            write_parquet(folder / "pq", part, prefix=split)
    if form == "flat":
        (folder / "labels.txt").write_text("".join(f"{name} {label}\n" for name, (_, label) in parts["val"].items()))
    ours = [f"data.source.class_names_file={names}"]
    return {
        "folders": [f"data.source.folder={folder}"],
        "flat": [f"data.source.folder={folder}", f"data.source.val_labels={folder}/labels.txt"],
        "list": [
            "data/source=image_list", f"data.source.root={folder}", f"data.source.train={folder}/train.txt",
            f"data.source.val={folder}/val.txt", *ours,
        ],
        "shards": [
            "data/source=image_shards", f"data.source.val={folder}/wds/val-*.tar",
            f"data.source.train='{folder}/wds/train-{{000000..000001}}.tar'", *ours,
        ],
        "parquet": [
            "data/source=image_parquet", f"data.source.train={folder}/pq/train-*.parquet",
            f"data.source.val={folder}/pq/val-*.parquet", *ours,
        ],
    }[form]  # fmt: skip


def samples(form: str, folder: Path) -> list[Sample]:
    """Every training sample of an epoch by number of its image, and every test view."""
    folder.mkdir()
    more = ["data.num_classes=3", "data.crop_size=32", "trainer.batch_size=2"]
    more.append(f"trainer.num_workers={2 if form == 'parquet' else 0}")  # files that are open here are not shared
    config = options("+experiment=in1k_mvitv2_t", "trainer.global_batch=2", *more, *written(form, folder))
    source, builder = build_source(config.data, WORLD), build_task_builder(config)
    train = builder.read_split(config, source, "train")
    val = builder.read_split(config, source, "val", class_names=train.class_names)
    assert train.class_names == val.class_names == NAMES
    loader = builder.train_loader(config, train, WORLD)
    evaluation = builder.validation(config, val, WORLD)
    assert next(loader.batches(0)).labels.shape == (2,)
    return [loader.dataset[(4, 0, image)] for image in range(9)] + [evaluation.dataset[image] for image in range(6)]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """The samples of the folders."""
    return samples("folders", tmp_path_factory.mktemp("in") / "folders")


@pytest.mark.parametrize("form", ["flat", "list", "shards", "parquet"])
def test_every_form_gives_the_samples_of_the_folders(form: str, expected: list[Sample], tmp_path: Path) -> None:
    for ours, theirs in zip(samples(form, tmp_path / form), expected, strict=True):
        assert ours.clips.dtype == torch.uint8 and torch.equal(ours.clips, theirs.clips)
        assert ours.label == theirs.label and Path(ours.path).stem == Path(theirs.path).stem
        assert torch.equal(ours.noise_seeds, theirs.noise_seeds) and not ours.failures
