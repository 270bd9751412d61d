"""Worker processes that prepare the next steps while the current one is computed.

The units of a step (steps.py) are dealt to the workers in turn; each writes its rows into shared memory with room for
two steps, however many workers there are.  Pipes carry only a few numbers per step, so they never fill up and block.
No lock is shared, so a worker may be killed at any time.

The loader grain 0.2.18 was tried instead.  Every killed run left its workers running (still there after 30 s) and named
shared memory behind, which would pile up in training that must survive kill -9; Ctrl-C and errors printed a hundred
lines from destructors; and it would have added ten packages.
"""

import contextlib
import multiprocessing
import os
import pickle
import signal
import traceback
import warnings
import weakref
from collections import deque
from multiprocessing import resource_tracker
from multiprocessing.connection import wait

import numpy as np

from ...errors import DataError, LevitError
from ...lock import Lock
from ..interrupt import SIGNALS

AHEAD = 2   # steps in memory besides the one handed out
LONG = 60.0   # seconds without progress after which a warning is given
_environment = Lock()


class Workers:
    """`count` processes that make the steps of `plan`, a TrainingSteps or EvaluationSteps."""

    def __init__(self, plan, count: int):
        context = multiprocessing.get_context("spawn")   # fork does not mix with threads
        classes = len(plan.source.classes)
        self._plan, self._free, self._under_way = plan, list(range(AHEAD)), deque()
        self._processes, self._pipes, self._heard = [], [], False
        self.owner = os.getpid()
        self._finalizer = weakref.finalize(self, _stop, self._processes, self._pipes, self.owner)
        pickled = pickle.dumps(plan)
        try:
            # Anonymous memory: nothing is left behind, whichever process is killed.
            self._raw = [context.RawArray("f", AHEAD * int(np.prod(plan.shape))),
                         context.RawArray("f", AHEAD * plan.shape[0] * classes), context.RawArray("q", count)]
            self._images, self._targets, self._at = _views(self._raw, plan.shape, classes)
            self._at[:] = -1   # no worker has begun an image yet
            with _safe_path(), _blocked_signals():
                for worker in range(count):
                    ours, theirs = context.Pipe()
                    process = context.Process(target=_work, daemon=True,
                                              args=(theirs, pickled, self._raw, worker, count))
                    process.start()
                    theirs.close()
                    self._processes.append(process)
                    self._pipes.append(ours)
        except OSError as error:
            begun = len(self._processes)
            self.close()
            raise DataError(f"workers: expected to start {count} processes that prepare images, found after {begun}: "
                            f"{error.strerror or error}") from None

    def take(self, epoch: int, step: int, keep) -> tuple:
        """The result of keep(images, targets, skipped) for that step; the arrays are valid until keep returns.  Also
        starts the following steps.

        Raises the exception of the first row that could not be made, and DataError if a worker died."""
        if not self._under_way or self._under_way[0].place != (epoch, step):
            while self._under_way:   # a jump: steps already begun must end first, as they write into the memory
                self._free.append(self._finished().slot)
            self._begin(epoch, step)
        self._begin_following()
        done = self._finished()
        try:
            if done.failures:
                raise min(done.failures, key=lambda failure: failure[0])[1]
            return keep(self._images[done.slot], self._targets[done.slot], sorted(done.skipped))
        finally:
            self._free.append(done.slot)
            self._begin_following()

    def close(self) -> None:
        """Ends the processes."""
        self._finalizer()

    def _begin(self, epoch: int, step: int) -> None:
        slot = self._free.pop()
        self._under_way.append(_UnderWay((epoch, step), slot, len(self._pipes)))
        for worker, pipe in enumerate(self._pipes):
            try:
                pipe.send((epoch, step, slot))
            except OSError:
                self._died(worker)

    def _begin_following(self) -> None:
        while self._free and self._under_way and (following := self._plan.after(*self._under_way[-1].place)):
            self._begin(*following)

    def _finished(self) -> "_UnderWay":
        """Waits until every worker has done its part of the step that was begun first; -> that step."""
        while self._under_way[0].missing:
            for pipe in self._with_something_to_say():
                worker = self._pipes.index(pipe)
                try:
                    slot, skipped, failure = pipe.recv()
                except (EOFError, OSError):
                    self._died(worker)
                self._heard = True
                self._note(slot, skipped, failure)
        return self._under_way.popleft()

    def _with_something_to_say(self) -> list:
        """Waits for pipes to read from.  If no worker makes progress for long (a network drive hangs, a process was
        stopped), a warning names the images that they are working on."""
        while True:
            before = self._at.copy()
            if ready := wait(self._pipes, LONG):
                return ready
            if (self._at == before).all():
                names = ", ".join(self._plan.source.name(int(index)) for index in before if index >= 0)
                warnings.warn(f"{names or 'workers'}: expected a process that prepares images to go on, found it at "
                              f"the same place for {LONG:g} s; still waiting", stacklevel=2)

    def _note(self, slot: int, skipped: list, failure) -> None:
        begun = next(begun for begun in self._under_way if begun.slot == slot)
        begun.missing -= 1
        begun.skipped += skipped
        if failure:
            begun.failures.append(failure)

    def _died(self, worker: int) -> None:
        process = self._processes[worker]
        process.join(10)
        status, index = process.exitcode, int(self._at[worker])
        where = f"{self._plan.source.name(index)}: " if index >= 0 else ""
        killed = (status or 0) < 0
        how = f"signal {-status} ({signal.strsignal(-status)})" if killed else f"exit status {status}"
        hint = ("" if killed or self._heard else
                "; a script that starts workers does so below `if __name__ == \"__main__\":`")
        self.close()
        raise DataError(f"{where}expected a process that prepares images to live, found it ended by {how}{hint}")


