"""The exponential moving average of the weights, a second network that is less noisy than the trained one."""


class Average:
    """After each step, average += (1 - decay) (model - average), for every array of the state including BN statistics,
    as in timm's ModelEma.  It starts as a copy of the model.

    `model` is the averaged network, to be evaluated."""

    def __init__(self, model, decay: float):
        self.decay, self.model = decay, model.to(model.ops.NAME)

    def update(self, model) -> None:
        """Updates the average after a step."""
        own, state = self.model.state(), model.state()
        model.ops.average_together(own.values(), [state[name] for name in own], self.decay)
        self.model.written()
