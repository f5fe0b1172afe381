"""The training loop: batches in, weights, curves and checkpoints out."""

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mvit_video.distributed.gradients import AveragedAtOnce
from mvit_video.distributed.process_group import StopVote, World, data_parallel, gather_to_all, mean_over_ranks
from mvit_video.distributed.sharding import Sharding, TensorPath, clip_grad_norm, gathered, without_exchange
from mvit_video.engine.average import WeightAverage
from mvit_video.engine.checkpoints import (
    WHOLE,
    CheckpointWriter,
    Snapshot,
    load_latest,
    save_checkpoint,
    save_shards,
    whole_weights,
)
from mvit_video.engine.early_stopping import BestScore, EarlyStopping, best_metric_of
from mvit_video.engine.graphs import GraphedModel
from mvit_video.engine.loss_monitor import LossMonitor
from mvit_video.engine.precision import autocast
from mvit_video.engine.task import Batch, StepLoss, Task, TrainBatches
from mvit_video.engine.tracking import Tracker
from mvit_video.engine.window import Window
from mvit_video.models.lora import adapter_state, load_with_adapters, plain_state_dict
from mvit_video.optim import frozen_to_eval
from mvit_video.runtime import interruption
from mvit_video.runtime.compilation import COMPILE_OPTIONS
from mvit_video.runtime.env import step_seed
from mvit_video.runtime.interruption import Interrupted, StallWatchdog
from mvit_video.runtime.journal import append_event

logger = logging.getLogger(__name__)

Validate = Callable[[nn.Module, Callable[[int], None]], dict[str, float]]
DRAW_MODEL = 2  # what the draws of the model are for, the first part of their key


class TooManyFailuresError(RuntimeError):
    """More training files could not be read than the run allows."""


@dataclass(frozen=True, kw_only=True)
class TrainerOptions:
    """How long to train and what to keep; see config.Trainer for the meaning of each.

    Attributes:
        graphed_shape: of every batch of a model whose passes are replayed from CUDA graphs; None: they are not.
    """

    total_steps: int
    max_steps: int | None
    eval_every: int
    checkpoint_every: int | None
    keep_last: int
    log_every: int
    max_failed: float
    clip_grad_norm: float | None
    seed: int
    bf16: bool
    compile: bool
    graphed_shape: tuple[int, ...] | None = None
    checkpoint_async: bool = True
    stall_timeout_s: float = 0.0
    collective_timeout_s: float = 600.0
    best_metric: str | None = None
    early_stopping: int | None = None

    @property
    def last_step(self) -> int:
        """Step at which the run ends."""
        return self.total_steps if self.max_steps is None else min(self.max_steps, self.total_steps)


