"""A pass, forward, loss and backward, recorded once and then replayed whole: on a GPU it is some thousand small
kernels, which the processor is slower to launch than the GPU to run, and on a CPU Python stands between some hundred
large ones."""

from contextlib import contextmanager

from ..errors import say


class RecordedPass:
    """`compute(*arrays, share=number)` -> values, a pass of the model, in the same form.

    It is recorded for arrays of certain shapes and types and a certain share, and for the arrays that the model then
    has, the parts of it that are frozen and those that drop; where any of them changes, anew.  Values and gradients
    stand in the same memory each time.  compute must do the same whatever the arrays hold, by operations alone, and
    wait for nothing.  Drop path's masks are drawn before.
    """

    def __init__(self, model, compute):
        self._model, self._compute = model, compute
        self._state = [(layer, name) for _, layer in model.walk() for name in layer.specs]
        self._key = self._replay = self._held = None
        self._refused = False

    def __call__(self, *arrays, share):
        key = (share, self._model.frozen, *map(id, self._model.dropping()), *((a.shape, a.dtype) for a in arrays))
        if self._refused or key != self._key:
            # The first time as it comes: whatever is compiled or put together once is not recorded.
            held, self._key, self._replay = self._replay is not None, None, None
            if held and hasattr(self._model.ops, "free"):  # as much memory as this pass takes too
                self._model.ops.free()
            found = self._compute(*arrays, share=share)
            self._key = key  # not that of a pass that is refused, for a batch of one say
            return found
        replay, self._replay = self._replay, None  # where this is cut short, by Ctrl-C say, the next is recorded anew
        if replay is None or any(getattr(layer, name) is not array
                                 for (layer, name), array in zip(self._state, self._held)):
            replay = None  # and what it kept
            if not (replay := self._record(arrays, share)):
                return self._compute(*arrays, share=share)
        else:
            self._draw()
        for own, array in zip(self._inputs, arrays):
            own[...] = array
        try:
            found = replay()
        finally:  # cut short it has written too, to BN's running statistics
            self._model.written()
        for (layer, name), gradient in zip(reversed(self._places), reversed(found)):
            layer.accumulated[name] = gradient
        self._replay = replay
        return found[: -len(self._places)]

    def _record(self, arrays, share):
        """What replays the pass; None where it cannot be recorded."""
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
                if new is not array:  # BN's running statistics: the next replay reads them where this one did
                    ops.copyto(array, new)
                    setattr(layer, name, array)
            self._places = [(layer, name) for _, layer in self._model.walk() for name in layer.accumulated]
            return *values, *(layer.accumulated[name] for layer, name in self._places)

        try:
            return ops.captured(once, (*self._inputs, *self._held, *(mask for _, mask in self._masks)))
        except (RuntimeError, MemoryError) as error:
            if any(layer.completed for _, layer in self._model.walk()):
                raise  # the other ranks have been told of gradients, and wait for the rest
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
        """With drop path's masks drawn, and what a layer with all its gradients calls a part of the recording."""
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
