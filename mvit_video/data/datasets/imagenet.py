"""The source `imagenet`: ImageNet and the sets made to evaluate on it, as they are distributed.

Training images lie in a folder per wnid. A validation split may lie in such folders, in folders 0, 1, ..., 999
(ImageNet-V2: numbers of classes, whatever order a listing has), or flat, with a file that says each image's class.

Of the files for a flat split, ILSVRC2012_validation_ground_truth.txt of the devkit has one ILSVRC2012_ID a line, for
the images in the order of their names. That ID is not the rank of the sorted wnid, which everybody else takes for the
label: a file must say which ID is which wnid. LOC_val_solution.csv (Kaggle) and plain `name wnid` lists need none.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from mvit_video.data.datasets.class_folders import ClassFolders, manifest_of, read_class_folders
from mvit_video.data.datasets.extensions import IMAGES
from mvit_video.data.datasets.imagenet_names import (
    imagenet_class_names,
    imagenet_wnids,
    named_wnids,
    readable_names,
    wnid_of,
)
from mvit_video.data.datasets.label_set_file import with_label_sets
from mvit_video.data.datasets.left_out import HIDDEN, LeftOutFiles, extension_reason
from mvit_video.data.datasets.listing import read_text, scan
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.datasets.sources import Split, Splits
from mvit_video.runtime.formatting import are, count_text

_SPLIT_FOLDERS: tuple[tuple[Split, tuple[str, ...]], ...] = (
    ("train", ("train",)),
    ("val", ("val", "validation")),
    ("test", ("test",)),
)


@dataclass(kw_only=True)
class ImageNetSource(Splits):
    """ImageNet folders. The classes are "wnid name", in the sorted order of the wnids of the training folder.

    Without a training split they are those of ImageNet-1k, if all folders are among them (ImageNet-A and -R have 200
    of them), else those of the folders.

    Attributes:
        folder: what has `train` and `val` in it; a split that is given by itself need not be there.
        train, val, test: folder of each split.
        val_labels: the classes of a flat val or test folder: the devkit's ground truth, LOC_val_solution.csv, or a list
            of `name wnid` (or `name label`).
        synsets: which ILSVRC2012_ID is which wnid, for the devkit's ground truth: a line has both, in either order
            (map_clsloc.txt, or a table made of meta.mat).
        names: readable names, `wnid name` a line (LOC_synset_mapping.txt); by default those of torchvision, which has
            the classes of ImageNet-1k.
        label_sets: all right labels of each validation or test image (ReaL), see label_set_file; numbers are classes of
            ImageNet-1k.
    """

    folder: str | None = None
    val_labels: str | None = None
    synsets: str | None = None
    names: str | None = None
    label_sets: str | None = None

    def __post_init__(self) -> None:
        if self.synsets is not None and self.val_labels is None:
            raise ValueError(
                f"synsets={self.synsets}: numbers the classes of val_labels, which is not given; give both"
            )
        for split, folders in _SPLIT_FOLDERS:
            found = [os.path.join(self.folder, name) for name in folders] if self.folder is not None else []
            if getattr(self, split) is None:
                setattr(self, split, next((place for place in found if os.path.isdir(place)), None))

    def prepare(self) -> None:
        """Nothing to make; says where a root holds no split."""
        if self.folder is not None and self.train is None and self.val is None and self.test is None:
            scan(self.folder, IMAGES.plural)
            raise ValueError(f"{self.folder}: holds no folder train or val; give data.source.train and data.source.val")

    def _read(self, place: str, split: Split) -> Manifest:
        """The split with its own classes: those of its folders, or of ImageNet-1k."""
        training = split == "train"
        flat = not any(entry.is_dir() and not entry.name.startswith(".") for entry in scan(place, IMAGES.plural))
        if flat and not training:
            manifest = self._flat(place)
        else:
            folders = read_class_folders(place, kind=IMAGES)
            manifest = self._of_folders(folders, training=training)
        if training or self.label_sets is None:
            return manifest
        manifest = manifest.with_classes(imagenet_class_names())  # whose numbers the file means
        return with_label_sets(manifest, self.label_sets)

    def _train_classes(self, place: str) -> tuple[str, ...]:
        return self._named(read_class_folders(place, kind=IMAGES).names)

    def _named(self, names: tuple[str, ...]) -> tuple[str, ...]:
        return named_wnids(names, readable_names(self.names))

    def _all_classes(self) -> tuple[str, ...]:
        """What numbers of classes count in: the training's classes, or ImageNet-1k's."""
        return self._classes("val") or self._named(imagenet_wnids())

    def _of_folders(self, folders: ClassFolders, *, training: bool) -> Manifest:
        manifest = manifest_of(folders)
        if not training and all(re.fullmatch(r"\d{1,6}", name) for name in folders.names):
            return self._numbered(manifest)
        named = replace(manifest, class_names=self._named(folders.names))
        if self.train is None and set(folders.names) <= set(imagenet_wnids()):
            return named.with_classes(self._named(imagenet_wnids()))
        return named

    def _numbered(self, manifest: Manifest) -> Manifest:
        """The manifest of folders whose names are numbers of classes."""
        classes = self._all_classes()
        numbers = [int(name) for name in manifest.class_names]
        if max(numbers) >= len(classes):
            raise ValueError(
                f"{manifest.source}: folder {max(numbers)} is the number of no class: with {len(classes)} classes they "
                f"run from 0 to {len(classes) - 1}; rename the folders to wnids, or give the training split of all"
            )
        return replace(manifest, labels=[numbers[label] for label in manifest.labels], class_names=classes)

    def _flat(self, place: str) -> Manifest:
        if self.val_labels is None:
            raise ValueError(
                f"{place}: holds no class folders; if it is the flat validation split, give data.source.val_labels: "
                "the devkit's ILSVRC2012_validation_ground_truth.txt (with data.source.synsets), LOC_val_solution.csv, "
                "or a list of `name wnid`"
            )
        left_out = LeftOutFiles()
        images: dict[str, str] = {}
        for entry in scan(place, IMAGES.plural):
            if entry.name.startswith("."):
                left_out.add(HIDDEN, entry.name)
            elif not IMAGES.has(entry.name):
                left_out.add(extension_reason(entry.name), entry.name)
            else:
                images[os.path.splitext(entry.name)[0]] = entry.path
        labels = self._labels_of(sorted(images), place)
        classes = self._all_classes()
        known = {wnid_of(name) or name: index for index, name in enumerate(classes)}
        unknown = sorted({label for label in labels.values() if label not in known})
        if unknown:
            raise ValueError(
                f"{self.val_labels}: {count_text(len(unknown), 'class')} {are(len(unknown))} not among the "
                f"{len(classes)} known ones, the first "
                f"{unknown[0]!r}; is it the file of this data set?"
            )
        names = sorted(labels)
        return Manifest(
            [images[name] for name in names],
            [known[labels[name]] for name in names],
            classes,
            place,
            left_out=left_out.frozen(),
            kind=IMAGES,
        )

    def _labels_of(self, images: list[str], place: str) -> Mapping[str, str]:
        """The class (wnid) of each image of a flat folder."""
        assert self.val_labels is not None
        lines = [line.strip() for line in read_text(self.val_labels, "file of labels").splitlines() if line.strip()]
        if lines and all(line.isdigit() for line in lines):
            return self._ground_truth(images, [int(line) for line in lines], place)
        listed = _listed(lines, self.val_labels, self._all_classes())
        for one, other, what in ((listed, images, "has no image of"), (images, listed, "says nothing about")):
            absent = sorted(set(one) - set(other))
            if absent:
                where = place if one is listed else self.val_labels
                raise ValueError(
                    f"{where}: {what} {len(absent)} of the {len(one)} names, the first {absent[0]}; {self.val_labels} "
                    f"and {place} must belong together, and both be whole"
                )
        return listed

    def _ground_truth(self, images: list[str], numbers: list[int], place: str) -> Mapping[str, str]:
        """From the devkit's file: ILSVRC2012_IDs in the order of the images' names."""
        if len(numbers) != len(images):
            raise ValueError(
                f"{self.val_labels}: {len(numbers)} labels for the {len(images)} images of {place}; the ground truth "
                "has one line for each image, in the order of their names: give the whole split"
            )
        if self.synsets is None:
            raise ValueError(
                f"{self.val_labels}: has ILSVRC2012_IDs, which are not the ranks of the sorted wnids; give "
                "data.source.synsets, a file with an ID and its wnid on each line (map_clsloc.txt, or from meta.mat)"
            )
        wnids = read_synsets(self.synsets)
        absent = sorted(set(numbers) - set(wnids))
        if absent:
            raise ValueError(f"{self.synsets}: lacks the ILSVRC2012_ID {absent[0]}, which {self.val_labels} has")
        return {image: wnids[number] for image, number in zip(images, numbers)}


def read_synsets(path: str) -> Mapping[int, str]:
    """Wnids by ILSVRC2012_ID, from lines that hold both, in either order, separated by spaces, tabs or commas.

    Raises:
        ValueError: a line without both, or an ID or wnid that comes twice.
    """
    wnids: dict[int, str] = {}
    for number, line in enumerate(read_text(path, "file of synsets").splitlines(), start=1):
        fields = re.split(r"[\s,;]+", line.strip())[:2]
        if fields == [""]:
            continue
        wnid = next((field for field in fields if re.fullmatch(r"n\d{8}", field)), None)
        identity = next((field for field in fields if re.fullmatch(r"\d{1,6}", field)), None)
        if wnid is None or identity is None:
            if number == 1:
                continue  # the names of the columns
            raise ValueError(
                f"{path}:{number}: {line!r}; a line begins with a wnid and its ILSVRC2012_ID, in either order. A list "
                "of wnids alone does not say the IDs"
            )
        if int(identity) in wnids or wnid in wnids.values():
            raise ValueError(f"{path}:{number}: {line!r} repeats an ID or a wnid; leave one of the lines out")
        wnids[int(identity)] = wnid
    if not wnids:
        raise ValueError(
            f"{path}: no line has a wnid and its ILSVRC2012_ID; a list of wnids alone does not say the IDs"
        )
    return wnids


def _listed(lines: list[str], source: str, classes: tuple[str, ...]) -> dict[str, str]:
    """The class (wnid or name) of each image, by its name without extension, from `name wnid` or `name label` lines.

    The line that names the columns of LOC_val_solution.csv is passed over; of its boxes the class of the first counts.
    """
    listed: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        fields = re.split(r"[\s,]+", line)
        if fields[0] == "ImageId":
            continue
        if len(fields) < 2 or not (re.fullmatch(r"n\d{8}", fields[1]) or fields[1].isdigit()):
            raise ValueError(f"{source}: line {number}, {line[:80]!r}, is no `name wnid` or `name label`; correct it")
        label = fields[1]
        if label.isdigit():
            if int(label) >= len(classes):
                raise ValueError(
                    f"{source}: line {number}: label {label}; with {len(classes)} classes, labels run from 0 to "
                    f"{len(classes) - 1}"
                )
            label = wnid_of(classes[int(label)]) or classes[int(label)]
        name = os.path.splitext(os.path.basename(fields[0]))[0]
        if listed.setdefault(name, label) != label:
            raise ValueError(f"{source}: line {number}: {name} is {label} here and {listed[name]} before; correct one")
    return listed
