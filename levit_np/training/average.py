"""The moving average of the weights, a network of its own: it wanders less than the one that is trained."""

class Average:
    """After each step, average += (1 - decay) (model - average), for every array of the state, the BN statistics
    too, as timm's ModelEma.  It starts as the model is.

    `model` is the network to evaluate."""

    def __init__(self, model, decay: float):
        self.decay, self.model = decay, model.to(model.ops.NAME)
        self.model.set_state({name: array.copy() for name, array in model.state().items()})

    def update(self, model) -> None:
        """Takes a step's result in."""
        state = model.state()
        if model.ops.NAME == "cuda":  # one launch for all
            own = self.model.state()
            model.ops.average_together([own[name] for name in own], [state[name] for name in own], self.decay)
            return self.model.written()
        for name, average in self.model.state().items():
            model.ops.moving_average(average, state[name], self.decay, out=average)
        self.model.written()
