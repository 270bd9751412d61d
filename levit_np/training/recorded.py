"""Records one pass (forward, loss, backward) and then replays it as a whole.  On a GPU a pass is about a thousand small
kernels, which take longer to launch than to run; on a CPU it is about a hundred large ones with Python in between."""

from contextlib import contextmanager

from ..errors import say


class RecordedPass:
    """A function with the signature and result of `compute(*arrays, share=number)` -> values, a pass of the model.

    A recording is valid for the shapes and types of the arrays, the share, the model's current arrays, its frozen parts
    and its dropping branches; if any of these changes, the pass is recorded again.  Values and gradients are in the
    same memory each time.  compute must do the same whatever the values of the arrays, through operations alone, and
    without waiting for anything.  Drop path's masks are drawn beforehand.
    """

    def __init__(self, model, compute):
        self._model, self._compute = model, compute
        self._state = [(layer, name) for _, layer in model.walk() for name in layer.specs]
        self._key = self._replay = self._held = None
        self._refused = False

    def __call__(self, *arrays, share):
        key = (share, self._model.frozen, *map(id, self._model.dropping()), *((a.shape, a.dtype) for a in arrays))
        if self._refused or key != self._key:
            # The first pass is not recorded, as it also compiles and sets things up.
            held, self._key, self._replay = self._replay is not None, None, None
            if held and hasattr(self._model.ops, "free"):  # the old recording's memory, as much as this pass needs
                self._model.ops.free()
            found = self._compute(*arrays, share=share)
            self._key = key  # set only after success: compute may refuse, a batch of one say
            return found
        replay, self._replay = self._replay, None  # if this is interrupted, by Ctrl-C say, the next pass records again
        if replay is None or any(getattr(layer, name) is not array
                                 for (layer, name), array in zip(self._state, self._held)):
            replay = None  # frees the memory that it holds
            if not (replay := self._record(arrays, share)):
                return self._compute(*arrays, share=share)
        else:
            self._draw()
        for own, array in zip(self._inputs, arrays):
            own[...] = array
        try:
            found = replay()
        finally:  # even if interrupted, it may have written to BN's running statistics
            self._model.written()
        for (layer, name), gradient in zip(reversed(self._places), reversed(found)):
            layer.accumulated[name] = gradient
        self._replay = replay
        return found[: -len(self._places)]

    def _record(self, arrays, share):
        """Records the pass; -> a function that replays it, or None if it cannot be recorded."""
        ops, random = self._model.ops, self._model.random.bit_generator.state
        self._inputs = [array.copy() for array in arrays]
        self._held = [getattr(layer, name) for layer, name in self._state]
        batch, dtype = len(arrays[0]), arrays[0].dtype
        self._masks = [(residual, ops.zeros((batch, 1, 1), dtype)) for residual in self._model.dropping()]
        before = [array if layer.specs[name].trainable else array.copy()
                  for (layer, name), array in zip(self._state, self._held)]
        self._draw()

        def once():
            with self._recordable():
                values = self._compute(*self._inputs, share=share)
            for (layer, name), array in zip(self._state, self._held):
                new = getattr(layer, name)
                if new is not array:  # BN's running statistics: replays read and write them in the same memory
                    ops.copyto(array, new)
                    setattr(layer, name, array)
            self._places = [(layer, name) for _, layer in self._model.walk() for name in layer.accumulated]
            return *values, *(layer.accumulated[name] for layer, name in self._places)

        try:
            return ops.captured(once, (*self._inputs, *self._held, *(mask for _, mask in self._masks)))
        except (RuntimeError, MemoryError) as error:
            if any(layer.completed for _, layer in self._model.walk()):
                raise  # gradients have already been sent to the other ranks, which wait for the rest
            self._model.random.bit_generator.state = random
            for (layer, name), array in zip(self._state, before):
                setattr(layer, name, array)
            self._model.zero_gradients()
            self._refused, self._inputs, self._masks = True, None, None
            say(f"levit_np: training steps are not recorded, and so slower ({type(error).__name__}: {error})")
            return None

    def _draw(self):
        for residual, mask in self._masks:
            mask[...] = residual.draw(len(mask), mask.dtype)

    @contextmanager
    def _recordable(self):
        """A context manager for recording: residuals use the masks drawn beforehand, and the calls of
        `layer.completed` become part of the recording."""
        telling = [(layer, layer.completed) for _, layer in self._model.walk() if layer.completed]
        tell = self._model.ops.repeated(_tell) if telling else None
        try:
            for residual, mask in self._masks:
                residual.mask = mask
            for layer, completed in telling:
                layer.completed = lambda layer, told=completed: tell(told, layer, dict(layer.accumulated))
            yield
        finally:
            for residual, _ in self._masks:
                residual.mask = None
            for layer, completed in telling:
                layer.completed = completed


def _tell(completed, layer, gradients):
    layer.accumulated.update(gradients)
    completed(layer)
