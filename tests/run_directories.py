"""Run directories as a training leaves them, for tests of what reads them."""

import json
import os
from pathlib import Path
from typing import Any

from mvit_video.runtime.journal import append_event

HOST = os.uname().nodename


def write_run(folder: Path, name: str = "s") -> Path:
    """A run of 30 steps in `folder`, which is returned."""
    run_dir = folder / name
    append_event(run_dir, "start", job="local", nodes=HOST, pid=os.getpid(), restart=0)
    append_event(run_dir, "steps", total=100)
    append_event(run_dir, "end", job="local", status="saved", cause="asked to stop")
    append_event(run_dir, "start", job="local", nodes=HOST, pid=os.getpid(), restart=0)
    lines: list[dict[str, Any]] = [
        {"kind": "train", "step": step, "time": 1000.0 + 2 * step, "clips_per_s": 8.0} for step in range(1, 31)
    ]
    lines.insert(10, {"kind": "eval", "step": 10, "video_top1": 61.5})
    lines.append({"kind": "eval", "step": 30, "video_top1": 60.0})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (run_dir / "metrics.jsonl").write_text(text + '{"kind": "tra')  # a line that is being written
    return folder
