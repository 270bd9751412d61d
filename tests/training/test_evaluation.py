"""Top-1, top-5 and loss, against a computation by hand and against PyTorch, for any grouping of the images."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from levit_np.errors import LevitError
from levit_np.training import confusion
from levit_np.training.classes import class_positions
from levit_np.training.evaluation import Evaluation, Score, evaluate


def test_by_hand():
    """Three images and seven classes; the target's score is the highest, the third and the lowest."""
    logits = np.array([[2.0, 0, 0, 0, 0, 0, 0], [3, 2, 1, 0, 0, 0, 0], [7, 6, 5, 4, 3, 2, 1]])
    score = Score()
    score.add(logits, np.array([0, 2, 6]))
    losses = [-np.log(np.exp(row[label]) / np.exp(row).sum()) for row, label in zip(logits, (0, 2, 6))]
    assert (score.first, score.top, score.images) == (1, 2, 3)
    assert score.loss == pytest.approx(np.mean(losses), rel=1e-14)
    assert str(score) == f"* Acc@1 33.333 Acc@5 66.667 loss {np.mean(losses):.3f}"
    assert score.to_dict() == {"images": 3, "top1": 100 / 3, "top5": 200 / 3, "loss": score.loss}


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(2, 12), st.integers(1, 9), st.integers(0, 1000))
def test_the_size_of_the_batches_does_not_matter(images, classes, batch, seed):
    generator = np.random.default_rng(seed)
    outputs = [generator.standard_normal((images, classes)).astype(np.float32) for _ in range(2)]
    labels = generator.integers(0, classes, images)

    def heads(indices):
        return tuple(out[indices] for out in outputs)

    at_once = evaluate(heads, [(np.arange(images), labels)], classes)
    parts = [np.arange(first, min(first + batch, images)) for first in range(0, images, batch)]
    apart = evaluate(heads, [(part, labels[part]) for part in parts], classes)
    assert np.array_equal(at_once.confusion, apart.confusion)
    for one, other in zip((at_once.average, *at_once.heads.values()), (apart.average, *apart.heads.values())):
        assert (one.first, one.top, one.images) == (other.first, other.top, other.images)
        assert one.loss == pytest.approx(other.loss, rel=1e-12)


def test_heads_and_average_against_pytorch():
    import torch

    generator = np.random.default_rng(3)
    outputs = [4 * generator.standard_normal((500, 11)).astype(np.float32) for _ in range(2)]
    labels = generator.integers(0, 11, 500)
    result = evaluate(lambda x: (outputs[0], outputs[1]), [(None, labels)], 11)
    for score, logits in zip((*result.heads.values(), result.average), (*outputs, (outputs[0] + outputs[1]) / 2)):
        tensor, target = torch.from_numpy(logits.astype(np.float64)), torch.from_numpy(labels)
        ranked = tensor.topk(5).indices == target[:, None]
        assert (score.first, score.top) == (int(ranked[:, 0].sum()), int(ranked.sum()))
        assert score.loss == pytest.approx(torch.nn.functional.cross_entropy(tensor, target).item(), rel=1e-12)
    assert list(result.heads) == ["head", "head_dist"] and len(str(result).splitlines()) == 3
    assert str(result).splitlines()[-1] == str(result.average)
    expected = np.zeros((11, 11), int)
    for label, answer in zip(labels, ((outputs[0] + outputs[1]) / 2).argmax(1)):
        expected[label, answer] += 1
    assert np.array_equal(result.confusion, expected)


def test_a_tie_counts_for_one_class_alone():
    """A network that gives every class the same score is right by chance, not always."""
    score = Score()
    score.add(np.zeros((10, 10)), np.arange(10))
    assert (score.first, score.top) == (1, 5)


def test_fewer_than_five_classes_and_one_head():
    result = Evaluation(3)
    result.add((np.array([[0.0, 1, 2]]),), np.array([0]))
    assert (result.average.top1, result.average.top5) == (0, 100) and not result.heads
    assert result.to_dict() == {"average": result.average.to_dict()}


def test_scores_that_are_not_finite_and_empty_evaluations_are_refused():
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(LevitError, match=f"expected finite logits, found {bad}$"):
            evaluate(lambda x: (np.array([[0.0, 1.0], [2.0, bad]]),), [(None, np.array([0, 1]))], 2)
    with pytest.raises(LevitError, match="at least one image"):
        evaluate(lambda x: (), [], 2)


@pytest.mark.parametrize("labels", [[0, -1], [0, 3], [0.0, 1.0], [0], [[1, 0, 0], [0, 1, 0]], 1])
def test_labels_that_are_no_classes_are_refused(labels):
    """-1 would count as the last class."""
    with pytest.raises(LevitError, match="evaluation: expected "):
        evaluate(lambda x: (x,), [(np.zeros((2, 3)), labels)], 3)


