"""The training loop: steps without host synchronisation, exact resumption, atomic checkpoints."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from d2kernels import verify
from d2net.config import Config, fields_of
from d2net.data.batch import Batch
from d2net.data.cache import Resident, why_not_resident
from d2net.data.dataset import TrainingBatches, shares, spread
from d2net.data.drawing import Drawing, Drawn, gathered
from d2net.data.files import DataError
from d2net.data.read_ahead import ReadAhead
from d2net.distributed.parallel import in_parallel
from d2net.distributed.ranks import ALONE, Ranks
from d2net.distributed.together import Together, readable
from d2net.methods.base import Network, method_named
from d2net.terminal import Bar
from d2net.training.checkpoint import FILE, read_checkpoint, save_checkpoint, usable
from d2net.training.errors import TrainingError, TrainingWarning
from d2net.training.folder import check_folder, clear_folder, clear_temporaries, remove_empty, trim_log, write_holdout
from d2net.training.graph import GraphedSteps, cuda_steps
from d2net.training.graph import why_not as why_no_graph
from d2net.training.health import Health, check_start
from d2net.training.later import deferred
from d2net.training.lock import FolderLock
from d2net.training.logs import Log
from d2net.training.resume import check_same_run, data_digest, environment, features_fingerprint
from d2net.training.signals import StopOnSignal, held_back, leave_to_parent
from d2net.training.state import State, content, new_state, restore
from d2net.training.step import train_step
from d2net.training.survey import check_videos
from d2net.training.threads import threads, training_threads
from d2net.training.windows import Windows


@dataclass
class Run:
    """One training run in a folder: config.yaml, checkpoint.pt, log.jsonl, and best.pt where a selection is made.

    Args:
        meta: classes, timing, streams and what else the checkpoint carries for localization.
        score: called with the network for selections other than `last`; larger is better.
        trackers: that are told too, of logs.TRACKERS.
        ranks: the processes that train together, of which rank 0 alone looks at the folder.
    """

    config: Config
    batches: TrainingBatches
    out: Path
    meta: dict[str, Any]
    device: torch.device
    streams: int
    score: Callable[[Network], float] | None = None
    progress: bool = True
    trackers: Sequence[str] = ()
    ranks: Ranks = ALONE

    def start(self, resume: bool = False, overwrite: bool = False) -> State:
        """A fresh state, or the checkpoint's; the folder is checked first."""
        made = [p for p in (self.out, *self.out.parents) if not p.exists()] if self.ranks.main else []
        self.lock: FolderLock | None = None
        self.log: Log | None = None
        try:
            self.ranks.on_main(lambda: self._claim(resume, overwrite))
            try:
                with self.ranks.watched(self._kept_so_far):
                    return self._begin(resume)
            except BaseException:
                if self.log:
                    self.log.close()
                if self.lock:
                    self.lock.release()
                raise
        except BaseException:
            remove_empty(made)
            raise

    def _claim(self, resume: bool, overwrite: bool) -> None:
        check_folder(self.out, resume, overwrite)
        self.lock = FolderLock(self.out)
        try:
            self.log = Log(self.out, self.trackers, fields_of(self.config), resume)
        except BaseException:
            self.lock.release()
            raise

    def _begin(self, resume: bool) -> State:
        check_videos(self.batches, self.config)
        self.batches.rank, self.batches.ranks = self.ranks.rank, self.ranks.size
        # With or without graphs, so that both give the same bits.
        self.batches.rounds = self.device.type == "cuda" and self.ranks.size == 1
        on_cpu = self.device.type == "cpu"
        of = self.config, self.batches.features.store, self.batches.names, self.batches.labels.shape[1], self.streams
        self.threads = training_threads(*of) if on_cpu else torch.get_num_threads()
        self.meta = {
            "held_out": [],
            **self.meta,
            "data": data_digest(self.batches.names, self.batches.labels, self.batches.counts),
            **self._fingerprints(),
            "environment": environment(self.device, self.threads, self.ranks.size),
        }
        facts = {"features": self.meta["features"], "videos or labels": self.meta["data"], "settings": self.config}
        versions = [self.meta["environment"][name] for name in ("torch", "d2kernels")]
        self.ranks.check_same({**facts, "classes": self.meta["classes"], "versions of torch or d2kernels": versions})
        shares([1] * self.config.train.batch_size, self.ranks.size)  # raises where there are too few videos
        read_to = self.device if self.ranks.size == 1 else "cpu"
        saved = self.ranks.on_main(lambda: read_checkpoint(self.out, read_to)) if resume else None
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
        state.joint = in_parallel(state.network, self.ranks)
        self.graphs = self._captured(state)
        self.ranks.on_main(lambda: self._prepare(state, saved is not None))
        self.resident = self._kept_in_memory()
        self.steps = self.saved = state.iteration
        self.health = Health(self.config, state, self.meta["classes"])
        if saved is not None and "collapse" in saved:  # earlier revisions began to look anew
            with usable(self.out / FILE):
                self.health.collapse.restore(saved["collapse"])
        return state

    def _prepare(self, state: State, resumed: bool) -> None:
        """The folder's files as the first step wants them, once that is known to be worth it."""
        if resumed:
            trim_log(self.out / "log.jsonl", state.iteration)
        else:
            check_start(state, self.batches.whole(0).to(self.device), self.config)
            if (self.out / FILE).exists():
                # A full disk must not cost the run that is replaced: the new one's file comes before the old one goes.
                save_checkpoint(self.out / FILE, content(state, self.config, {**self.meta, "best": self.best}))
            clear_folder(self.out)
        self.config.save(self.out / "config.yaml")
        write_holdout(self.out, self.meta["held_out"])
        clear_temporaries(self.out)

    def _fingerprints(self) -> dict[str, Any]:
        store, held_out = self.batches.features.store, self.meta.get("held_out", [])
        bar = Bar("features", unit="video", show=self.progress)
        found = {"features": features_fingerprint(store, self.batches.names, bar.over(self.batches.read_ahead()))}
        if held_out:
            read = ((v, store[v]) for v in spread(store, held_out, self.batches.features.room))
            found["held_out_features"] = features_fingerprint(store, held_out, read)
        return found

    def _kept_in_memory(self) -> Resident | None:
        """Features that stay on the device, read here; None where batches are read as they come.

        Raises:
            ValueError: train.resident is on, and they do not fit.
        """
        features, names, train = self.batches.features, self.batches.names, self.config.train
        if features.resident is not None and features.resident.of(names, self.device):
            return features.resident
        if reason := why_not_resident(features, names, train, self.device):
            if train.resident == "on":
                raise ValueError(f"train.resident is on, but {reason}; set it to auto, or make room")
            return None
        bar = Bar("keep", unit="video", show=self.progress)
        features.resident = Resident(features, names, self.device, bar.over(names))
        return features.resident

    def _captured(self, state: State) -> GraphedSteps | None:
        """Steps as CUDA graphs, or None where they are done as they come.

        Raises:
            ValueError: train.graph is on, and they cannot be captured.
        """
        if self.device.type == "cuda":
            verify.ready(self.device)  # which kernels serve decides
        reason = why_no_graph(self.config, self.device, self.ranks.size, len(self.meta["classes"]))
        if reason is None:
            return cuda_steps(state, self.config)
        if self.config.train.graph == "on":
            raise ValueError(f"train.graph is on, but {reason}; set it to auto")
        return None

    def save(self, state: State, name: str = FILE) -> None:
        """Raises TrainingError, and leaves the earlier file alone, where a weight is not finite."""

        def write() -> None:
            self.health.check_weights(state, self._kept_so_far())
            more = {**self.meta, "best": self.best, "collapse": self.health.collapse.state()}
            save_checkpoint(self.out / name, content(state, self.config, more))

        self.ranks.on_main(write)
        if name == FILE:
            self.saved = state.iteration

    def _kept_so_far(self) -> str:
        saved = getattr(self, "saved", 0)
        return f"the checkpoint of iteration {saved} is whole" if saved else "nothing was saved"

    def finish(self, state: State) -> bool:
        """Trains to the last iteration; False where a signal stopped it earlier, after saving.

        Raises:
            DataError: a video cannot be read; what was trained until then is saved.
        """
        verify.ready(self.device)
        settings = self.config.train
        bar = Bar("train", settings.iterations, unit="it", done=state.iteration, show=self.progress and self.ranks.main)
        with (
            self.lock or nullcontext(), threads(self.threads), StopOnSignal(self.ranks.size > 1) as stop,
            closing(self.log) if self.log else nullcontext(), bar, self.ranks.watched(self._kept_so_far),
            self._kept(state), self._reading(state.iteration) as batches,
        ):  # fmt: skip
            if self.log:
                self.log.begin()
            done = self._iterate(state, batches, stop, bar)
        return done

    @contextmanager
    def _reading(self, first: int) -> Iterator[Iterator[Batch | Drawn]]:
        """The batches from iteration `first`; the thread or processes that read them end with the context."""
        pin = self.device.type == "cuda"
        source = self.resident and Drawing(self.batches, self.resident.first)
        last = self.config.train.iterations
        loader = self.batches.loader(first, last, pin=pin, prepare=leave_to_parent, source=source)
        if not loader.num_workers:
            ahead = ReadAhead(loader)
            try:
                yield ahead
            finally:
                ahead.close()
            return
        with held_back():
            batches = iter(loader)
        try:
            yield batches
        finally:
            # Says again of a process what has been said.
            with suppress(RuntimeError):
                batches._shutdown_workers()

    def _iterate(self, state: State, batches: Iterator[Batch | Drawn], stop: StopOnSignal, bar: Bar) -> bool:
        together = Together(batches, stop, self.ranks)
        self.windows = Windows(self.config, self.ranks, self.log, self.health, self.batches, self._kept_so_far, bar)
        # A line of a device is told with the next one, before anything is saved or selected, or at the end.
        self.deferred = deferred(self.device) and self.ranks.size == 1
        try:
            return self._steps(state, together, bar)
        except BaseException as error:
            if self.ranks.size == 1:
                try:
                    self.windows.settle()
                except TrainingError as found:  # a line that was due ends the run before what ended it now
                    raise found from error
                except Exception:  # what has ended the run is said, not what comes of it
                    pass
            raise

    def _steps(self, state: State, together: Together, bar: Bar) -> bool:
        settings = self.config.train
        snippets, clock = 0, time.perf_counter()
        for read in together:
            snippets += int(read.snippets.sum())
            batch = self._placed(read)
            if self.graphs is None:
                train_step(state, batch, self.config, self.ranks)
            else:
                self.graphs(batch)
            self.steps = state.iteration
            bar.update()
            logged = state.iteration % settings.log_every == 0
            if logged or state.iteration == settings.iterations:
                self.windows.settle()
                self.windows.take(state, batch, logged, snippets, time.perf_counter() - clock)
                if not self.deferred:
                    self.windows.settle()
                if logged:  # after its line: where that cannot be written, the checkpoint has the sums
                    state.sums.zero_()
                    state.counted = 0
                snippets, clock = 0, time.perf_counter()
            if self.score and state.iteration % settings.evaluate_every == 0:
                self.windows.settle()
                self._select(state)
            stopped = together.stopped()
            if state.iteration % settings.checkpoint_every == 0 or stopped:
                self.windows.settle()
                self.save(state)
            if stopped:
                return False
        self.windows.settle()
        self.save(state)
        return True

    def _placed(self, batch: Batch | Drawn) -> Batch:
        """The batch on the device, its features in the precision that the first layer takes them in."""
        train = self.config.train
        low = train.precision == "bf16" and method_named(self.config.method).casts
        dtype = torch.bfloat16 if low else torch.float32
        if isinstance(batch, Batch):
            batch = batch.to(self.device)
            return batch._replace(features=batch.features.to(dtype))
        assert self.resident is not None
        out = self.graphs and self.graphs.room(batch.rows, self.resident.rows.shape[1], dtype)
        return gathered(self.resident, batch, dtype, out)

    @contextmanager
    def _kept(self, state: State) -> Iterator[None]:
        """Saves the state where a video cannot be read."""
        try:
            yield
        except DataError as error:
            self._save_whole(state)
            raise readable(error) from error
        except (RuntimeError, ConnectionError, EOFError) as error:
            if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
                raise
            self._save_whole(state)
            raise readable(error) from error
        except OSError:  # of the log: a disk that is full for it may have room for a checkpoint
            self._save_whole(state)
            raise

    def _save_whole(self, state: State) -> None:
        """Saves unless an error has struck in the middle of a step."""
        if 0 < state.iteration == self.steps:
            self.save(state)

    def _select(self, state: State) -> None:
        def scored() -> float:
            self.health.check_weights(state, self._kept_so_far())
            return self.score(state.network)

        value = self.ranks.on_main(scored)
        self.windows.tell({"iteration": state.iteration, self.config.train.selection: value})
        if value > self.best:
            self.best = value
            self.save(state, "best.pt")
