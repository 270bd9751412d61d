"""The moving average of the weights, a network of its own: it wanders less than the one that is trained."""


class Average:
    """After each step, average += (1 - decay) (model - average), for every array of the state, the BN statistics
    too, as timm's ModelEma.  It starts as the model is.

    `model` is the network to evaluate."""

    def __init__(self, model, decay: float):
        self.decay, self.model = decay, model.to(model.ops.NAME)

    def update(self, model) -> None:
        """Takes a step's result in."""
        own, state = self.model.state(), model.state()
        model.ops.average_together(own.values(), [state[name] for name in own], self.decay)
        self.model.written()
