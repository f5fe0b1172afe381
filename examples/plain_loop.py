"""The model and the clips in a loop of your own: `python -m examples.plain_loop VIDEOS/train VIDEOS/val`."""

import os
import sys
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from mvit_video.data import collate, evaluation_clips, from_folder, normalize, training_clips
from mvit_video.models import create_model

WORKERS = min(4, os.cpu_count() or 1)


def main(
    train_folder: str, val_folder: str, *, epochs: int = 10, workers: int = WORKERS, **model_options: Any
) -> float:
    """Train a small MViTv2 on folders with a folder of videos per class; its accuracy on the second, in per cent."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sizes = {"num_frames": 8, "sampling_rate": 4, "crop_size": 64}
    train_set = training_clips(from_folder(train_folder), **sizes)
    classes = train_set.manifest.class_names
    val_set = evaluation_clips(from_folder(val_folder, class_names=classes), **sizes, short_side=64)
    model_options = {"depth": 4, "stage_starts": (1, 3), "embed_dim": 32, **model_options}
    model = create_model("mvitv2_s_16x4", num_classes=len(classes), num_frames=8, crop_size=64, **model_options)
    model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loader = DataLoader(
        train_set, batch_size=8, shuffle=True, num_workers=workers, persistent_workers=workers > 0, collate_fn=collate
    )
    for epoch in range(epochs):
        train_set.set_epoch(epoch)  # other clips of the same videos
        model.train()
        for batch in loader:
            loss = cross_entropy(model(normalize(batch, device=device)), batch.labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}")
    model.eval()
    right = 0
    with torch.no_grad():
        for batch in DataLoader(val_set, batch_size=8, num_workers=workers, collate_fn=collate):
            right += int((model(normalize(batch, device=device)).cpu().argmax(1) == batch.labels).sum())
    return 100 * right / len(val_set)


if __name__ == "__main__":
    print(f"{main(*sys.argv[1:3]):.1f} % of the validation videos are right")
