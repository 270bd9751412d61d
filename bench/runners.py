"""All implementations with the same interface: each function takes a Job and returns call() -> logits, for fixed images
and threads.

It does everything that can be done before the first image: folding, export, compilation. The other libraries have the
settings that were found fastest; README.md lists those that were tried."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

import levit_np


class Job(NamedTuple):
    """A network with its weights, and the images to run it on."""

    config: object
    state: dict
    images: np.ndarray  # (B, 3, H, W) float32
    threads: int
    backend: str  # for ours
    folder: Path  # for exported files


def random_state(name: str, seed: int = 1) -> tuple:
    """(config, state) in float32, with random norms, biases and statistics: a fresh network is nearly the identity and
    would hide errors."""
    model, generator, state = levit_np.create(name, backend="reference"), np.random.default_rng(seed), {}
    for key, array in model.state().items():
        part = key.rpartition(".")[2]
        if part == "variance":
            value = generator.uniform(0.5, 1.5, array.shape)
        elif array.ndim == 1 or part == "table":
            value = generator.normal(0.7 if part == "gamma" else 0.0, 0.3, array.shape)
        else:
            value = generator.standard_normal(array.shape) / array[0].size ** 0.5  # keeps the signal's size
        state[key] = value.astype(np.float32)
    return model.config, state


def reference_logits(name: str, state: dict, images: np.ndarray, progress=lambda: None) -> np.ndarray:
    """The exact logits: NumPy in float64, one image at a time."""
    model = levit_np.create(name, backend="reference", dtype="float64")
    model.set_state({key: array.astype(np.float64) for key, array in state.items()})
    rows = []
    for image in images:
        rows.append(model(image[None].astype(np.float64)))
        progress()
    return np.concatenate(rows)


def ours(job: Job, dtype: str):
    model = levit_np.create(job.config.name, backend="reference")
    model.set_state(job.state)
    path = job.folder / f"{job.config.name}.h5"
    model.save(path)
    loaded = levit_np.load(path, backend=job.backend, dtype=dtype)
    if job.backend != "reference":
        levit_np.set_threads(job.threads)
    return lambda: loaded(job.images)


def eager(job: Job):
    """Stem channels-last, attention as two products, each of which was faster than the alternative."""
    import torch

    return _torch_call(_network(job), torch.from_numpy(job.images).to(memory_format=torch.channels_last))


def compiled(job: Job):
    """torch.compile, with the weights frozen into the program."""
    import torch
    from torch._inductor import config as inductor

    inductor.compile_threads = 1  # idle helper processes would still run while others are timed
    torch._dynamo.reset()
    network = torch.compile(_network(job), dynamic=False, options={"freezing": True})
    return _torch_call(network, torch.from_numpy(job.images).to(memory_format=torch.channels_last))


def _network(job):
    import torch
    from peers import FoldedLeViT

    torch.set_num_threads(job.threads)
    network = FoldedLeViT(job.config, job.state, fused=False).eval()
    network.stem = network.stem.to(memory_format=torch.channels_last)
    return network


def _torch_call(network, images):
    import torch

    def call():
        with torch.inference_mode():
            return network(images).numpy()

    call()
    return call


def exported(job: Job) -> Path:
    """The ONNX file of the network for this batch size, written once."""
    import warnings

    import torch
    from peers import FoldedLeViT

    path = job.folder / f"{job.config.name}-{len(job.images)}.onnx"
    if not path.exists():
        network = FoldedLeViT(job.config, job.state, fused=False).eval()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the older exporter, which needs no other package, is deprecated
            torch.onnx.export(network, (torch.from_numpy(job.images),), path, dynamo=False, opset_version=17,
                              input_names=["images"], output_names=["logits"])
    return path


def onnxruntime(job: Job):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = job.threads, 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = ort.InferenceSession(exported(job), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"images": job.images})[0]


def openvino(job: Job, precision: str):
    import openvino

    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": job.threads, "NUM_STREAMS": 1,
                "INFERENCE_PRECISION_HINT": precision}
    request = openvino.Core().compile_model(exported(job), "CPU", settings).create_infer_request()
    request.set_input_tensor(openvino.Tensor(job.images, shared_memory=True))

    def call():
        request.infer()
        return request.get_output_tensor(0).data

    return call


class Implementation(NamedTuple):
    label: str
    precision: str
    make: object  # Job -> call


IMPLEMENTATIONS = {
    "ours": Implementation("levit_np", "float32", lambda job: ours(job, "float32")),
    "ours-bf16": Implementation("levit_np", "bfloat16", lambda job: ours(job, "bfloat16")),
    "eager": Implementation("PyTorch eager", "float32", eager),
    "compile": Implementation("torch.compile", "float32", compiled),
    "onnxruntime": Implementation("ONNX Runtime", "float32", onnxruntime),
    "openvino": Implementation("OpenVINO", "float32", lambda job: openvino(job, "f32")),
    "openvino-bf16": Implementation("OpenVINO", "bfloat16", lambda job: openvino(job, "bf16")),
}