class Trainer:
    """Trains a model; everything it needs is built by the caller.

    Args:
        model: takes the task's inputs, on the world's device.
        task: what a batch becomes, its loss, what is logged.
        optimizer: its groups carry `lr_scale`.
        lr_at: step -> learning rate.
        loader: training batches.
        validate: (model, what to call with the samples done after each batch) -> metrics; called on every rank.
        tracker: where metrics go.
        world: this process among the others.
        run_dir: folder of checkpoints and of the lists of unreadable files.
        config_text: the resolved config, stored in every checkpoint.
        identity: what else the run is (classes, data, code), stored in every checkpoint.
        average: of the weights, kept up and evaluated instead of them.
        sharding: how the ranks divide model and average, if they do; both are divided already.
        options: see TrainerOptions.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        task: Task,
        optimizer: torch.optim.Optimizer,
        lr_at: Callable[[int], float],
        loader: TrainBatches,
        validate: Validate | None,
        tracker: Tracker,
        world: World,
        run_dir: Path,
        config_text: str,
        identity: Mapping[str, Any],
        options: TrainerOptions,
        average: WeightAverage | None = None,
        sharding: Sharding | None = None,
    ) -> None:
        self.model = model
        self.task = task
        self.optimizer = optimizer
        self.lr_at = lr_at
        self.loader = loader
        self.validate = validate
        self.tracker = tracker
        self.world = world
        self.run_dir = run_dir
        self.config_text = config_text
        self.identity = identity
        self.options = options
        self.step = 0
        metric = best_metric_of(task, options.best_metric)
        self.best = BestScore(metric)
        self._best_before = self.best.value
        self.early_stopping = EarlyStopping(metric, patience=options.early_stopping)
        self._buckets_arranged = False
        self.unvalidated = False  # an epoch has ended whose validation is still to come
        self.stop_vote = StopVote(world, timeout_s=options.collective_timeout_s)
        self.stall_watchdog = StallWatchdog(options.stall_timeout_s)
        self.failed: set[str] = set()
        self._failed_of_all: set[str] = set()  # those that the other ranks know of, too
        self.average = average
        self.sharding = sharding
        snapshot = Snapshot() if sharding is None else Snapshot(sharding.host_copy)
        self.writer = CheckpointWriter(self._write, snapshot=snapshot, background=options.checkpoint_async)
        if options.compile and sharding is None:
            model.compile(options=COMPILE_OPTIONS)
        self.forward: nn.Module = model

    def fit(self) -> dict[str, float]:
        """Train to the last step and return the metrics of the last validation."""
        metrics: dict[str, float] = {}
        self.tracker.start(self.step)
        with self.stall_watchdog, self.writer:
            self.forward = self._connected()
            if self.unvalidated:
                metrics = self.end_epoch()
            batches = self.loader.batches(self.step)
            while not self.complete:
                self.train_epoch(batches)
                metrics = self.end_epoch() or metrics
        self.tracker.plot_curves()
        if self.early_stopping.is_due:
            self._record_early_stop()
        return metrics

    def _connected(self) -> nn.Module:
        """What the steps call: the model with its gradients averaged over the ranks, its passes as CUDA graphs or not.

        The graphs are captured before the first batch, since threads then prepare batches.
        """
        shape = self.options.graphed_shape
        if self.sharding:
            return self.model
        if shape is None:
            return data_parallel(self.model, self.world)
        start = time.perf_counter()
        frozen_to_eval(self.model.train())
        graphed = GraphedModel(self.model)
        graphed.capture(shape, bf16=self.options.bf16)
        logger.info("forward and backward pass captured as CUDA graphs in %.1f s", time.perf_counter() - start)
        return graphed if self.world.size == 1 else AveragedAtOnce(graphed, self.world)

    @property
    def complete(self) -> bool:
        """Whether there is nothing left to do."""
        ended = self.step >= self.options.last_step or self.early_stopping.is_due
        return ended and not self.unvalidated

    def _record_early_stop(self) -> None:
        stopping = self.early_stopping
        logger.info(
            "stopped early after step %d of %d: %s has not been better than %.4g for %d validations in a row; "
            "trainer.early_stopping=null goes on to the end",
            self.step,
            self.options.last_step,
            stopping.best.metric,
            stopping.best.value,
            stopping.without_improvement,
        )
        if self.world.is_main:
            append_event(
                self.run_dir,
                "stopped_early",
                step=self.step,
                metric=stopping.best.metric,
                best=stopping.best.value if math.isfinite(stopping.best.value) else None,
                validations=stopping.without_improvement,
            )

    def end_epoch(self) -> dict[str, float]:
        """Validate and save where that is due; the metrics of the validation.

        The state is saved before the validation too: a run that is ended in the middle of a long one begins with it
        when it starts again.
        """
        metrics: dict[str, float] = {}
        epoch = -(-self.step // self.loader.steps_per_epoch)
        ended = self.step >= self.options.last_step
        if self.validate and (ended or epoch % self.options.eval_every == 0):
            self.unvalidated = True
            self.save({})
            metrics = self.evaluate(self.validate)
            self.unvalidated = False
            self.early_stopping.update(metrics[self.early_stopping.best.metric])
            ended = ended or self.early_stopping.is_due
        every = self.options.checkpoint_every
        if ended or metrics or every is None or self.step % every == 0:
            self.save(metrics, wait=ended)
        return metrics

    def train_epoch(self, batches: Iterator[Batch]) -> None:
        """Steps up to the end of the epoch, or of the run."""
        per_epoch = self.loader.steps_per_epoch
        end = min((self.step // per_epoch + 1) * per_epoch, self.options.last_step)
        monitor, window = LossMonitor(), Window()
        vote_ends = self.step
        self.forward.train()
        frozen_to_eval(self.model)
        while self.step < end:
            self.stall_watchdog.beat(f"waiting for the {self.task.sample}s of step {self.step + 1}")
            if self.step == vote_ends:
                asked_to_stop = self.stop_vote.ask(interruption.received() is not None)
                vote_ends = min(self.step + self.stop_vote.span, end)
            fetched = time.perf_counter()
            micro_batches = [self._next(batches) for _ in range(self.loader.accumulate)]
            window.waited += time.perf_counter() - fetched
            self.stall_watchdog.beat(f"step {self.step + 1}")
            if not self._buckets_arranged:
                self._arrange_buckets(micro_batches[0])
            loss, metrics = self.train_step(micro_batches)
            self.step += 1
            self.writer.check()
            window.add(loss, metrics, samples=sum(map(len, micro_batches)))
            monitor.push(self.step, loss, [path for batch in micro_batches for path in batch.paths])
            # The first step says early whether the figures look right and how long the run will take.
            if self.step == 1 or self.step % self.options.log_every == 0 or self.step == end:
                monitor.check()
                self._log(window)
                window = Window()
            if self.step == vote_ends and asked_to_stop():
                self._stop(monitor)
            every = self.options.checkpoint_every
            if every is not None and self.step % every == 0 and self.step < end:
                monitor.check()
                self.save({})

    def _arrange_buckets(self, batch: Batch) -> None:
        """Let DDP arrange its gradient buckets before the first step that counts.

        It does so once, after its first backward pass, in the order in which the gradients came. With more than two
        ranks the place in a bucket decides in which order a gradient is summed, so the first step of a resumed run
        would differ in the last bit from the same step of a run that was not interrupted.
        """
        self._buckets_arranged = True
        if self.world.size <= 2 or not isinstance(self.forward, DistributedDataParallel):
            return
        before = [buffer.clone() for buffer in self.model.buffers()]
        self.forward_loss(batch).loss.backward()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for buffer, value in zip(self.model.buffers(), before):
                buffer.copy_(value)

    def _while_validating(self, samples: int) -> None:
        """After each validation batch. The state was saved before the first, so a rank may stop without the others."""
        self.stall_watchdog.beat("a validation batch")
        name = interruption.received()
        if name is not None:
            raise Interrupted(
                f"stopped by {name} while validating step {self.step}, which is saved; the same command goes on from "
                "there"
            )

    def _stop(self, monitor: LossMonitor) -> None:
        """Save and end the run as asked, all ranks after the same step."""
        monitor.check()
        self.save({}, wait=True)
        name = interruption.received() or "another rank"
        raise Interrupted(
            f"stopped by {name} after step {self.step} of {self.options.last_step}, which is saved; the same command "
            "goes on from there"
        )

    def train_step(self, batches: list[Batch]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """One optimizer step over the accumulated batches; loss and metrics of the task, scalars on the device."""
        lr = self.lr_at(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        loss_sum = torch.zeros((), device=self.world.device)
        metric_sums = {metric.name: torch.zeros((), device=self.world.device) for metric in self.task.metrics}
        for number, batch in enumerate(batches):
            last = number == len(batches) - 1
            with self._sync(last):
                result = self.forward_loss(batch)
                (result.loss / len(batches)).backward()
            loss_sum += result.loss.detach() / len(batches)
            for name, total in metric_sums.items():
                total += result.metrics[name].detach() / len(batches)
        if self.options.clip_grad_norm is not None:
            clip_grad_norm(self.model.parameters(), self.options.clip_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.model)
        return loss_sum, metric_sums

    def forward_loss(self, batch: Batch) -> StepLoss:
        """Loss and metrics of a batch, scalar tensors.

        The random state of the model (dropout, drop path) and the task's own draws depend on the batch's place in the
        epoch alone, so that a resumed run, or one on another number of ranks, draws the same.
        """
        inputs = self.task.train_inputs(batch, seed=self.options.seed)
        torch.manual_seed(step_seed(DRAW_MODEL, self.options.seed, batch.epoch, batch.position))
        with autocast(self.options.bf16, self.world.device):
            outputs = self.forward(*inputs.model_inputs)
        return self.task.loss(outputs, inputs.targets)

    def evaluate(self, validate: Validate) -> dict[str, float]:
        """Validate the averaged weights where there are any, else the weights."""
        model = self.average.module if self.average is not None else self.model
        with gathered(model):
            metrics = validate(model, self._while_validating)
        self.tracker.log_eval(self.step, metrics)
        self.tracker.plot_curves()
        return metrics

    def state(self, metrics: dict[str, float]) -> dict[str, Any]:
        """Everything another process needs to go on from here."""
        return {
            "format": 1,
            "step": self.step,
            "epoch": self.step / self.loader.steps_per_epoch,
            "model": plain_state_dict(self.model),
            "adapters": adapter_state(self.model),
            "optimizer": self.optimizer.state_dict(),
            "ema": None if self.average is None else plain_state_dict(self.average.module),
            "ema_adapters": None if self.average is None else adapter_state(self.average.module),
            "ema_updates": 0 if self.average is None else self.average.updates,
            "config": self.config_text,
            "run": self.identity,
            "class_names": list(self.task.class_names),
            "metrics": metrics,
            "best": self.best.value,
            "best_metric": self.best.metric,
            "early_stopping": self.early_stopping.state(),
            "unvalidated": self.unvalidated,
            "failed": sorted(self.failed),
        }

    def save(self, metrics: dict[str, float], *, wait: bool = False) -> None:
        """Write a checkpoint (rank 0); it is also the best one if its validation is the best so far.

        Args:
            metrics: of a validation at this step, if there was one.
            wait: return when it is on disk, and raise CheckpointError if it could not be written; else it is written
                while training goes on, and a failure is a warning.
        """
        self.writer.close()  # all ranks know now whether the one before could be written
        if self.writer.lost_best:
            self.best.value, self.writer.lost_best = self._best_before, False
        score = metrics.get(self.best.metric)
        is_best = score is not None and self.best.is_better(score)
        if is_best:
            assert score is not None
            self._best_before, self.best.value = self.best.value, score
            self.tracker.log_best(self.step, self.best.metric, score)
        if self.world.is_main or self.sharding:
            state = self.state(metrics)
            if is_best and self.sharding:
                state[WHOLE] = whole_weights(state, keep=self.world.is_main)
            self.writer.save(state, step=self.step, best=is_best, wait=wait)

    def _write(self, state: Mapping[str, Any], step: int, best: bool) -> None:
        folder, keep_last = self.run_dir / "checkpoints", self.options.keep_last
        if self.sharding:
            save_shards(folder, state, step=step, keep_last=keep_last, best=best, sharding=self.sharding)
        else:
            save_checkpoint(folder, state, step=step, keep_last=keep_last, best=best)

    def _layout(self, place: TensorPath, shape: torch.Size) -> torch.Tensor | None:
        """The parameter that the tensor at `place` of a state is divided like."""
        match place:
            case ("model", str(name)):
                return self.model.get_parameter(name)
            case ("ema", str(name)) if self.average is not None:
                return self.average.module.get_parameter(name)
            case ("optimizer", "state", int(number), _):
                parameter = [p for group in self.optimizer.param_groups for p in group["params"]][number]
                return parameter if parameter.shape == shape else None
        return None

    def resume(self) -> bool:
        """Go on from the newest complete checkpoint of the run; False if there is none."""
        layout = self._layout if self.sharding else None
        state = load_latest(self.run_dir / "checkpoints", world=self.world, layout=layout)
        if state is None:
            return False
        load_with_adapters(self.model, state["model"], state.get("adapters"))
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            kind = "ema" if state["ema"] else "model"
            adapters = state.get("ema_adapters" if state["ema"] else "adapters")
            load_with_adapters(self.average.module, state[kind], adapters)
            self.average.updates = state["ema_updates"]
        self.step = state["step"]
        same_split = _validated_on(state.get("run")) in (None, _validated_on(self.identity))
        if state.get("best_metric", self.task.best_metric) != self.best.metric:
            logger.info("best.pt is chosen anew, by %s from here on", self.best.metric)
        elif not same_split:
            logger.warning(
                "the validation split is another one than before: best.pt is chosen anew from here on, and validations "
                "without improvement are counted anew"
            )
        else:
            self.best.value = state["best"]
        if same_split and "early_stopping" in state:
            self.early_stopping.load(state["early_stopping"])
        self.failed = set(state["failed"])
        self._failed_of_all = set(self.failed)
        self.unvalidated = bool(state.get("unvalidated", False))
        logger.info("resumed %s at step %d of %d", self.run_dir, self.step, self.options.last_step)
        return True

    def _next(self, batches: Iterator[Batch]) -> Batch:
        """The next batch on the device; unreadable files are counted and listed, and stop a run beyond its budget."""
        batch = next(batches)
        if batch.failures:
            self._record_failures(batch)
        return batch.to(self.world.device)

    def _record_failures(self, batch: Batch) -> None:
        """List each unreadable file once; raise TooManyFailuresError when they are more than the run allows.

        A share of a small set is less than one file, so a quarter of it, up to ten files, and always one, are let by.
        """
        item = self.task.item
        listing = self.run_dir / f"failed_{item}s.{self.world.rank}.jsonl"
        lines = []
        for path, reason in batch.failures:
            if path not in self.failed:
                logger.warning("unreadable training %s, replaced by another: %s: %s", item, path, reason)
                line = {"step": self.step, "path": path, "reason": reason}
                lines.append(json.dumps(line, ensure_ascii=False) + "\n")
                self.failed.add(path)
        try:
            self.run_dir.mkdir(parents=True, exist_ok=True)
            with open(listing, "a", encoding="utf-8", errors="backslashreplace") as file:
                file.writelines(lines)
        except OSError as error:  # a full disk; the log has them
            logger.warning("unreadable %ss could not be listed in %s: %s", item, listing, error)
        self._check_failures()

    def _share_failures(self) -> None:
        """Tell the other ranks which files could not be read here: they count for the run, which all of them end."""
        self.failed = set().union(*gather_to_all(self.failed, self.world))
        self._failed_of_all = set(self.failed)
        self._check_failures()

    def _check_failures(self) -> None:
        items, item = self.loader.num_items, self.task.item
        if len(self.failed) > max(self.options.max_failed * items, min(10, items // 4), 1):
            rank = "*" if self.world.size > 1 else self.world.rank
            raise TooManyFailuresError(
                f"{len(self.failed)} of the {items} training {item}s could not be decoded, more than "
                f"trainer.max_failed={self.options.max_failed:g} allows; they are listed in "
                f"{self.run_dir / f'failed_{item}s.{rank}.jsonl'}. "
                "Repair or remove them, or raise trainer.max_failed"
            )

    def _sync(self, last: bool) -> AbstractContextManager[object]:
        """Gradients travel between the ranks with the last accumulated batch only."""
        return nullcontext() if last or self.world.size == 1 else without_exchange(self.forward)

    def _log(self, window: Window) -> None:
        own = window.means()
        untold = own.new_tensor([len(self.failed - self._failed_of_all)])
        loss, *means, untold_of_all = mean_over_ranks(torch.cat([own, untold]), self.world).tolist()
        if untold_of_all:
            self._share_failures()
        elapsed = time.perf_counter() - window.started
        metrics = {metric.name: metric.factor * mean for metric, mean in zip(self.task.metrics, means, strict=True)}
        self.tracker.log_step(
            self.step,
            {
                "epoch": self.step / self.loader.steps_per_epoch,
                "loss": loss,
                **metrics,
                "lr": self.optimizer.param_groups[0]["lr"] / self.optimizer.param_groups[0]["lr_scale"],
                f"{self.task.sample}s_per_s": window.samples * self.world.size / elapsed,
                "data_wait": 100 * window.waited / elapsed,
                f"failed_{self.task.item}s": len(self.failed),
            },
        )


def _validated_on(run: Mapping[str, Any] | None) -> str | None:
    """The fingerprint of the validation split in the record of a run."""
    fingerprint: str | None = (run or {}).get("data", {}).get("val", {}).get("fingerprint")
    return fingerprint
