"""The page of a detector: average precisions in place of accuracies."""

from typing import Any

from mvit_video.exporting.model_card import model_card


def about(masks: str | None) -> dict[str, Any]:
    """What the file of a detector says of itself, as far as the page shows it."""
    return {
        "config": {"model": {"name": "mask_rcnn_mvitv2_t"}, "augment": {"view": "jitter"}},
        "preprocessing": {
            "kind": "image",
            "task": "detection",
            "input": {"values": "x", "mean": [1], "std": [2], "channels": "RGB"},
            "views": {"short_side": 800},
            "output": {"scores": "softmax", "masks": masks, "score_threshold": 0.05},
        },
        "class_names": ["bolt", "nut|<b>"],
        "precision": "bf16",
        "mvit_video": "1",
        "results": {
            "published": {"box_ap": 48.3, "mask_ap": 43.8, "measured_by": "them"},
            "evaluation": {"box_ap": 47.123, "split": "test", "num_images": 20},
            "precision_cost": {"on": "the images given", "fp32": {"objects": 9}, "bf16": {"objects": 8}},
        },
    }


def test_a_page_of_boxes_and_masks() -> None:
    page = model_card(about("bool"), title="parts", repo="a/b", files=["model.safetensors"], licence="mit")
    assert (
        "pipeline_tag: object-detection\ntags:\n- mvit\n- mvitv2\n- object-detection\n- instance-segmentation\n" in page
    )
    assert "`mask_rcnn_mvitv2_t`, which finds boxes and masks of objects of 2 classes in images of any size" in page
    assert "| | box AP | mask AP | images |\n|---|---|---|---|\n" in page
    assert "| published (measured by them) | 48.3 | 43.8 | - |\n| evaluation (split test) | 47.1 | - | 20 |\n" in page
    assert "**fp32, on the images given**: objects 9" in page and "**bf16, on the images given**: objects 8" in page
    assert (
        "| short side | 800 |" in page
        and "| score threshold | 0.05 |" in page
        and "| `augment.view` | jitter |" in page
    )
    assert "nut\\|&lt;b&gt;" in page


def test_a_page_of_boxes_alone() -> None:
    page = model_card(about(None), title="parts", repo="a/b", files=["model.safetensors"], licence="mit")
    assert "finds boxes of objects" in page and "instance-segmentation" not in page and "one.mask" not in page
