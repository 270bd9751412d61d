"""Loss scaling: many gradients are too small for float16, so they are computed multiplied by a power of two."""

FIRST = 2.0**15
LONG = 2000  # steps without an overflow after which the scale is doubled


class LossScale:
    """`value`: the factor on the loss before the backward, 1 for every precision but float16.

    If a gradient overflows, the scale is halved and the step skipped; after LONG steps without overflow it is doubled
    (Micikevicius et al., arXiv 1710.03740, section 3.2)."""

    def __init__(self, precision: str):
        self.used = precision == "float16"
        self.value, self.quiet = FIRST if self.used else 1.0, 0

    def overflowed(self) -> bool:
        """Called if gradients were not finite.  -> whether a smaller scale may help."""
        if self.value <= 1:
            return False
        self.value, self.quiet = self.value / 2, 0
        return True

    def fitted(self) -> None:
        """Called if gradients were finite."""
        self.quiet += 1
        if self.used and self.quiet >= LONG:
            self.value, self.quiet = 2 * self.value, 0
