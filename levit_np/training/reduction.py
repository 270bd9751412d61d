"""The ranks' gradients become their mean while the backward still goes on."""

import numpy as np

from .collective import finish, started_sum

BUCKET = 4 << 20  # bytes of gradients that travel together: few messages, and the first leave early


class Reduction:
    """`with reduction: model.backward(...)` leaves the mean over all ranks of what each has accumulated.

    As soon as the layers that are done fill a bucket its sum is started; whoever comes after it in the backward
    computes meanwhile.  Every rank goes through the layers in the same order, so that their buckets are the same.
    The gradients stand in the buckets' memory, which the next reduction uses again.
    """

    def __init__(self, model, communicator):
        self._communicator, self._open, self._memory = communicator, False, []
        for _, layer in model.walk():
            layer.completed = self._completed

    def __enter__(self):
        self._open, self._waiting, self._bytes = True, [], 0
        self._sent, self._requests = [], []
        return self

    def __exit__(self, kind, *_):
        self._open = False
        if kind is not None:
            return  # the other ranks would wait forever: whoever catches this ends them all
        if self._waiting:
            self._send()
        for request in self._requests:
            finish(request)
        for bucket, arrays in self._sent:
            bucket /= bucket.dtype.type(self._communicator.size)
            start = 0
            for layer, name, shape in arrays:
                stop = start + int(np.prod(shape))
                layer.accumulated[name] = bucket[start:stop].reshape(shape)
                start = stop

    def _completed(self, layer):
        if not self._open:
            return
        for name, gradient in layer.accumulated.items():
            self._waiting.append((layer, name, gradient.shape))
            self._bytes += gradient.nbytes
        if self._bytes >= BUCKET:
            self._send()
        for request in self._requests:
            request.Test()  # MPI may move its data only while it is called

    def _send(self):
        gradients = [layer.accumulated[name] for layer, name, _ in self._waiting]
        bucket = self._bucket(sum(gradient.size for gradient in gradients), gradients[0].dtype)
        np.concatenate([gradient.ravel() for gradient in gradients], out=bucket)
        self._requests.append(started_sum(self._communicator, bucket))
        self._sent.append((bucket, self._waiting))
        self._waiting, self._bytes = [], 0

    def _bucket(self, size, dtype):
        """The memory that stood in this place the last time: a backward is like the one before."""
        place = len(self._sent)
        if place < len(self._memory) and self._memory[place].shape == (size,) and self._memory[place].dtype == dtype:
            return self._memory[place]
        del self._memory[place:]
        self._memory.append(np.empty(size, dtype))
        return self._memory[place]
