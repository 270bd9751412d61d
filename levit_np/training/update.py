"""One step of the optimizer over all parameters, in place: adaptive clipping, then AdamW."""

from .recipe import Recipe


def is_decayed(name: str) -> bool:
    """Whether AdamW pulls a parameter towards zero: the weights of linear maps and convolutions.  Not attention biases
    (the authors' choice), biases and norms (timm's), nor the ablations' embeddings (DeiT's)."""
    return name.endswith(".weight")


class Update:
    """The optimizer and what it remembers: `first` and `second`, a moment a parameter, and how many steps there were.

    The model gets arrays of its own, which each step overwrites: what shares its arrays with the model from before
    stays as it is."""

    def __init__(self, model, recipe: Recipe):
        self.model, self.recipe, self.steps = model, recipe, 0
        trained = model.trained()
        model.set_state(model.state())
        self.first, self.second = ({name: model.ops.zeros_like(array) for name, array in trained.items()} for _ in "12")
        self.decay = {name: recipe.decay if is_decayed(name) else 0.0 for name in trained}

    def __call__(self, gradients: dict, rate: float, scale: float = 1.0) -> None:
        """Moves each parameter against its gradient, {name: array}, times `scale`; gradients may be overwritten."""
        ops, recipe, parameters = self.model.ops, self.recipe, self.model.trained()
        self.steps += 1
        # Of some hundred parameters: a call for each would take longer than the work, on a GPU than the whole step.
        ops.update_together(*([named[name] for name in gradients] for named in (
            parameters, gradients, self.first, self.second, self.decay)), self.steps, rate,
            (recipe.beta1, recipe.beta2), recipe.adam_eps, recipe.clip, scale)
        self.model.written()
