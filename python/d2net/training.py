"""The training loop: steps without host synchronisation, exact resumption, atomic checkpoints."""

from __future__ import annotations

import hashlib
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from d2net.checkpoint import FILE, CheckpointError, read_checkpoint, save_checkpoint, usable
from d2net.config import Config, TrainConfig, from_dict
from d2net.data.dataset import Batch, TrainingBatches
from d2net.data.files import DataError, check_destination, write_atomically
from d2net.losses import compute_losses, denoising_scale
from d2net.model import D2Net

TERMS = ("total", "classification", "ds", "dv", "gradient_norm", "skipped_steps", "skipped_video_terms")


class RunExists(ValueError):
    """The output folder already holds a run."""


@dataclass
class State:
    """What a step changes: the network, the optimiser, the iteration, and the log's running sums on the device."""

    network: D2Net
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    iteration: int = 0
    sums: Tensor = field(default_factory=lambda: torch.zeros(len(TERMS)))


def new_state(config: Config, width: int, streams: int, classes: int, device: torch.device) -> State:
    """A seeded network and optimiser, before the first iteration."""
    torch.manual_seed(config.train.seed)
    network = D2Net(width, classes, streams, config.model).to(device)
    optimizer = torch.optim.Adam(
        network.parameters(), lr=config.train.learning_rate, weight_decay=config.train.weight_decay, fused=True
    )
    generator = torch.Generator(device).manual_seed(config.train.seed)
    return State(network, optimizer, generator, sums=torch.zeros(len(TERMS), device=device))


def train_step(state: State, batch: Batch, config: Config) -> None:
    """One iteration (Eq. 1 and Adam). A total loss of 0 or a gradient that is not finite leaves the weights alone."""
    network, optimizer = state.network, state.optimizer
    state.iteration += 1
    network.train()
    features = batch.ragged()
    with torch.autocast(features.device.type, torch.bfloat16, enabled=config.train.precision == "bf16"):
        out = network(features)
    losses = compute_losses(
        out.activations.to(torch.float32),
        out.embeddings.to(torch.float32),
        batch.labels,
        network.reference,
        config.loss,
        iteration=state.iteration,
        generator=state.generator,
    )
    optimizer.zero_grad(set_to_none=True)
    losses.total.backward()
    limit = config.train.gradient_clip or float("inf")
    norm = torch.nn.utils.clip_grad_norm_(network.parameters(), limit)
    skip = (losses.total == 0) | ~losses.total.isfinite() | ~norm.isfinite()
    # The fused optimiser reads this on the device: it leaves weights and moments alone, without a synchronisation.
    optimizer.found_inf = skip.float()
    optimizer.step()
    with torch.no_grad():
        network.reference.copy_(torch.where(losses.reference.isfinite().all(), losses.reference, network.reference))
        row = (losses.total, losses.classification, losses.ds, losses.dv, norm, skip, losses.skipped)
        state.sums += torch.nan_to_num(torch.stack([v.detach().to(torch.float32) for v in row]), 0, 0, 0)


def content(state: State, config: Config, meta: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint holds."""
    rng = {"torch": torch.get_rng_state(), "pairs": state.generator.get_state()}
    if state.sums.is_cuda:
        rng["cuda"] = torch.cuda.get_rng_state(state.sums.device)
    return {
        "config": config.model_dump(),
        "model": state.network.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "iteration": state.iteration,
        "sums": state.sums,
        "rng": rng,
        **meta,
    }


def restore(state: State, saved: dict[str, Any]) -> None:
    """Puts a checkpoint's weights, moments, iteration and random states back."""
    state.network.load_state_dict(saved["model"])
    state.optimizer.load_state_dict(saved["optimizer"])
    state.iteration = saved["iteration"]
    state.sums.copy_(saved["sums"])
    torch.set_rng_state(saved["rng"]["torch"].cpu())
    state.generator.set_state(saved["rng"]["pairs"].cpu())
    if "cuda" in saved["rng"] and state.sums.is_cuda:
        torch.cuda.set_rng_state(saved["rng"]["cuda"].cpu(), state.sums.device)


def data_digest(names: Sequence[str], labels: np.ndarray) -> str:
    """Identifies the training videos and their labels."""
    digest = hashlib.sha256("\n".join(names).encode())
    digest.update(np.ascontiguousarray(labels, dtype=np.uint8).tobytes())
    return digest.hexdigest()


def check_folder(out: Path, resume: bool, overwrite: bool) -> None:
    """Makes the run's folder; one that holds a run needs `resume` or `overwrite`, and nothing in it changes here.

    Raises:
        RunExists: neither was given. CheckpointError: nothing to resume. DataError: nothing can be written there.
    """
    held = [p for p in (out / FILE, out / "log.jsonl") if p.exists()]
    if resume and not (out / FILE).exists():
        raise CheckpointError(f"nothing to resume: there is no {out / FILE}; pass --overwrite to start again")
    if held and not resume and not overwrite:
        how = "--resume or --overwrite" if (out / FILE).exists() else "--overwrite: it has no checkpoint to resume from"
        raise RunExists(f"{out} already holds a run ({held[0].name}); pass {how}")
    check_destination(out / FILE)


def clear_folder(out: Path) -> None:
    """Removes the run that the folder holds."""
    for name in (FILE, f"{FILE}.tmp", "best.pt", "log.jsonl", "config.yaml"):
        (out / name).unlink(missing_ok=True)


def trim_log(path: Path, iteration: int) -> None:
    """Drops what the log says of iterations after this one, which a resumed run repeats, and a line cut short."""
    lines = path.read_text().splitlines() if path.exists() else []
    kept = []
    for line in lines:
        try:
            if json.loads(line)["iteration"] <= iteration:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    write_atomically(path, lambda file: file.write("".join(kept).encode()))


class _StopOnSignal:
    """Lets the current iteration finish on the first Ctrl-C or SIGTERM; a second Ctrl-C interrupts at once."""

    def __enter__(self) -> _StopOnSignal:
        self.asked = False
        self._before = {}
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)
        except ValueError:  # not in the main thread: nobody sends us signals
            pass
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


