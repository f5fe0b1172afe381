"""Names of the classes of published weights, in the order of their heads: those that torchvision brings along."""

import functools

from mvit_video.data.datasets.imagenet_names import IMAGENET_1K, imagenet_class_names

KINETICS_400 = "kinetics_400"
COCO_2017 = "coco_2017"


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
