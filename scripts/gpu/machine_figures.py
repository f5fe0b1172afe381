"""From results.json to a machine file of `python -m mvit_video.plan`: figures that were assumed become measured ones.

    python scripts/bench_gpu.py --out DIR --machine conf/machine/h100.yaml

- utilisation: operations of S's training step at batch 16 as the plan counts them, over the time of the fastest form
  that `trainer` offers (eager, compiled or as its graphs), as a share of the file's `matrix_tflops`.
- launch_us: the time for which the host is busy with an eager step at batch 1, over the kernels the plan reckons with.

Only these lines of the file change, and a comment says what they come from.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PRESET, BATCH = "mvitv2_s_16x4", 16
OFFERED = ("eager", "compiled", "as the trainer's graphs")
"""Forms of the step `training` that `trainer.compile` and `trainer.cuda_graphs` choose between."""
REMARK = "# Measured: "


@dataclass(frozen=True)
class Figures:
    """What was measured.

    Attributes:
        card, day, torch: where, when and with what.
        form: of the fastest step.
        clips_s: clips per second in it.
        host_s: seconds for which the host is busy with an eager step of one clip.
    """

    card: str
    day: str
    torch: str
    form: str
    clips_s: float
    host_s: float


def read_figures(results: Path) -> Figures:
    """The figures of a results.json.

    Raises:
        ValueError: it is a rehearsal, or a figure is missing.
    """
    content = json.loads(results.read_text(encoding="utf-8"))
    if content["rehearsal"]:
        raise ValueError(f"{results} is a rehearsal on the CPU, which measured nothing: run the kit on a GPU")
    if content.get("null_gpu"):
        raise ValueError(f"{results} comes from the null GPU, which measures nothing: run the kit on a card")
    facts: dict[str, Any] = {}
    rows: dict[tuple[int, str], dict[str, Any]] = {}
    for step in content["steps"]:
        for record in step["records"]:
            facts |= record.get("fact", {})
            row = record.get("row", {})
            if step["name"] == "training" and row.get("model") == "ours" and "clips/s" in row:
                rows[row["batch"], row["form"]] = row
    forms = {form: rows[BATCH, form]["clips/s"] for form in OFFERED if (BATCH, form) in rows}
    if not forms or (1, OFFERED[0]) not in rows or "card" not in facts:
        raise ValueError(
            f"{results} lacks the card, ours at batch {BATCH} ({' or '.join(OFFERED)}) or ours eager at batch 1: run "
            "the steps card and training to their end"
        )
    fastest = max(forms, key=lambda form: forms[form])
    return Figures(
        card=facts["card"],
        day=content["started"].split()[0],
        torch=str(facts["torch"]),
        form=fastest,
        clips_s=forms[fastest],
        host_s=rows[1, OFFERED[0]]["host busy, ms"] / 1e3,
    )


def planned_flops() -> float:
    """Operations of a training step per clip, as the plan counts them: three forward passes of our form."""
    import torch

    from mvit_video.models import MViT, get_config
    from mvit_video.models.mvit.activation_checkpointing import measure_blocks

    config = get_config(PRESET)
    with torch.device("meta"):
        model = MViT(config)
    model = model.to_empty(device="cpu").train()
    shape = (1, config.in_channels, config.num_frames, config.crop_size, config.crop_size)
    with torch.autocast("cpu", torch.bfloat16):
        costs, _ = measure_blocks(model, shape)
    return 3.0 * sum(cost.flops for cost in costs)


def renewed(text: str, figures: Figures, *, flops: float) -> str:
    """A machine file with the measured figures in place of its own.

    Args:
        text: of the file.
        figures: what was measured.
        flops: of a training step per clip.

    Raises:
        ValueError: the file states no matrix_tflops.
    """
    from mvit_video.models import get_config
    from mvit_video.planning.costs import LAUNCHES_PER_BLOCK

    rate = re.search(r"^matrix_tflops: *([0-9.]+)", text, re.MULTILINE)
    if rate is None:
        raise ValueError("the machine file states no matrix_tflops, of which utilisation is a share")
    values = {
        "utilisation": flops * figures.clips_s / (float(rate[1]) * 1e12),
        "launch_us": 1e6 * figures.host_s / (LAUNCHES_PER_BLOCK * get_config(PRESET).depth),
    }
    lines = [line for line in text.splitlines() if not line.startswith(REMARK)]
    for name, value in values.items():
        line = f"{name}: {value:.3g}"
        places = [place for place, old in enumerate(lines) if old.startswith(f"{name}:")]
        if places:
            lines[places[0]] = line
        else:
            lines.append(line)
    first = next(place for place, line in enumerate(lines) if line.startswith("utilisation:"))
    lines.insert(
        first,
        f"{REMARK}utilisation and launch_us, on {figures.card} with torch {figures.torch}, {figures.day}; S at batch "
        f"{BATCH}, {figures.form}.",
    )
    return "\n".join(lines) + "\n"


def renew_file(results: Path, file: Path) -> str:
    """Renew a machine file by a results.json; its new text.

    Raises:
        ValueError: as `read_figures` and `renewed`.
    """
    figures, text = read_figures(results), file.read_text(encoding="utf-8")
    text = renewed(text, figures, flops=planned_flops())
    beside = file.with_name(f".{file.name}")
    beside.write_text(text, encoding="utf-8")
    beside.replace(file)
    return text
