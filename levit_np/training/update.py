"""The optimizer: updates all parameters in place, by adaptive clipping and then AdamW."""

from .recipe import Recipe


def is_decayed(name: str) -> bool:
    """Whether AdamW's weight decay applies to a parameter: to the weights of linear maps and convolutions, but not to
    attention biases (the authors' choice), biases and norms (timm's), or the ablations' embeddings (DeiT's)."""
    return name.endswith(".weight")


class Update:
    """The optimizer and its state: `first` and `second`, two moments per parameter, and the number of steps so far.

    The model gets new arrays, which each step overwrites, so that anything that shared its old arrays is not
    changed."""

    def __init__(self, model, recipe: Recipe):
        self.model, self.recipe, self.steps = model, recipe, 0
        trained = model.trained()
        model.set_state(model.state())
        self.first, self.second = ({name: model.ops.zeros_like(array) for name, array in trained.items()} for _ in "12")
        self.decay = {name: recipe.decay if is_decayed(name) else 0.0 for name in trained}

    def __call__(self, gradients: dict, rate: float, scale: float = 1.0) -> None:
        """Updates every parameter with `scale` times its gradient, {name: array}; gradients may be overwritten."""
        ops, recipe, parameters = self.model.ops, self.recipe, self.model.trained()
        self.steps += 1
        # One call for some hundred parameters: a call for each would take longer than the update itself and, on a GPU,
        # than the whole step.
        ops.update_together(*([named[name] for name in gradients] for named in (
            parameters, gradients, self.first, self.second, self.decay)), self.steps, rate,
            (recipe.beta1, recipe.beta2), recipe.adam_eps, recipe.clip, scale)
        self.model.written()
