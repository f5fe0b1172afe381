"""Train and evaluate in Python, with an own model: `python -m examples.train_in_python VIDEOS/train VIDEOS/val`."""

import sys
from typing import Any

from examples.own_model.model import ConvNet
from mvit_video import evaluate, train


def main(train_folder: str, val_folder: str, **more: Any) -> dict[str, float]:
    """Train on folders with a folder of videos per class; the numbers of the evaluation.

    Args:
        train_folder, val_folder: of the two splits.
        more: further options.
    """
    options = {
        "data.source": {"train": train_folder, "val": val_folder},
        "model": {"_target_": ConvNet, "num_classes": "${data.num_classes}", "width": 8},
        "optim": {"lr": 1e-3, "layer_decay": 1.0},
        **more,
    }
    run = train("finetune_folder", options, name="in_python")
    print(f"best {run.best_metric}: {run.best}, after step {run.best_step}; {run.checkpoint}")
    model = run.load_model()  # an nn.Module with these weights
    print(f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters")
    return evaluate(run).metrics


if __name__ == "__main__":
    print(main(*sys.argv[1:3]))
