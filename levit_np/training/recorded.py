"""A pass, forward, loss and backward, recorded once and then replayed whole: on a GPU it is some thousand small
kernels, which the processor is slower to launch than the GPU to run."""

import sys


class RecordedPass:
    """`compute(*arrays, share=number)` -> values, a pass of the model, in the same form.

    It is recorded for arrays of certain shapes and types and a certain share, and for the arrays that the model then
    has; where any of them changes, anew.  Values and gradients stand in the same memory each time.  compute must do the
    same whatever the arrays hold, and wait for nothing.  Drop path's masks are drawn before each replay.
    """

    def __init__(self, model, compute):
        self._model, self._compute = model, compute
        self._state = [(layer, name) for _, layer in model.walk() for name in layer.specs]
        self._key = self._replay = self._held = None
        self._refused = False

    def __call__(self, *arrays, share):
        key = share, *((a.shape, a.dtype) for a in arrays)
        if self._refused or key != self._key:
            # The first time as it comes: whatever is compiled or put together once is not recorded.
            self._key, self._replay = key, None
            return self._compute(*arrays, share=share)
        if self._replay is None or any(getattr(layer, name) is not array
                                       for (layer, name), array in zip(self._state, self._held)):
            if not self._record(arrays, share):
                return self._compute(*arrays, share=share)
        for own, array in zip(self._inputs, arrays):
            own[...] = array
        for residual, mask in self._masks:
            mask[...] = residual.draw(len(mask), mask.dtype)
        found = self._replay()
        for (layer, name), gradient in zip(reversed(self._places), reversed(found)):
            layer.accumulated[name] = gradient
        self._model.written()
        return found[: -len(self._places)]

    def _record(self, arrays, share) -> bool:
        """Whether that could be done."""
        self._inputs = [array.copy() for array in arrays]
        self._held = [getattr(layer, name) for layer, name in self._state]
        batch, dtype = len(arrays[0]), arrays[0].dtype
        self._masks = [(residual, self._model.ops.zeros((batch, 1, 1), dtype)) for residual in self._model.dropping()]

        def once():
            for residual, mask in self._masks:
                residual.mask = mask
            values = self._compute(*self._inputs, share=share)
            for residual, _ in self._masks:
                residual.mask = None
            for (layer, name), array in zip(self._state, self._held):
                new = getattr(layer, name)
                if new is not array:  # BN's running statistics: the next replay reads them where this one did
                    array[...] = new
                    setattr(layer, name, array)
            self._places = [(layer, name) for _, layer in self._model.walk() for name in layer.accumulated]
            return *values, *(layer.accumulated[name] for layer, name in self._places)

        try:
            self._replay = self._model.ops.captured(once)
        except (RuntimeError, MemoryError) as error:
            for (layer, name), array in zip(self._state, self._held):
                setattr(layer, name, array)
            for residual, _ in self._masks:
                residual.mask = None
            self._model.zero_gradients()
            self._refused, self._replay, self._inputs, self._masks = True, None, None, None
            print(f"levit_np: training launches its kernels one by one ({type(error).__name__}: {error})",
                  file=sys.stderr, flush=True)
        return not self._refused
