"""The list of stops on the page: every operation, and the sums that layers compute themselves."""

import numpy as np
import pytest

import levit_np
from levit_np.explain.page.sums import Sum, with_sums

from ..random_model import random_images, random_model
from . import DIGIT


def test_every_operation_has_its_stop_formula_and_source():
    """For LeViT-256 (small images; the operations are the same), forward and backward, with both losses."""
    model = random_model("levit_256", backend="reference", image_size=64, num_classes=7)
    x = random_images(model, 1)
    document = model.explain(x[0], target=3, teacher=5).document
    stops = {(direction, stop["name"], stop.get("only")): stop for direction in ("forward", "backward")
             for stop in document[direction]}
    for loss, recorded in (("ce", levit_np.trace(model, x, 3)), ("kd", levit_np.trace(model, x, 3, teacher=5))):
        for step in recorded.steps:
            stop = stops[step.direction, step.name, loss if step.layer == "loss" else None]
            assert stop["op"] == step.op and stop["formula"] == step.formula
            source, caller = (document["code"][stop["code"][which]] for which in ("op", "layer"))
            assert (source["file"], source["first"], tuple(source["lines"])) == step.source
            called = caller["lines"][step.line - caller["first"]]
            assert any(word in called for word in (step.op, "function", "derivative", "pool")), called
            assert stop["code"]["line"] == step.line
    sums = [record.name for record in recorded.forward if record.kind == "Residual"]
    assert all((direction, name, None) in stops for name in sums for direction in ("forward", "backward"))
    assert sums and ("forward", "average", None) in stops and ("backward", "heads", None) in stops


@pytest.mark.parametrize("teacher", [None, 5])
def test_sums(digits, teacher):
    """The sums and halves that layers compute outside of operations: their numbers and their lines of source."""
    found = levit_np.trace(digits, digits.prepare(DIGIT)[None], 3, teacher=teacher)
    sums = [step for direction in ("forward", "backward") for step in with_sums(found, direction)
            if isinstance(step, Sum)]
    counts = dict.fromkeys(("add", "add_backward"), 14) | {"average": 1, "sum_backward": 3, "average_backward": 1}
    counts |= {"mean_loss": 1} if teacher else {}
    assert {op: sum(s.op == op for s in sums) for op in {s.op for s in sums}} == counts
    for told in sums:
        parts, half = list(told.inputs.values()), 0.5 if told.op in ("average", "average_backward", "mean_loss") else 1
        expected = [half * part for part in parts] if told.op == "average_backward" else [half * sum(parts)]
        for value, wanted in zip(told.outputs.values(), expected * 2):
            np.testing.assert_allclose(value, wanted, rtol=1e-6)
        assert any(sign in told.source.lines[told.line - told.source.first] for sign in ("ops.add(", "/ 2"))
