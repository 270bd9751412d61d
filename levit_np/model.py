"""The network LeViT, assembled from a configuration: forward, backward, and its state (parameters and buffers).

It computes on arrays alone; classifier.py adds images, labels, files and the fast evaluation.
"""

import weakref
from copy import deepcopy
from dataclasses import replace
from numbers import Integral
from typing import NamedTuple

import numpy as np

from .config import LeViTConfig, config_of, plain
from .errors import ConfigError, LevitError
from .layers.block import Residual, Stage
from .layers.layer import Layer
from .layers.linear import Head
from .layers.position import PositionEmbedding
from .layers.stem import Stem
from .layers.token import ClassToken
from .ops import backend as backend_named
from .ops.kinds import as_given, to_backend


class SavedLeViT(NamedTuple):
    stem: object
    stages: tuple
    head: object
    head_dist: object
    tokens: int


class LeViT(Layer):
    """y = (head(p) + head_dist(p)) / 2, p = pool(stages(stem(x))): the network of the paper's Figure 4.

    images (B, C, H, W), normalized -> logits (B, classes).

    `model(x)` evaluates: running statistics, the two heads averaged.
    """

    BESIDES = "labels", "preprocessing", "random", "frozen"  # copied along with configuration and state

    def __init__(self, config: LeViTConfig, ops):
        super().__init__(ops)
        self.config, self.random = config, np.random.default_rng(0)
        self.labels, self.preprocessing = None, None  # from the weight file, if it has them
        self.frozen = frozenset()  # names of parts, see freeze
        channels = config.stages[-1].channels
        self.stem = Stem(ops, config)
        (height, width), first = config.resolutions[0], config.stages[0].channels
        token = config.pooling == "token"
        self.token = ClassToken(ops, first) if token else None
        embedded = config.position == "embedding"
        self.position = PositionEmbedding(ops, height * width + token, first) if embedded else None
        self.stages = tuple(Stage(ops, config, number) for number in range(len(config.stages)))
        self.head = Head(ops, channels, config.num_classes, config.normalization)
        self.head_dist = Head(ops, channels, config.num_classes, config.normalization) if config.distillation else None
        pooling = "first_token" if token else "average_pool"
        self.pool, self.pool_backward = getattr(ops, pooling), getattr(ops, f"{pooling}_backward")
        self._name_layers()

    def _name_layers(self):
        _, *self._named = self.walk()  # (name, layer), computed once: a training step iterates over it several times
        self.name = self.config.name
        for name, layer in self._named:
            layer.name = name
        own = weakref.ref(self)  # a strong reference would be a cycle, and delay freeing the network's memory
        for residual in self._residuals(self.stages):
            # A callable, so that replacing `model.random` reaches every residual.
            residual.generator = lambda: own().random

    def _residuals(self, stages):
        return [branch for stage in stages for block in (stage.downsample, *stage.blocks) if block
                for branch in (block.attention, block.mlp) if isinstance(branch, Residual)]

    def __call__(self, x):
        """Evaluation: logits (B, classes), averaged over the two heads."""
        outputs, _ = self.forward(x)
        return outputs

    def heads(self, x) -> tuple:
        """Evaluation: images (B, C, H, W) -> the logits (B, classes) of each head, two with distillation."""
        outputs, _ = self.forward(x, training="frozen")
        return outputs if self.head_dist else (outputs,)

    def forward(self, x, training=False):
        """Images x (B, C, H, W) -> (outputs, saved).

        In evaluation: the averaged logits, and None. With training=True (or "frozen", see Layer): the logits of each
        head (a pair with distillation), and what backward needs; parts named to `freeze` compute as in evaluation. The
        result is NumPy's for NumPy images and CuPy's for CuPy images, whatever the backend; the same holds for backward
        and the methods below.

        Raises LevitError if x is not (B, in_channels, *image_size) of this model's dtype, and for fewer than two images
        to train on, which would leave the head's BN one value per channel."""
        self._check(x)
        if training not in (False, True, "frozen"):
            raise LevitError(f"training: expected False, True or 'frozen', found {training!a:.100}")
        training = training if training == "frozen" else bool(training)
        if training is True and len(x) < 2 and self.config.normalization == "batch":  # before any statistic changes
            raise LevitError(f"{self.config.name}: expected at least two images to train on, found {len(x)}: BN needs "
                             "more than one value per channel; use a larger batch")
        modes, given, x = self._modes(training), x, to_backend(self.ops, x)
        x, stem = self.stem.forward(x, modes[0])  # 1  (B, N, C)
        for layer in self._embeddings():
            x, _ = layer.forward(x, modes[0])  # 2
        stages = []
        for stage, mode in zip(self.stages, modes[1:]):
            x, saved = stage.forward(x, mode)  # 3
            stages.append(saved)
        pooled = self.pool(x)  # 4  (B, C)
        outputs, head = self.head.forward(pooled, training)  # 5  (B, classes)
        head_dist = None
        if self.head_dist:
            second, head_dist = self.head_dist.forward(pooled, training)  # 6
            outputs = (outputs, second) if training else (outputs + second) / 2
        outputs = as_given(self.ops, outputs, given)
        if not training:
            return outputs, None
        return outputs, SavedLeViT(stem, tuple(stages), head, head_dist, x.shape[1])

    def backward(self, doutputs, saved, image_gradient=True):
        """doutputs, the loss's gradient with respect to each head's logits (a pair with distillation) -> its gradient
        with respect to the images, None if the stem is frozen or image_gradient is false (training needs none).

        The parameters' gradients are added up, see gradients().  Raises LevitError if `saved` comes from an evaluation
        or doutputs are not shaped like the logits."""
        if saved is None:
            raise LevitError("saved: expected what forward saved with training=True or 'frozen', found None")
        given = self._checked_gradients(doutputs, len(saved.head.x))
        douts = [to_backend(self.ops, dy) for dy in given]
        dpooled = self.head.backward(douts[0], saved.head)  # 5
        if self.head_dist:
            dpooled = self.ops.add(dpooled, self.head_dist.backward(douts[1], saved.head_dist))  # 6
        dx = self.pool_backward(dpooled, saved.tokens)  # 4
        for stage, s in zip(reversed(self.stages), reversed(saved.stages)):
            if s is None:  # this and all before it are frozen
                return None
            dx = stage.backward(dx, s)  # 3
        if saved.stem is None:
            return None
        for layer in reversed(self._embeddings()):
            dx = layer.backward(dx, None)  # 2
        return as_given(self.ops, self.stem.backward(dx, saved.stem, image_gradient), given[0])  # 1

    def parts(self) -> dict:
        """{"stem": layers, "stage1": …}: the parts that can be frozen.  Class token and position embedding belong to
        the stem."""
        return {"stem": [self.stem, *self._embeddings()]} | {f"stage{n}": [s] for n, s in enumerate(self.stages, 1)}

    def freeze(self, parts=()) -> None:
        """Freezes these parts (see parts()) and unfreezes all others: in training, frozen parts compute as in
        evaluation (running statistics, no drop path) and have no gradients.  Raises LevitError for an unknown part."""
        parts = frozenset([parts] if isinstance(parts, str) else parts)
        if unknown := sorted(parts - set(self.parts())):
            raise LevitError(f"freeze: expected parts among {', '.join(self.parts())}, found {unknown[0]!a:.100}")
        self.frozen = parts

    def set_drop_path(self, rate: float) -> None:
        """Sets the probability with which training drops a residual branch.  Raises ConfigError outside [0, 1)."""
        self.config = replace(self.config, drop_path=plain(rate))
        for residual in self._residuals(self.stages):
            residual.rate = self.config.drop_path

    def dropping(self) -> list:
        """The residual layers that draw a drop-path mask in training, in the order in which they draw."""
        trained = [stage for stage, mode in zip(self.stages, self._modes(True)[1:]) if mode is True]
        return [residual for residual in self._residuals(trained) if residual.rate]

    def _modes(self, training):
        """The `training` argument for the stem and for each stage.  A frozen part after one that trains is "frozen", as
        gradients must pass through it; a frozen part with nothing trained before it evaluates and saves nothing."""
        modes, through = [], False
        for part in self.parts():
            if training is not True or part not in self.frozen:
                modes.append(training)
                through = True
            else:
                modes.append("frozen" if through else False)
        return modes

    def trained(self) -> dict:
        """{name: array} of the parameters that training updates: all outside the frozen parts; the arrays themselves,
        as in state."""
        self.written()  # the caller may write into them
        return self._trained()

    def _trained(self):
        still = {id(layer) for part in self.frozen for top in self.parts()[part] for _, layer in top.walk()}
        return {f"{name}.{key}": getattr(layer, key) for name, layer in self._named if id(layer) not in still
                for key, spec in layer.specs.items() if spec.trainable}

    def _embeddings(self):
        """Class token and position embedding, applied before the first stage: none, except in ablations."""
        return [layer for layer in (self.token, self.position) if layer]

    def _check(self, x):
        expected = (self.config.in_channels, *self.config.image_size)
        if not isinstance(getattr(x, "dtype", None), np.dtype):
            raise LevitError(f"{self.config.name}: expected an array of NumPy or CuPy, found {type(x).__name__}")
        if x.shape[1:] != expected:
            raise LevitError(f"{self.config.name}: expected images (B, {', '.join(map(str, expected))}), found "
                             f"{x.shape}")
        if x.dtype != self.dtype and x.dtype.name not in self.ops.SIXTEEN_BIT:
            raise LevitError(f"{self.config.name}: expected images of {self.dtype}, as head.weight, found {x.dtype}")

    def _checked_gradients(self, doutputs, images):
        """The gradients of each head's logits, in this model's dtype or in one that the backend allows activations."""
        given = tuple(doutputs) if self.head_dist and np.iterable(doutputs) else (doutputs,)
        expected = [(images, self.config.num_classes)] * (1 + self.config.distillation)
        found = [dy.shape if isinstance(getattr(dy, "dtype", None), np.dtype) else type(dy).__name__ for dy in given]
        if found != expected:
            raise LevitError(f"doutputs: expected arrays {expected}, found {found!a:.100}")
        kinds = (self.dtype.name, *self.ops.SIXTEEN_BIT)
        return [dy if dy.dtype.name in kinds else dy.astype(self.dtype) for dy in given]

    @property
    def dtype(self):
        """The parameters' type, float32 or float64."""
        return self.head.weight.dtype

    def specs_by_name(self) -> dict:
        """{name: Parameter} of every array: its shape, its initial value and whether it is trainable."""
        return {f"{name}.{key}": spec for name, layer in self._named for key, spec in layer.specs.items()}

    def state(self) -> dict:
        """{name: array}: parameters and BN statistics, by attribute path; the arrays themselves, not copies.  After
        writing into arrays that an earlier call returned, call `written`: evaluation has packed their values."""
        self.written()  # the caller may write into them
        return self._arrays()

    def _arrays(self):
        present = {layer for _, layer in self.walk()}
        if gone := [name for name, layer in self._named if layer not in present]:
            raise LevitError(f"{min(gone, key=len)}: expected the layer of the configuration, found another or none in "
                             "its place; assign its arrays, not the layer")
        return {f"{name}.{key}": getattr(layer, key) for name, layer in self._named for key in layer.specs}

    def numpy_state(self) -> dict:
        """The state as NumPy arrays, for reading only: on some backends these are the network's own."""
        return {name: self.ops.to_host(array) for name, array in self._arrays().items()}

    def set_state(self, state: dict, copy: bool = True) -> None:
        """Copies every array of `state` into the network, all as float64 if one of them is, else as float32.  With
        copy=False, arrays that already have that type become the network's own, which training writes to.  Raises
        LevitError, and changes nothing, if an array is missing, unknown, of another shape or not floating point."""
        self._require(state)
        dtype = state_type(state)
        for name, layer in self._named:
            for key in layer.specs:
                setattr(layer, key, self.ops.asarray(state[f"{name}.{key}"].astype(dtype, copy=copy)))

    def _require(self, state):
        specs = self.specs_by_name()
        if unknown := next((name for name in state if name not in specs), None):
            raise LevitError(f"{unknown!a:.100}: expected no such array, the network has none of that name")
        for name, spec in specs.items():
            array = state.get(name)
            if getattr(array, "shape", None) != spec.shape or getattr(array.dtype, "kind", "") != "f":
                kind, shape = getattr(array, "dtype", type(array).__name__), getattr(array, "shape", "")
                raise LevitError(f"{name}: expected a floating array {spec.shape}, found "
                                 f"{'nothing' if array is None else f'{kind} {shape}'}")

    def gradients(self) -> dict:
        """{name: array}: the accumulated gradient of each trained parameter, zeros if there is none yet."""
        trained = self._trained()
        found = {f"{name}.{key}": gradient for name, layer in self._named
                 for key, gradient in layer.accumulated.items()}
        return {name: found[name] if name in found else self.ops.zeros_like(array) for name, array in trained.items()}

    def zero_gradients(self) -> None:
        """Clears the accumulated gradients; call it before the next step's backward."""
        for _, layer in self._named:
            layer.accumulated.clear()

    def features(self, x) -> dict:
        """Images (B, C, H, W) -> {"stage1": (B, C, h, w), …, "pooled": (B, C)}: each stage's output, in evaluation."""
        self._check(x)
        given, (x, _) = x, self.stem.forward(to_backend(self.ops, x))
        for layer in self._embeddings():
            x, _ = layer.forward(x)
        maps = {}
        for i, (stage, (height, width)) in enumerate(zip(self.stages, self.config.resolutions), 1):
            x, _ = stage.forward(x)
            pixels = x[:, -height * width:]  # without the class token before them, if there is one
            maps[f"stage{i}"] = self.ops.tokens_to_image(pixels, height, width)
        return as_given(self.ops, maps | {"pooled": self.pool(x)}, given)

    def attention_maps(self, x) -> dict:
        """Images (B, C, H, W) -> {"stages.0.blocks.0.attention": (B, heads, Nq, Nk), …}: every attention's
        probabilities, in evaluation."""
        _, saved = self.forward(x, training="frozen")
        maps = {f"stages.{i}.{name}": self.ops.attention_probabilities(probabilities)
                for i, stage in enumerate(saved.stages)
                for name, probabilities in _stage_maps(stage)}
        return as_given(self.ops, maps, x)

    def to(self, backend: str) -> "LeViT":
        """A copy on another backend, of the same class: weights, labels, preprocessing, random state, frozen parts."""
        kind, config, _, state, besides = self._ingredients()
        return _assembled(kind, config, backend, {name: np.array(array) for name, array in state.items()},
                          deepcopy(besides))

    def __reduce__(self):  # for copy and pickle, which cannot handle ops, a module: the backend's name stands for it
        return _assembled, self._ingredients()

    def _ingredients(self):
        """The arguments from which _assembled makes a copy of this network."""
        return type(self), self.config, self.ops.NAME, self.numpy_state(), {key: getattr(self, key) for key in
        self.BESIDES}

    def rows(self) -> list[tuple]:
        """(name, output shape without the batch, number of parameters, multiply-adds) of each computing layer."""
        shape, rows = (1, self.config.in_channels, *self.config.image_size), []
        for layer in (self.stem, *self._embeddings(), *self.stages):
            for part, output, cost in layer.shapes(shape):
                rows.append((part.name, output[1:], _parameters(part), cost))
                shape = output
                if part is self.stem.convolutions[-1]:
                    shape = (1, output[2] * output[3], output[1])  # tokens
        for head in filter(None, (self.head, self.head_dist)):
            rows += [(p.name, out[1:], _parameters(p), n) for p, out, n in head.shapes((1, shape[-1]))]
        return rows

    def summary(self) -> str:
        """A table as text: each layer with its output shape, number of parameters and multiply-adds, and the totals."""
        found = self.rows()
        found.append(("total", (), sum(row[2] for row in found), sum(row[3] for row in found)))
        return aligned([("layer", "output", "parameters", "multiply-adds"),
                        *((n, " × ".join(map(str, s)), f"{p:,}", f"{m:,}") for n, s, p, m in found)])


