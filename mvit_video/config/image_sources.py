"""Options of the group `data/source` for images: where they and their labels are."""

from collections.abc import Iterator
from dataclasses import dataclass

from omegaconf import SI

from mvit_video.config.rules import option
from mvit_video.config.sources import ListOptions
from mvit_video.config.table_sources import TableOptions

_CLASS_NAMES = "file with one class name a line, in the order of the labels; imagenet_1k: those of ImageNet-1k"


@dataclass
class ImageFolderSource:
    """One folder of images per class; the validation images in folders of the same names."""

    _target_: str = "mvit_video.data.datasets.image_sources.ImageFolderSource"
    train: str | None = option(None, help="folder of the training images, with one folder per class in it")
    val: str | None = option(None, help="folder of the validation images")
    test: str | None = option(None, help="folder of the test images; null: that of the validation images")


@dataclass
class ImageNetSource:
    """ImageNet and its evaluation sets: a folder per wnid, folders 0 to 999, or a flat validation folder."""

    _target_: str = "mvit_video.data.datasets.imagenet.ImageNetSource"
    folder: str | None = option(None, help="folder that holds train and val; or give the splits by themselves")
    train: str | None = option(None, help="folder of the training images, with one folder per wnid in it")
    val: str | None = option(None, help="folder of the validation images; folders of wnids or numbers, or flat")
    test: str | None = option(None, help="folder of the test images; null: that of the validation images")
    val_labels: str | None = option(
        None,
        help="classes of a flat validation or test folder: the devkit's ground truth, LOC_val_solution.csv, or "
        "lines of `name wnid`",
    )
    synsets: str | None = option(
        None, help="file with an ILSVRC2012_ID and its wnid a line (map_clsloc.txt), for the devkit's ground truth"
    )
    names: str | None = option(
        None, help="file with a wnid and its readable name a line (LOC_synset_mapping.txt); null: those of torchvision"
    )
    label_sets: str | None = option(
        None, help="JSON file with all right labels of each validation or test image (ReaL's real.json); null: one each"
    )

    def problems(self) -> Iterator[str]:
        """Rules between two values."""
        if self.synsets is not None and self.val_labels is None:
            yield f"data.source.synsets={self.synsets}: has no effect without data.source.val_labels; give both"


@dataclass
class ImageListSource(ListOptions):
    """Lists of images: one `path label` a line."""

    _target_: str = "mvit_video.data.datasets.image_sources.ImageListSource"
    separator: str = option(" ", help="what stands between path and label")
    class_names_file: str | None = option(None, help=_CLASS_NAMES)


@dataclass
class ImageTableSource(TableOptions):
    """Tables (CSV, TSV, JSON lines) with a row per image."""

    _target_: str = "mvit_video.data.datasets.table.ImageTableSource"
    class_names_file: str | None = option(None, help=_CLASS_NAMES)


@dataclass
class ImageShardsSource:
    """Tar shards in the WebDataset convention: key.jpg beside key.cls or key.json."""

    _target_: str = "mvit_video.data.datasets.sharded_images.ImageShardsSource"
    train: str | None = option(
        None, help="the training shards: a folder or URL of them, or a pattern such as train-{000..146}.tar or *.tar"
    )
    val: str | None = option(None, help="the validation shards")
    test: str | None = option(None, help="the test shards; null: those of the validation")
    label_key: str = option("label", help="field of key.json that is the label, where there is no key.cls")
    class_names_file: str | None = option(None, help=_CLASS_NAMES)
    num_classes: int | None = option(SI("${data.num_classes}"), at_least=1, help="labels run from 0 to this minus 1")
    listings: str | None = option(
        None, help="folder that keeps what the shards hold; null: they are listed at each start, which reads all heads"
    )


@dataclass
class ImageParquetSource:
    """Parquet files as the Hugging Face Hub distributes them; needs the extra `parquet`."""

    _target_: str = "mvit_video.data.datasets.parquet_images.ImageParquetSource"
    train: str | None = option(
        None, help="the training files: a folder or URL of them, or a pattern such as data/train-*.parquet"
    )
    val: str | None = option(None, help="the validation files")
    test: str | None = option(None, help="the test files; null: those of the validation")
    image_column: str = option("image", help="column of the images, binary or a struct with the field bytes")
    label_column: str = option("label", help="column of the labels, whole numbers")
    class_names_file: str | None = option(None, help=f"{_CLASS_NAMES}; null: those that the files carry")
    num_classes: int | None = option(
        SI("${data.num_classes}"), at_least=1, help="labels run from 0 to this minus 1, where nothing names them"
    )
    memory_mb: int = option(256, at_least=1, help="MiB of row groups that each loader process keeps")
