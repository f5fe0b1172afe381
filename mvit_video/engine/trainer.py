"""The training loop: batches in, weights, curves and checkpoints out."""

import json
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mvit_video.data.batch import Batch
from mvit_video.data.loader import TrainLoader
from mvit_video.data.mixing import Mixing, soft_cross_entropy
from mvit_video.distributed import World, data_parallel, mean_over_ranks
from mvit_video.engine.checkpoint import load_latest, save_checkpoint
from mvit_video.engine.precision import autocast
from mvit_video.engine.tracking import Tracker
from mvit_video.env import rng_for, step_seed

logger = logging.getLogger(__name__)

Prepare = Callable[[Batch], torch.Tensor]
Validate = Callable[[nn.Module], dict[str, float]]
# What a batch-wide random draw is for, the first part of its key.
DRAW_MIXING, DRAW_MODEL = 1, 2


class NonFiniteLossError(RuntimeError):
    """The loss of a step is NaN or infinite."""


class TooManyFailuresError(RuntimeError):
    """More training videos could not be read than the run allows."""


@dataclass(frozen=True, kw_only=True)
class TrainerOptions:
    """How long to train and what to keep; see config.Trainer for the meaning of each."""

    total_steps: int
    max_steps: int | None
    eval_every: int
    checkpoint_every: int | None
    keep_last: int
    log_every: int
    max_failed: float
    clip_grad_norm: float | None
    ema_decay: float | None
    seed: int
    bf16: bool
    compile: bool

    @property
    def last_step(self) -> int:
        """Step at which the run ends."""
        return self.total_steps if self.max_steps is None else min(self.max_steps, self.total_steps)


