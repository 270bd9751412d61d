"""Sums the gradients over all ranks while the backward is still running."""

from collections.abc import Callable

import numpy as np

BUCKET = 1 << 20  # bytes per message: large enough for few messages, small enough to start sending early


class Reduction:
    """After `with reduction: model.backward(...)` the accumulated gradients are the sums over all ranks.

    The sum of a layer's gradients starts when its backward is done, while the following layers are computed.  A large
    gradient is summed in place, in messages of BUCKET bytes; small ones are copied into buckets, in whose memory they
    stay, and which the next reduction reuses.  Every rank goes through the layers in the same order, so that their
    messages match.
    """

    def __init__(self, model, start: Callable):
        """start(array): starts summing an array over all ranks, in place; -> Started."""
        self._start, self._zeros, self._open, self._memory = start, model.ops.zeros, False, []
        for _, layer in model.walk():
            layer.completed = self._completed

    def __enter__(self):
        self._open, self._waiting, self._bytes = True, [], 0
        self._buckets, self._sums = [], []
        return self

    def __exit__(self, kind, *_):
        self._open = False
        if kind is not None:
            return  # the other ranks would now wait forever: mpi_ranks ends them all
        if self._waiting:
            self._send_bucket()
        for sum_ in self._sums:
            sum_.finish()
        for bucket, places in self._buckets:
            start = 0
            for layer, name, shape in places:
                stop = start + int(np.prod(shape))
                layer.accumulated[name] = bucket[start:stop].reshape(shape)
                start = stop

    def _completed(self, layer):
        if not self._open:
            return
        for name, gradient in layer.accumulated.items():
            # In place only if the gradient owns its memory: a view may share it with what the backward still reads.
            if gradient.nbytes >= BUCKET // 4 and gradient.flags.c_contiguous and gradient.flags.owndata:
                self._send(gradient.reshape(-1))
            else:
                self._waiting.append((layer, name, gradient.shape))
                self._bytes += gradient.nbytes
        if self._bytes >= BUCKET:
            self._send_bucket()
        for sum_ in self._sums:
            sum_.move()

    def _send(self, numbers):
        """Starts summing an array (N,), in place."""
        step = BUCKET // numbers.itemsize
        for start in range(0, len(numbers), step):
            self._sums.append(self._start(numbers[start : start + step]))

    def _send_bucket(self):
        gradients = [layer.accumulated[name] for layer, name, _ in self._waiting]
        bucket = self._bucket(sum(gradient.size for gradient in gradients), gradients[0].dtype)
        np.concatenate([gradient.ravel() for gradient in gradients], out=bucket)
        self._send(bucket)
        self._buckets.append((bucket, self._waiting))
        self._waiting, self._bytes = [], 0

    def _bucket(self, size, dtype):
        """Memory for the next bucket, reused from the last reduction, as every backward has the same sequence."""
        place = len(self._buckets)
        if place < len(self._memory) and self._memory[place].shape == (size,) and self._memory[place].dtype == dtype:
            return self._memory[place]
        del self._memory[place:]
        self._memory.append(self._zeros((size,), dtype))
        return self._memory[place]
