"""The processes that train together, as the trainer sees them."""

from contextlib import nullcontext


class SingleRank:
    """This process alone.  Whatever stands for several of them has the same members, which all ranks call in the same
    order, once a step unless said otherwise:

    rank, size      this process's number, from 0, and how many there are; rank 0 writes the files
    reducing(model) a context around the step's last backward: within it a layer's gradients are complete as soon as
                    its backward is over, and may travel; when it ends, every gradient in model.gradients() is the
                    mean over all ranks
    any(*flags)     each flag, true where any rank's is
    mean(*values)   each number, averaged over all ranks; the same on all of them
    gather(value)   [the value of each rank], on all of them; a value is what JSON can hold
    """

    rank, size = 0, 1

    def reducing(self, model):
        return nullcontext()

    def any(self, *flags: bool) -> tuple[bool, ...]:
        return flags

    def mean(self, *values: float) -> tuple[float, ...]:
        return values

    def gather(self, value) -> list:
        return [value]
