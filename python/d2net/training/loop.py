"""The training loop: steps without host synchronisation, exact resumption, atomic checkpoints."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from d2kernels import verify
from d2net.config import Config, fields_of
from d2net.data.dataset import Batch, TrainingBatches, spread
from d2net.data.files import DataError
from d2net.methods.d2net.losses import denoising_scale
from d2net.methods.d2net.network import D2Net
from d2net.terminal import Bar
from d2net.training.checkpoint import FILE, read_checkpoint, save_checkpoint, usable
from d2net.training.folder import check_folder, clear_folder, clear_temporaries, remove_empty, trim_log, write_holdout
from d2net.training.health import Health, TrainingError, TrainingWarning, check_start
from d2net.training.lock import FolderLock
from d2net.training.logs import Log
from d2net.training.resume import check_same_run, data_digest, environment, features_fingerprint
from d2net.training.signals import StopOnSignal, held_back, leave_to_parent
from d2net.training.state import TERMS, State, content, new_state, restore
from d2net.training.step import train_step
from d2net.training.survey import check_videos
from d2net.training.threads import threads, training_threads


@dataclass
class Run:
    """One training run in a folder: config.yaml, checkpoint.pt, log.jsonl, and best.pt where a selection is made.

    Args:
        meta: classes, timing, streams and what else the checkpoint carries for localization.
        score: called with the network for selections other than `last`; larger is better.
        trackers: that are told too, of logs.TRACKERS.
    """

    config: Config
    batches: TrainingBatches
    out: Path
    meta: dict[str, Any]
    device: torch.device
    streams: int
    score: Callable[[D2Net], float] | None = None
    progress: bool = True
    trackers: Sequence[str] = ()

    def start(self, resume: bool = False, overwrite: bool = False) -> State:
        """A fresh state, or the checkpoint's; the folder is checked first."""
        made = [p for p in (self.out, *self.out.parents) if not p.exists()]
        try:
            check_folder(self.out, resume, overwrite)
            self.lock = FolderLock(self.out)
            try:
                self.log = Log(self.out, self.trackers, fields_of(self.config), resume)
                try:
                    return self._begin(resume)
                except BaseException:
                    self.log.close()
                    raise
            except BaseException:
                self.lock.release()
                raise
        except BaseException:
            remove_empty(made)
            raise

    def _begin(self, resume: bool) -> State:
        check_videos(self.batches, self.config)
        on_cpu = self.device.type == "cpu"
        self.threads = training_threads(self.config, self.batches, self.streams) if on_cpu else torch.get_num_threads()
        self.meta = {
            "held_out": [],
            **self.meta,
            "data": data_digest(self.batches.names, self.batches.labels),
            **self._fingerprints(),
            "environment": environment(self.device, self.threads),
        }
        saved = read_checkpoint(self.out, self.device) if resume else None
        if saved is not None:
            with usable(self.out / FILE):
                for text in check_same_run(saved, self.config, self.meta):
                    warnings.warn(text, TrainingWarning, stacklevel=4)
        width, classes = self.batches.features.store.width, self.batches.labels.shape[1]
        state = new_state(self.config, width, self.streams, classes, self.device)
        self.best = -float("inf")
        if saved is not None:
            with usable(self.out / FILE):
                restore(state, saved)
                self.best = saved["best"]
            trim_log(self.out / "log.jsonl", state.iteration)
        else:
            check_start(state, self.batches[0].to(self.device), self.config)
            if (self.out / FILE).exists():
                # A full disk must not cost the run that is replaced: the new one's file comes before the old one goes.
                save_checkpoint(self.out / FILE, content(state, self.config, {**self.meta, "best": self.best}))
            clear_folder(self.out)
        self.config.save(self.out / "config.yaml")
        write_holdout(self.out, self.meta["held_out"])
        clear_temporaries(self.out)
        self.steps = self.saved = state.iteration
        self.health = Health(self.config, state, self.meta["classes"])
        return state

    def _fingerprints(self) -> dict[str, Any]:
        store, held_out = self.batches.features.store, self.meta.get("held_out", [])
        bar = Bar("features", unit="video", show=self.progress)
        found = {"features": features_fingerprint(store, self.batches.names, bar.over(self.batches.read_ahead()))}
        if held_out:
            read = ((v, store[v]) for v in spread(store, held_out, self.batches.features.room))
            found["held_out_features"] = features_fingerprint(store, held_out, read)
        return found

    def save(self, state: State, name: str = FILE) -> None:
        """Raises TrainingError, and leaves the earlier file alone, where a weight is not finite."""
        self.health.check_weights(state, self._kept_so_far())
        save_checkpoint(self.out / name, content(state, self.config, {**self.meta, "best": self.best}))
        if name == FILE:
            self.saved = state.iteration

    def _kept_so_far(self) -> str:
        return f"the checkpoint of iteration {self.saved} is whole" if self.saved else "nothing was saved"

    def finish(self, state: State) -> bool:
        """Trains to the last iteration; False where a signal stopped it earlier, after saving.

        Raises:
            DataError: a video cannot be read; what was trained until then is saved.
        """
        verify.ready(self.device)
        settings = self.config.train
        bar = Bar("train", settings.iterations, unit="it", done=state.iteration, show=self.progress)
        with (
            self.lock, threads(self.threads), StopOnSignal() as stop, closing(self.log), bar, self._kept(state),
            self._reading(state.iteration) as batches,
        ):  # fmt: skip
            self.log.begin()
            done = self._iterate(state, batches, stop, bar)
        return done

    @contextmanager
    def _reading(self, first: int) -> Iterator[Iterator[Batch]]:
        """The batches from iteration `first`; the processes that read them end with the context."""
        pin = self.device.type == "cuda"
        loader = self.batches.loader(first, self.config.train.iterations, pin=pin, prepare=leave_to_parent)
        with held_back():
            batches = iter(loader)
        try:
            yield batches
        finally:
            if self.config.train.workers:
                # Says again of a process what has been said.
                with suppress(RuntimeError):
                    batches._shutdown_workers()

    def _iterate(self, state: State, batches: Iterator[Batch], stop: StopOnSignal, bar: Bar) -> bool:
        settings = self.config.train
        snippets, clock = 0, time.perf_counter()
        for batch in batches:
            snippets += int(batch.lengths.sum())
            batch = batch.to(self.device)
            train_step(state, batch, self.config)
            self.steps = state.iteration
            bar.update()
            logged = state.iteration % settings.log_every == 0
            if logged or state.iteration == settings.iterations:
                sums, since = dict(zip(TERMS, state.sums.tolist(), strict=True)), state.counted
                if logged:
                    entry = self._entry(state, sums, snippets, time.perf_counter() - clock)
                    self.log.write(entry)
                    bar.note = _shown(entry)
                    state.sums.zero_()
                    state.counted = 0
                if found := self.health.check(state, sums, since, batch, self._kept_so_far()):
                    self.log.write({"iteration": state.iteration, "collapsed": found})
                snippets, clock = 0, time.perf_counter()
            if self.score and state.iteration % settings.evaluate_every == 0:
                self._select(state)
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
            self._save_whole(state)
            # A worker's error arrives as its traceback; the last line is what it says.
            text = str(error).splitlines()[-1].removeprefix(f"{type(error).__module__}.{type(error).__name__}: ")
            raise type(error)(text) from error
        except (RuntimeError, ConnectionError, EOFError) as error:
            if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
                raise
            self._save_whole(state)
            said = str(error).splitlines()[0].rstrip(". ")
            raise TrainingError(
                f"a process that reads features was killed ({said}), for want of memory perhaps; go on with "
                "--resume, and with train.workers=0 if it happens again"
            ) from error
        except OSError:  # of the log: a disk that is full for it may have room for a checkpoint
            self._save_whole(state)
            raise

    def _save_whole(self, state: State) -> None:
        """Saves unless an error has struck in the middle of a step."""
        if 0 < state.iteration == self.steps:
            self.save(state)

    def _entry(self, state: State, sums: dict[str, float], snippets: int, seconds: float) -> dict[str, Any]:
        window = range(state.iteration - state.counted + 1, state.iteration + 1)
        # L_D enters only some iterations: its terms are averaged over those.
        active = max(1, sum(denoising_scale(self.config.loss, i) > 0 for i in window))
        count = dict.fromkeys(TERMS, state.counted) | {"ds": active, "dv": active}
        means = {k: v if k.startswith("skipped") else v / count[k] for k, v in sums.items()}
        return {"iteration": state.iteration, **means, "snippets_per_second": snippets / max(seconds, 1e-9)}

    def _select(self, state: State) -> None:
        self.health.check_weights(state, self._kept_so_far())
        value = self.score(state.network)
        self.log.write({"iteration": state.iteration, self.config.train.selection: value})
        if value > self.best:
            self.best = value
            self.save(state, "best.pt")


def _shown(entry: dict[str, Any]) -> str:
    """A window of the log for the progress bar."""
    skipped = f", {entry['skipped_steps']:.0f} steps skipped" if entry["skipped_steps"] else ""
    return (
        f"loss {entry['total']:.4f} (cls {entry['classification']:.4f}, DS {entry['ds']:.3f}, DV {entry['dv']:.3f})"
        f"{skipped}, {entry['snippets_per_second']:.0f} snippets/s"
    )