@dataclass
class Run:
    """One training run in a folder: config.yaml, checkpoint.pt, log.jsonl, and best.pt where a selection is made.

    Args:
        meta: classes, timing, streams and what else the checkpoint carries for localization.
        score: called with the network for selections other than `last`; larger is better.
    """

    config: Config
    batches: TrainingBatches
    out: Path
    meta: dict[str, Any]
    device: torch.device
    streams: int
    score: Callable[[D2Net], float] | None = None
    progress: bool = True

    def start(self, resume: bool = False, overwrite: bool = False) -> State:
        """A fresh state, or the checkpoint's; the folder is checked first."""
        check_folder(self.out, resume, overwrite)
        self.batches.check()
        digest = data_digest(self.batches.names, self.batches.labels)
        self.meta = {**self.meta, "data": digest}
        width, classes = self.batches.features.store.width, self.batches.labels.shape[1]
        state = new_state(self.config, width, self.streams, classes, self.device)
        self.best = -float("inf")
        if resume:
            saved = read_checkpoint(self.out, self.device)
            with usable(self.out / FILE):
                _same_run(from_dict(saved["config"]), self.config, saved["data"], digest)
                restore(state, saved)
                self.best = saved["best"]
            trim_log(self.out / "log.jsonl", state.iteration)
        else:
            clear_folder(self.out)
            self.config.save(self.out / "config.yaml")
        return state

    def save(self, state: State, name: str = FILE) -> None:
        save_checkpoint(self.out / name, content(state, self.config, {**self.meta, "best": self.best}))

    def finish(self, state: State) -> bool:
        """Trains to the last iteration; False where a signal stopped it earlier, after saving.

        Raises:
            DataError: a video cannot be read; what was trained until then is saved.
        """
        settings = self.config.train
        bar = tqdm(
            total=settings.iterations,
            initial=state.iteration,
            unit="it",
            disable=not self.progress,
            smoothing=0.05,
            mininterval=0.1 if sys.stderr.isatty() else 30,  # a log file wants few lines
        )
        loader = self.batches.loader(state.iteration, settings.iterations, pin=self.device.type == "cuda")
        snippets, clock = 0, time.perf_counter()
        with _StopOnSignal() as stop, bar, self._kept(state), open(self.out / "log.jsonl", "a") as log:
            for batch in loader:
                snippets += len(batch.features)
                train_step(state, batch.to(self.device), self.config)
                bar.update()
                if state.iteration % settings.log_every == 0:
                    entry = self._entry(state, snippets, time.perf_counter() - clock, settings)
                    log.write(json.dumps(entry) + "\n")
                    log.flush()
                    bar.set_postfix_str(
                        f"loss {entry['total']:.4f} (cls {entry['classification']:.4f}, DS {entry['ds']:.3f}, "
                        f"DV {entry['dv']:.3f}), {entry['snippets_per_second']:.0f} snippets/s",
                        refresh=False,
                    )
                    snippets, clock = 0, time.perf_counter()
                if self.score and state.iteration % settings.evaluate_every == 0:
                    self._select(state, log)
                if state.iteration % settings.checkpoint_every == 0 or stop.asked:
                    self.save(state)
                if stop.asked:
                    return False
        self.save(state)
        return True

    @contextmanager
    def _kept(self, state: State) -> Iterator[None]:
        """Saves the state where a video cannot be read."""
        try:
            yield
        except DataError as error:
            if state.iteration:
                self.save(state)
            # A worker's error arrives as its traceback; the last line is what it says.
            text = str(error).splitlines()[-1].removeprefix(f"{type(error).__module__}.{type(error).__name__}: ")
            raise type(error)(text) from error

    def _entry(self, state: State, snippets: int, seconds: float, settings: TrainConfig) -> dict[str, Any]:
        values = dict(zip(TERMS, state.sums.tolist(), strict=True))
        state.sums.zero_()
        window = range(state.iteration - settings.log_every + 1, state.iteration + 1)
        # L_D enters only some iterations: its terms are averaged over those.
        active = max(1, sum(denoising_scale(self.config.loss, i) > 0 for i in window))
        count = dict.fromkeys(TERMS, settings.log_every) | {"ds": active, "dv": active}
        means = {k: v if k.startswith("skipped") else v / count[k] for k, v in values.items()}
        return {"iteration": state.iteration, **means, "snippets_per_second": snippets / max(seconds, 1e-9)}

    def _select(self, state: State, log: Any) -> None:
        value = self.score(state.network)
        log.write(json.dumps({"iteration": state.iteration, self.config.train.selection: value}) + "\n")
        if value > self.best:
            self.best = value
            self.save(state, "best.pt")


def _same_run(before: Config, now: Config, data_before: str, data_now: str) -> None:
    if data_before != data_now:
        raise CheckpointError("resume: the training videos or their labels differ from the checkpoint's")
    a, b = before.model_dump(), now.model_dump()
    for free in ("iterations", "log_every", "checkpoint_every", "workers", "cache_gigabytes"):
        a["train"].pop(free)
        b["train"].pop(free)
    for section in ("model", "loss", "train"):
        for name, value in a[section].items():
            if value != b[section][name]:
                raise CheckpointError(
                    f"resume: {section}.{name} is {b[section][name]!r} but the checkpoint was trained with {value!r}"
                )
