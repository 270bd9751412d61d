"""Whether gradients are summed directly between GPUs; that the sums are right is tested in test_mpi.py."""

import sys
from types import SimpleNamespace

import pytest

from levit_np.training import gpus


@pytest.mark.parametrize("other, direct", [(("here", "1", True), True), (("there", "0", True), True),
                                           (("here", "0", True), False), (("here", "1", False), False)])
def test_nccl_needs_a_gpu_for_each_rank(other, direct, monkeypatch):
    """It refuses two ranks on one GPU, and all ranks must have it; otherwise each would wait for the others' sums."""
    monkeypatch.setattr(gpus, "_nccl", lambda: "CuPy's module")
    monkeypatch.setattr(gpus, "_own_gpu", lambda: "0")
    monkeypatch.setattr(gpus.platform, "node", lambda: "here")
    monkeypatch.setattr(gpus, "NCCLSums", lambda *_: "directly")
    found = gpus.gpu_sums(SimpleNamespace(size=2, allgather=lambda own: [own, other]))
    assert found == "directly" if direct else isinstance(found, gpus.HostSums)


@pytest.mark.parametrize("module, there", [
    (SimpleNamespace(available=True), True), (SimpleNamespace(available=False), False), (None, False)])
def test_a_cupy_without_nccl_sums_through_the_host(module, there, monkeypatch):
    """CuPy has a module in its place that says so, or none at all."""
    monkeypatch.setitem(sys.modules, "cupy.cuda.nccl", module)
    assert gpus._nccl() is (module if there else None)
