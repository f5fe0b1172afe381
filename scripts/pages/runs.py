"""Runs that a page takes for granted because another page, or none, makes them."""

_BIRDS = (
    "python -m mvit_video.train +experiment=finetune_folder name={} weights=k400_mvitv2_s "
    "data.source.train=birds/train data.source.val=birds/val"
)
MADE_BY = {
    **{name: _BIRDS.format(name) for name in ("birds", "birds2", "birds3", "sports")},
    "birds-fold-0": (
        "python -m mvit_video.train --multirun +experiment=finetune_folder name=birds weights=k400_mvitv2_s "
        "data.source.train=birds/train data.folds=2 data.fold=0,1"
    ),
    "parts": (
        "python -m mvit_video.train +experiment=finetune_detection name=parts weights=coco_mask_rcnn_mvitv2_t "
        "data.source.train=parts/train.json data.source.val=parts/val.json"
    ),
    "in1k_mvitv2_t": "python -m mvit_video.train +experiment=in1k_mvitv2_t data.source.folder=imagenet",
    "in1k_mvitv2_b": "python -m mvit_video.train +experiment=in1k_mvitv2_b data.source.folder=imagenet",
}

NEEDS = {
    "README.md": ("birds2", "birds-fold-0"),
    "docs/audit.md": ("birds",),
    "docs/export.md": ("birds", "parts"),
    "docs/images.md": ("in1k_mvitv2_t",),
    "docs/model.md": ("in1k_mvitv2_b",),
    "docs/predict.md": ("birds", "sports", "parts"),
    "docs/report.md": ("birds", "birds2", "birds3"),
}
