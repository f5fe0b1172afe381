"""An exported file in a hundred lines: from a video or image to classes, with nothing else than the file.

    python examples/read_export.py garden.mp4 birds.onnx         # onnx, onnxruntime, NumPy, PyAV, Pillow
    python examples/read_export.py garden.mp4 birds.safetensors  # besides PyTorch, and mvit_video.models for the layers

Scores are those of `python -m mvit_video.predict` but for rounding; segments may be a frame off, mirrors stay.
"""

import json
import sys

import numpy as np
from PIL import Image, ImageOps


def load(path):
    """What the file says of itself, and a function from float32 inputs (B, 3, ...) to logits (B, classes)."""
    if path.endswith(".onnx"):
        import onnx
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        about = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
        return about, lambda x: session.run(None, {session.get_inputs()[0].name: x})[0]
    import torch
    from safetensors import safe_open

    from mvit_video.models import from_checkpoint

    model = from_checkpoint(path).eval()
    return safe_open(path, "pt").metadata(), lambda x: model(torch.from_numpy(x)).detach().numpy()


def frames_of_views(total, fps, views):
    """Frame numbers of the clip of each temporal view."""
    sampling, count = views["sampling"], views["temporal_views"]
    frames, rate = sampling["num_frames"], sampling["target_fps"]
    if sampling["mode"] == "segments":  # the middle of equal parts of the video, in pictures at `rate`
        length = (max(1, round(total * rate / fps)) - 1) / frames
        middles = [(round(length * i) + round(length * (i + 1))) // 2 for i in range(frames)]
        return [[min(int(picture * fps / rate + 0.5), total - 1) for picture in middles]]
    span = max(1.0, frames * sampling["sampling_rate"] / rate * fps)
    slack, step = max(total - span, 0.0), (span - 1) / max(frames - 1, 1)
    starts = [int(slack / 2)] if count == 1 else [i * int(slack / (count - 1)) for i in range(count)]
    return [[min(int(start + step * i), total - 1) for i in range(frames)] for start in starts]


def resize(frame, short, views):
    """The frame with a short side of so many pixels."""
    (height, width), limit = frame.shape[:2], views.get("antialias_above_short_side")
    longer = short if views.get("crop_ratio") == 0 else max(height, width) * short // min(height, width)
    new = (longer, short) if width < height else (short, longer)
    if "interpolation" in views or (limit is not None and min(height, width) > limit):
        method = Image.Resampling[views.get("interpolation", "bilinear").upper()]
        return np.asarray(Image.fromarray(frame).resize(new[::-1], method))
    for axis in (0, 1):  # without antialiasing, pixel centres at halves
        size = frame.shape[axis]
        at = np.clip((np.arange(new[axis]) + 0.5) * size / new[axis] - 0.5, 0, size - 1)
        low, share = at.astype(int), (at % 1).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        frame = frame.take(low, axis) * (1 - share) + frame.take(np.minimum(low + 1, size - 1), axis) * share
    return np.rint(frame).astype(np.uint8)


def inputs_of(path, kind, views):
    """uint8 (views, T, S, S, 3) of a video, (1, S, S, 3) of an image."""
    size = views["crop_size"]
    if kind == "image":
        upright = ImageOps.exif_transpose if views["reading"]["orientation"] == "apply" else Image.Image.copy
        short = int(size / views["crop_ratio"]) if views["crop_ratio"] else size
        frame = resize(np.asarray(upright(Image.open(path)).convert("RGB")), short, views)
        top, left = (round((side - size) / 2) for side in frame.shape[:2])
        return frame[None, top : top + size, left : left + size]
    import av

    video, found = av.open(path, metadata_errors="replace"), []
    frames = [np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90) for frame in video.decode(video=0)]
    for clip in frames_of_views(len(frames), float(video.streams.video[0].average_rate), views):
        pictures = np.stack([resize(frames[number], views["short_side"], views) for number in clip])
        places = np.array([[0.5, 0.5]]) if views["spatial_views"] == 1 else np.array([[0, 0.5], [0.5, 0.5], [1, 0.5]])
        for place in places if pictures.shape[1] > pictures.shape[2] else places[:, ::-1]:  # along the longer side
            top, left = np.ceil((np.array(pictures.shape[1:3]) - size) * place).astype(int)
            found.append(pictures[:, top : top + size, left : left + size])
    return np.stack(found)


def classify(source, path):
    """(class, score) of the file, the best first."""
    about, model = load(path)
    if (what := json.loads(about["preprocessing"])).get("task") == "detection":
        raise SystemExit(f"{path}: is a detector, and this reads classifiers; python -m mvit_video.predict reads both")
    pixels, values = inputs_of(source, what["kind"], what["views"]), what["input"]
    x = (pixels.astype(np.float32) / 255 - np.float32(values["mean"])) / np.float32(values["std"])
    logits = np.float64(model(np.ascontiguousarray(np.moveaxis(x, -1, 1))))
    odds, sigmoid = np.exp(logits - logits.max(1, keepdims=True)), (1 + np.tanh(logits / 2)) / 2
    scores = odds / odds.sum(1, keepdims=True) if what["output"]["scores"] == "softmax" else sigmoid
    return sorted(zip(json.loads(about["class_names"]), scores.mean(0).tolist()), key=lambda pair: -pair[1])


if __name__ == "__main__":
    print("\n".join(f"{score:.4f}  {name}" for name, score in classify(*sys.argv[1:3])[:5]))