def test_logits_without_their_heads_are_refused():
    """evaluate(model, …) instead of evaluate(model.heads, …)."""
    with pytest.raises(LevitError, match=r"expected logits \(2, 3\) of each head, found \[\(3,\), \(3,\)\]"):
        evaluate(lambda x: x, [(np.zeros((2, 3)), np.array([0, 1]))], 3)


def test_classes_are_found_by_name_or_by_order():
    for wanted, labels, count, expected, said in (
            (["b", "a"], ["a", "x", "b"], 3, [2, 0], ""), (["x", "y"], None, 2, [0, 1], ""),
            (["n01", "n02"], ["tench", "cat"], 2, [0, 1], "classes are taken in their order: n01 as tench, …")):
        at, note = class_positions(wanted, labels, count, "model")
        assert (list(at), note) == (expected, said)
    with pytest.raises(LevitError, match="^model: expected each class by its name, found none called 'z' among its 3"):
        class_positions(["b", "z"], ["a", "x", "b"], 3, "model")
    with pytest.raises(LevitError, match="^model: expected 1 classes, .*found 3: the first, 'z'"):
        class_positions(["z"], ["a", "x", "b"], 3, "model")


def test_the_parts_of_several_ranks_are_one_evaluation():
    generator = np.random.default_rng(5)
    outputs = [generator.standard_normal((9, 4)).astype(np.float32) for _ in range(2)]
    labels = generator.integers(0, 4, 9)

    def parts(*cuts):
        return [evaluation(slice(*cut)) for cut in zip((0, *cuts), (*cuts, 9))]

    def evaluation(rows):
        own = Evaluation(4)
        if rows.stop > rows.start:  # otherwise a rank without an image
            own.add([out[rows] for out in outputs], labels[rows])
        return own

    def heads(rows):
        return [out[rows] for out in outputs]

    whole = evaluate(heads, [(slice(0, 9), labels)], 4)
    for cuts in ((4,), (0, 3, 5)):
        others = parts(*cuts)
        ranks = SimpleNamespace(gather=lambda own: [own, *others[1:]], broadcast=lambda value: value)
        first = slice(0, cuts[0])
        found = evaluate(heads, [(first, labels[first])] if cuts[0] else [], 4, ranks)
        assert np.array_equal(found.confusion, whole.confusion) and found.average.images == 9
        for kind, figures in whole.to_dict().items():
            assert found.to_dict()[kind] == pytest.approx(figures, rel=1e-12), kind
    assert [line.partition("*")[0] for line in str(whole).splitlines()] == ["head      ", "head_dist ", ""]


def test_as_many_classes_as_can_be_read_are_drawn(monkeypatch):
    monkeypatch.setattr(confusion, "require_matplotlib", lambda *words: None)
    confusion.require_drawable(50)
    with pytest.raises(LevitError, match="at most 50 classes, found 51"):
        confusion.require_drawable(51)


def test_the_picture_has_a_row_for_each_label_and_a_column_for_each_answer(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(pytest.importorskip("matplotlib.figure").Figure, "savefig",
                        lambda figure, file, **options: drawn.append(figure))
    confusion.draw_confusion(np.array([[2, 6, 0], [0, 0, 0], [1, 0, 1]]), ["a", 21 * "b", 20 * "c"], tmp_path / "a.png")
    (axes,) = drawn[0].axes
    assert np.array_equal(axes.images[0].get_array(), [[0.25, 0.75, 0], [0, 0, 0], [0.5, 0, 0.5]])
    assert {text.get_position(): (text.get_text(), text.get_color()) for text in axes.texts} == {
        (0, 0): ("2", "black"), (1, 0): ("6", "white"), (0, 2): ("1", "black"), (2, 2): ("1", "black")}
    for names in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [name.get_text() for name in names] == ["a", 19 * "b" + "…", 20 * "c"]
    title = axes.figure.get_suptitle()
    assert (axes.get_xlabel(), axes.get_ylabel(), title) == ("answered", "label", "30.00% of 10 images")
    confusion.draw_confusion(np.full((2, 2), 250_000), [20 * "m", "b"], tmp_path / "a.png")
    drawn[1].draw_without_rendering()
    title = drawn[1].texts[0].get_window_extent()
    assert 0 <= title.x0 and title.x1 <= drawn[1].bbox.width


def test_the_picture_needs_no_latex(tmp_path, no_latex):
    confusion.draw_confusion(np.eye(2, dtype=int), ["black_cat", "100%"], tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_letters_that_the_font_lacks_are_drawn_by_another_that_is_installed(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")

    def drawn(*fonts):
        monkeypatch.setattr(confusion, "EAST_ASIAN", fonts)
        confusion.draw_confusion(np.eye(2, dtype=int), ["\ue001", "b"], tmp_path / "a.png")
        return (tmp_path / "a.png").read_bytes()

    assert drawn() == drawn("no such font") != drawn("no such font", "STIXNonUnicode")  # which Matplotlib brings
