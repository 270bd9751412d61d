"""Loss scaling: gradients of float16 activations, many of which are too small for it,
are computed a power of two larger."""

FIRST = 2.0**15
LONG = 2000  # steps without an overflow after which it may be larger


class LossScale:
    """`value`: what the loss is multiplied by before the backward, 1 for every precision but float16.

    A scale at which a gradient overflows is halved, and the step left out; in between it grows (Micikevicius et al.,
    arXiv 1710.03740, section 3.2)."""

    def __init__(self, precision: str):
        self.used = precision == "float16"
        self.value, self.quiet = FIRST if self.used else 1.0, 0

    def overflowed(self) -> bool:
        """Takes in that gradients were not finite.  -> whether a smaller scale may help."""
        if self.value <= 1:
            return False
        self.value, self.quiet = self.value / 2, 0
        return True

    def fitted(self) -> None:
        """Takes in that they were."""
        self.quiet += 1
        if self.used and self.quiet >= LONG:
            self.value, self.quiet = 2 * self.value, 0
