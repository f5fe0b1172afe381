"""Train the small MViTv2 on the embedded motion set, evaluate it three ways, and say where everything lies.

Arguments are training options. Another seed needs another name: `seed=1 name=quickstart_seed1`.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

RUNS = Path("runs")
NAME = "quickstart"


def train(*options: str) -> Path:
    """Train on the embedded set, or go on with it; the folder of the run."""
    name = ([NAME] + [option.removeprefix("name=") for option in options if option.startswith("name=")])[-1]
    others = [option for option in options if not option.startswith("name=")]
    run("mvit_video.train", "+experiment=motion_mvitv2", f"name={name}", *machine_options(), *others)
    return RUNS / name


def machine_options() -> list[str]:
    """On a GPU one process with loader workers. On a CPU two processes of one thread each, which decode their own
    videos: on models this small that is faster than one process with two threads and loader workers."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if torch.cuda.is_available():
        return ["launcher.processes=1", f"trainer.num_workers={min(8, cores)}"]
    if cores < 2:
        return ["launcher.processes=1", "trainer.num_workers=0", "trainer.threads=1"]
    return ["launcher.processes=2", "trainer.batch_size=8", "trainer.num_workers=0", "trainer.threads=1"]


def evaluate(run_dir: Path, frame_order: str) -> dict[str, float]:
    """Accuracies of the last weights on frames in the given order; all other options are the run's."""
    folder = run_dir / ("evaluation" if frame_order == "forward" else f"evaluation_{frame_order}")
    words = (f"run={run_dir}", f"checkpoint={newest(run_dir)}", f"frame_order={frame_order}", f"output={folder}")
    run("mvit_video.evaluate", *words, *machine_options())
    return json.loads((folder / "results.json").read_text())


def newest(run_dir: Path) -> Path:
    """The last checkpoint of the run."""
    return sorted((run_dir / "checkpoints").glob("step_*.pt"))[-1]


def reversed_share(run_dir: Path) -> float:
    """Per cent of the videos shown backwards for which the model names the reversed motion."""
    lines = (run_dir / "evaluation_reversed" / "predictions.jsonl").read_text().splitlines()
    names = (Path("data/motion") / "classes.txt").read_text().split()
    partner = {name: names[index ^ 1] for index, name in enumerate(names)}
    rows = [json.loads(line) for line in lines]
    return 100 * sum(row.get("predicted") == partner[row["label"]] for row in rows) / len(rows)


def run(module: str, *words: str) -> None:
    """Run a command of the package; end with its exit code if it fails."""
    code = subprocess.run([sys.executable, "-m", module, *words]).returncode
    if code:
        sys.exit(code)


def main(options: list[str]) -> None:
    """Train, evaluate, report."""
    started = time.monotonic()
    run_dir = train(*options)
    trained = time.monotonic()
    forward = evaluate(run_dir, "forward")
    shuffled = evaluate(run_dir, "shuffled")
    evaluate(run_dir, "reversed")
    seconds = [round(t) for t in (trained - started, time.monotonic() - trained)]
    scores = (forward["video_top1"], forward["clip_top1"], shuffled["video_top1"], reversed_share(run_dir))
    print(f"""
Data set and training took {seconds[0]} s, the three evaluations {seconds[1]} s. On {forward["num_videos"]} test videos:

  right motion named, 3 clips a video       {scores[0]:5.1f} %   (single clips: {scores[1]:.1f} %)
  the same frames shuffled                  {scores[2]:5.1f} %   (a model blind to time cannot pass 50 %)
  reversed motion named, frames reversed    {scores[3]:5.1f} %

Curves       {run_dir}/curves.png
Confusions   {run_dir}/evaluation/confusion.png
Results      {run_dir}/evaluation/results.json, predictions.jsonl
Videos       data/motion/videos
Checkpoints  {run_dir}/checkpoints
TensorBoard  {Path(sys.executable).parent}/tensorboard --logdir {run_dir}/tensorboard
""")


if __name__ == "__main__":
    main(sys.argv[1:])