def aligned(rows: list[tuple[str, ...]]) -> str:
    """A table as text: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join([f"{row[0]:<{widths[0]}}", *(f"{cell:>{width}}" for cell, width in
                                                            zip(row[1:], widths[1:]))]) for row in rows)


def _stage_maps(stage):
    parts = [("downsample", stage.downsample)] if stage.downsample else []
    for name, pair in parts + [(f"blocks.{i}", block) for i, block in enumerate(stage.blocks)]:
        saved = pair.attention
        while hasattr(saved, "branch"):  # residual and pre-normalization wrap the attention
            saved = saved.branch
        yield f"{name}.attention", saved.probabilities


def _parameters(layer):
    """How many numbers a layer, its BN and its attention bias train; projections have rows of their own."""
    own = [layer, *(child for name, child in layer.children() if name in ("bn", "bias"))]
    return sum(int(np.prod(spec.shape)) for part in own for spec in part.specs.values() if spec.trainable)


def state_type(state: dict):
    """The dtype of a network with this state: float64 if one of its arrays is, else float32."""
    return np.float64 if any(array.dtype.itemsize >= 8 for array in state.values()) else np.float32


def _assembled(kind, config, backend, state, besides) -> LeViT:
    model = build(config, backend, kind)
    model.set_state(state, copy=False)
    for key, value in besides.items():
        setattr(model, key, value)
    return model


def initial_state(model: LeViT, seed: int, dtype) -> dict:
    """{name: array} of a fresh network.  Weights of convolutions and linear maps are uniform in ±1/√fan_in, as the
    authors'; those of heads and embeddings normal with standard deviation 0.02, truncated at two deviations (the
    authors truncate at ±2, a hundred deviations).  Raises ConfigError for a negative seed."""
    if not isinstance(seed, Integral) or seed < 0:
        raise ConfigError(f"seed: expected a whole number from 0, found {seed!r:.100}")
    generator, state = np.random.default_rng(seed), {}
    for name, spec in model.specs_by_name().items():
        if isinstance(spec.initial, tuple):
            kind, width = spec.initial
            draw = generator.uniform(-1, 1, spec.shape) if kind == "uniform" else _cut_normal(generator, spec.shape)
            state[name] = (draw * width).astype(dtype)
        else:
            state[name] = np.full(spec.shape, spec.initial, dtype)
    return state


def _cut_normal(generator, shape):
    draw = generator.standard_normal(shape)
    while (outside := np.abs(draw) > 2).any():
        draw[outside] = generator.standard_normal(int(outside.sum()))
    return draw


def build(config: LeViTConfig, backend: str = "reference", kind=LeViT) -> LeViT:
    """The network of a configuration, without arrays, which set_state brings; kind: LeViT or a subclass."""
    return kind(config, backend_named(backend))


def create(name: str, *, seed: int = 0, backend: str = "reference", dtype: str = "float32", kind=LeViT,
           **changes) -> LeViT:
    """A fresh, untrained model by name; `changes` replace fields of its configuration (num_classes, distillation,
    image_size, in_channels, …).  Raises ConfigError for an unknown name or an impossible field."""
    model = build(config_of(name, **changes), backend, kind)
    model.set_state(initial_state(model, seed, dtype), copy=False)
    model.random = np.random.default_rng(seed)
    return model