class LossWatch:
    """Looks at each loss one step late, so that the device never waits, and stops at one that is not finite."""

    def __init__(self) -> None:
        self._pending: deque[tuple[int, torch.Tensor, torch.cuda.Event | None, list[str]]] = deque()

    def push(self, step: int, loss: torch.Tensor, paths: list[str]) -> None:
        """Remember a step's loss (scalar tensor) and its videos; look at the step before."""
        if loss.device.type == "cuda":
            host = torch.empty((), pin_memory=True).copy_(loss, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
            self._pending.append((step, host, copied, paths))
        else:
            self._pending.append((step, loss, None, paths))
        self.check(keep=1)

    def check(self, *, keep: int = 0) -> None:
        """Raise NonFiniteLossError for a bad loss among all but the newest `keep` steps."""
        while len(self._pending) > keep:
            step, loss, copied, paths = self._pending.popleft()
            if copied is not None:
                copied.synchronize()
            if not torch.isfinite(loss):
                raise NonFiniteLossError(
                    f"the loss of step {step} is {loss.item()}. Its videos: {', '.join(dict.fromkeys(paths))}. "
                    "The last checkpoint is from before it; lower optim.lr, set optim.clip_grad_norm, or train with "
                    "trainer.precision=fp32"
                )


class Trainer:
    """Trains a model; everything it needs is built by the caller.

    Args:
        model: (B, 3, T, H, W) -> logits (B, num_classes), on the world's device.
        optimizer: its groups carry `lr_scale`.
        lr_at: step -> learning rate.
        loader: training batches.
        mixing: mixup, cutmix and label smoothing.
        prepare: batch on the device -> float (B, 3, T, H, W).
        validate: model -> metrics; called on every rank.
        tracker: where metrics go.
        world: this process among the others.
        run_dir: folder of checkpoints and of the list of unreadable videos.
        config_text: the resolved config, stored in every checkpoint.
        options: see TrainerOptions.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        lr_at: Callable[[int], float],
        loader: TrainLoader,
        mixing: Mixing,
        prepare: Prepare,
        validate: Validate | None,
        tracker: Tracker,
        world: World,
        run_dir: Path,
        config_text: str,
        options: TrainerOptions,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.lr_at = lr_at
        self.loader = loader
        self.mixing = mixing
        self.prepare = prepare
        self.validate = validate
        self.tracker = tracker
        self.world = world
        self.run_dir = run_dir
        self.config_text = config_text
        self.options = options
        self.step = 0
        self.best = float("-inf")
        self.failed: set[str] = set()
        self.ema: AveragedModel | None = None
        if options.ema_decay is not None:
            average = get_ema_multi_avg_fn(options.ema_decay)
            self.ema = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
        if options.compile:
            model.compile()
        self.forward = data_parallel(model, world)

    def fit(self) -> dict[str, float]:
        """Train to the last step and return the metrics of the last validation."""
        metrics: dict[str, float] = {}
        batches = self.loader.batches(self.step)
        self.tracker.start(self.step)
        while self.step < self.options.last_step:
            self.train_epoch(batches)
            epoch = -(-self.step // self.loader.steps_per_epoch)
            ended = self.step >= self.options.last_step
            if self.validate and (ended or epoch % self.options.eval_every == 0):
                metrics = self.evaluate(self.validate)
            if ended or self.options.checkpoint_every is None:
                self.save(metrics)
        self.tracker.plot_curves()
        return metrics

    def train_epoch(self, batches: Iterator[Batch]) -> None:
        """Steps up to the end of the epoch, or of the run."""
        per_epoch = self.loader.steps_per_epoch
        end = min((self.step // per_epoch + 1) * per_epoch, self.options.last_step)
        watch, window = LossWatch(), Window()
        self.forward.train()
        while self.step < end:
            fetched = time.perf_counter()
            micro_batches = [self._next(batches) for _ in range(self.loader.accumulate)]
            window.waited += time.perf_counter() - fetched
            loss, correct = self.train_step(micro_batches)
            self.step += 1
            window.add(loss, correct, clips=sum(len(batch.labels) for batch in micro_batches))
            watch.push(self.step, loss, [path for batch in micro_batches for path in batch.paths])
            if self.step % self.options.log_every == 0 or self.step == end:
                watch.check()
                self._log(window)
                window = Window()
            every = self.options.checkpoint_every
            if every is not None and self.step % every == 0 and self.step < end:
                watch.check()
                self.save({})

    def train_step(self, batches: list[Batch]) -> tuple[torch.Tensor, torch.Tensor]:
        """One optimizer step over the accumulated batches; loss and share of right answers, tensors on the device."""
        lr = self.lr_at(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        loss_sum = torch.zeros((), device=self.world.device)
        correct_sum = torch.zeros((), device=self.world.device)
        for number, batch in enumerate(batches):
            last = number == len(batches) - 1
            with self._sync(last):
                loss, correct = self.forward_loss(batch)
                (loss / len(batches)).backward()
            loss_sum += loss.detach() / len(batches)
            correct_sum += correct / len(batches)
        if self.options.clip_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.options.clip_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update_parameters(self.model)
        return loss_sum, correct_sum

    def forward_loss(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss of a batch and the share of clips whose largest target the model names, both scalar tensors.

        The random state of the model (dropout, drop path) and the mixing draw depend on the batch's place in the epoch
        alone, so that a resumed run, or one on another number of ranks, draws the same.
        """
        clips = self.prepare(batch)
        draw = self.mixing.draw(
            rng_for(DRAW_MIXING, self.options.seed, batch.epoch, batch.position),
            height=clips.shape[-2],
            width=clips.shape[-1],
        )
        clips, targets = self.mixing.apply(clips, batch.labels, draw)
        torch.manual_seed(step_seed(DRAW_MODEL, self.options.seed, batch.epoch, batch.position))
        with autocast(self.options.bf16, self.world.device):
            logits = self.forward(clips)
        loss = soft_cross_entropy(logits.float(), targets)
        correct = (logits.detach().argmax(1) == targets.argmax(1)).float().mean()
        return loss, correct

    def evaluate(self, validate: Validate) -> dict[str, float]:
        """Validate the averaged weights where there are any, else the weights."""
        subject = self.ema.module if self.ema is not None else self.model
        subject.eval()
        metrics = validate(subject)
        self.tracker.log_eval(self.step, metrics)
        self.tracker.plot_curves()
        return metrics

    def state(self, metrics: dict[str, float]) -> dict[str, Any]:
        """Everything another process needs to go on from here."""
        return {
            "format": 1,
            "step": self.step,
            "epoch": self.step / self.loader.steps_per_epoch,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": None if self.ema is None else self.ema.module.state_dict(),
            "ema_updates": 0 if self.ema is None else int(self.ema.n_averaged),
            "config": self.config_text,
            "metrics": metrics,
            "best": self.best,
            "failed": sorted(self.failed),
        }

    def save(self, metrics: dict[str, float]) -> None:
        """Write a checkpoint (rank 0); it is also the best one if its validation accuracy is the highest so far."""
        score = metrics.get("video_top1")
        is_best = score is not None and score > self.best
        if is_best:
            assert score is not None
            self.best = score
        if self.world.is_main:
            save_checkpoint(
                self.run_dir / "checkpoints",
                self.state(metrics),
                step=self.step,
                keep_last=self.options.keep_last,
                best=is_best,
            )

    def resume(self) -> bool:
        """Go on from the newest complete checkpoint of the run; False if there is none."""
        state = load_latest(self.run_dir / "checkpoints")
        if state is None:
            return False
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"] or state["model"])
            self.ema.n_averaged.fill_(state["ema_updates"])
        self.step, self.best = state["step"], state["best"]
        self.failed = set(state["failed"])
        logger.info("resumed %s at step %d of %d", self.run_dir, self.step, self.options.last_step)
        return True

    def _next(self, batches: Iterator[Batch]) -> Batch:
        """The next batch on the device; unreadable videos are counted and listed, and stop a run beyond its budget."""
        batch = next(batches)
        if batch.failures:
            self._record_failures(batch)
        return batch.to(self.world.device)

    def _record_failures(self, batch: Batch) -> None:
        """List each unreadable video once; raise TooManyFailuresError when they are more than the run allows.

        A share of a small set is less than one video, so a quarter of it, up to ten videos, and always one, are let by.
        """
        self.run_dir.mkdir(parents=True, exist_ok=True)
        with open(self.run_dir / f"failed_videos.{self.world.rank}.jsonl", "a", encoding="utf-8") as file:
            for path, reason in batch.failures:
                if path not in self.failed:
                    logger.warning("unreadable training video, replaced by another: %s: %s", path, reason)
                    file.write(json.dumps({"step": self.step, "path": path, "reason": reason}) + "\n")
                    self.failed.add(path)
        videos = len(self.loader.dataset)
        if len(self.failed) > max(self.options.max_failed * videos, min(10, videos // 4), 1):
            raise TooManyFailuresError(
                f"{len(self.failed)} of the {videos} training videos could not be decoded, more than "
                f"trainer.max_failed={self.options.max_failed:g} allows; they are listed in {file.name}. "
                "Repair or remove them, or raise trainer.max_failed"
            )

    def _sync(self, last: bool) -> AbstractContextManager[object]:
        """Gradients travel between the ranks with the last accumulated batch only."""
        if last or self.world.size == 1:
            return nullcontext()
        return self.forward.no_sync()  # type: ignore[operator]

    def _log(self, window: "Window") -> None:
        loss, correct = mean_over_ranks(window.means(), self.world).tolist()
        elapsed = time.perf_counter() - window.started
        self.tracker.log_step(
            self.step,
            {
                "epoch": self.step / self.loader.steps_per_epoch,
                "loss": loss,
                "top1": 100 * correct,
                "lr": self.optimizer.param_groups[0]["lr"] / self.optimizer.param_groups[0]["lr_scale"],
                "clips_per_s": window.clips * self.world.size / elapsed,
                "data_wait": 100 * window.waited / elapsed,
                "failed_videos": len(self.failed),
            },
        )


class Window:
    """Sums between two log lines; losses stay on the device until the line is written."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.waited = 0.0
        self.clips = 0
        self.sums: list[torch.Tensor] = []

    def add(self, loss: torch.Tensor, correct: torch.Tensor, *, clips: int) -> None:
        """Add one step: scalar tensors, and the clips it took on this rank."""
        self.sums.append(torch.stack([loss, correct]))
        self.clips += clips

    def means(self) -> torch.Tensor:
        """Mean loss and mean share of right answers over the window, (2,)."""
        return torch.stack(self.sums).mean(0)