class _UnderWay:
    """A step that the workers are preparing."""

    def __init__(self, place: tuple[int, int], slot: int, missing: int):
        self.place, self.slot, self.missing, self.skipped, self.failures = place, slot, missing, [], []


def _views(raw: list, shape: tuple[int, ...], classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """images (AHEAD, batch, C, H, W), targets (AHEAD, batch, classes), and the image index of each worker,
    (workers,)."""
    images, targets = (np.frombuffer(part, np.float32) for part in raw[:2])
    return (images.reshape(AHEAD, *shape), targets.reshape(AHEAD, shape[0], classes), np.frombuffer(raw[2], np.int64))


@contextlib.contextmanager
def _blocked_signals():
    """A context manager: processes started inside never see Ctrl-C and SIGTERM, which go to all processes of a terminal
    or a service.  The parent, which may need them until it has saved, ends them itself."""
    if not hasattr(signal, "pthread_sigmask"):   # Windows
        yield
        return
    resource_tracker.ensure_running()   # starting it inside would unblock the signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _safe_path():
    """A context manager: Python processes started inside import nothing from the current folder."""
    with _environment:  # os.environ is shared by all threads: a second one would save and restore the first one's value
        before = os.environ.get("PYTHONSAFEPATH")
        os.environ["PYTHONSAFEPATH"] = "1"
        try:
            yield
        finally:
            del os.environ["PYTHONSAFEPATH"]
            if before is not None:
                os.environ["PYTHONSAFEPATH"] = before


def _work(pipe, pickled: bytes, raw: list, worker: int, workers: int) -> None:
    """The main loop of a worker: makes its units of each step that it is sent, until the parent is gone."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    units = _opened(pickled, raw, worker, workers)
    try:
        while True:
            epoch, step, slot = pipe.recv()
            pipe.send((slot, *units(epoch, step, slot)))
    except (EOFError, OSError):
        return


def _opened(pickled: bytes, raw: list, worker: int, workers: int):
    """A function of (epoch, step, slot) with the result of _units, on this process's own copy of the plan."""
    try:
        plan = pickle.loads(pickled)
    except LevitError as error:  # the packed file was removed or replaced since the parent opened it
        failure = 0, error
        return lambda epoch, step, slot: ([], failure)
    images, targets, at = _views(raw, plan.shape, len(plan.source.classes))
    return lambda epoch, step, slot: _units(plan, epoch, step, images[slot], targets[slot], at, worker, workers)


def rows_of(plan, epoch: int, step: int, worker: int = 0, workers: int = 1):
    """A worker's units of a step, as ranges of rows.  Units are dealt in turn across steps, so that workers also share
    steps with fewer units than workers."""
    rows = len(plan.indices(epoch, step))  # a multiple of the unit, see Loader
    units = plan.shape[0] // plan.unit
    for unit in range((worker - step * units) % workers, rows // plan.unit, workers):
        yield range(unit * plan.unit, (unit + 1) * plan.unit)


def _units(plan, epoch, step, images, targets, at, worker, workers) -> tuple:
    """(skipped, None), or (skipped, (row, exception)) of the first unit that could not be made."""
    def arrive(index):
        at[worker] = index

    skipped = []
    for rows in rows_of(plan, epoch, step, worker, workers):
        try:
            skipped += plan.fill(epoch, step, rows, images, targets, arrive)
        except (LevitError, MemoryError) as error:
            return skipped, (rows.start, error)
        except Exception:
            name = plan.source.name(int(at[worker]))
            return skipped, (rows.start, RuntimeError(f"{name}: {traceback.format_exc()}"))
    at[worker] = -1
    return skipped, None


def _stop(processes: list, pipes: list, owner: int) -> None:
    if os.getpid() == owner:   # a forked copy of the owner must not end its workers
        for process in processes:
            process.kill()   # safe: they only read files and write to shared memory
        for process in processes:
            process.join()
            process.close()
    for pipe in pipes:
        pipe.close()
    processes.clear()
    pipes.clear()
