"""Names of the classes of published weights, in the order of their heads: those that torchvision brings along."""

import functools
from collections.abc import Sequence

from mvit_video.data.datasets.imagenet_names import IMAGENET_1K, imagenet_class_names

KINETICS_400 = "kinetics_400"
COCO_2017 = "coco_2017"
COCO_CLASSES = 80


@functools.cache
def published_class_names(classes: str) -> tuple[str, ...] | None:
    """Names of the classes that a published file of weights has, in the order of its head.

    Args:
        classes: as `mvit_video.models.weights.zoo.Entry.classes` says it.

    Returns:
        "kinetics_400": 400 names; "imagenet_1k": 1000, as "n01440764 tench"; "coco_2017": the 80 kinds of objects, in
        the order of their numbers. None for others, whose names come with the data set.
    """
    if classes == IMAGENET_1K:
        return imagenet_class_names()
    if classes == KINETICS_400:
        from torchvision.models.video import MViT_V2_S_Weights  # slow to import

        return tuple(MViT_V2_S_Weights.KINETICS400_V1.meta["categories"])
    if classes == COCO_2017:
        from torchvision.models.detection import MaskRCNN_ResNet50_FPN_V2_Weights as Weights

        unused = ("__background__", "N/A")  # the numbers of COCO have gaps, the heads have none
        return tuple(name for name in Weights.COCO_V1.meta["categories"] if name not in unused)
    return None


def coco_category_numbers(names: Sequence[str]) -> dict[str, int]:
    """The number of each class in COCO's files of results: COCO's own, with their gaps, for its 80 kinds of objects in
    their order, and 1, 2, 3 and so on for all others."""
    numbers = dict(zip(names, range(1, len(names) + 1)))
    if len(names) != COCO_CLASSES or tuple(names) != published_class_names(COCO_2017):
        return numbers
    from torchvision.models.detection import MaskRCNN_ResNet50_FPN_V2_Weights as Weights

    return {name: number for number, name in enumerate(Weights.COCO_V1.meta["categories"]) if name in numbers}
