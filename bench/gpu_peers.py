"""PyTorch's forms of LeViT on a GPU: each function returns a call() for fixed images, compiled and warmed up.

timm's network is the one that users have. `folded` is the network of peers.py, with every BN folded into the layer
before it as in ours, so that both do the same arithmetic."""

import tempfile
from pathlib import Path

import torch
from peers import FoldedLeViT

import levit_np

WITHOUT_GRAPHS = {"max-autotune": "max-autotune-no-cudagraphs", "reduce-overhead": "default"}
TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "tf32": torch.float32}


def timm_network(name, state):
    """timm's LeViT with these weights."""
    import timm
    from safetensors.torch import load_file

    ours = levit_np.create(name, backend="reference")
    ours.set_state(state)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        levit_np.export(ours, path, format="timm")
        weights = load_file(path)
    network = timm.create_model(name, pretrained=False)
    network.load_state_dict(weights, strict=False)  # the index of the biases is not a weight
    return network


def configure(precision):
    """PyTorch's fastest settings for a precision, for everything that follows; all measurements of a precision are made
    together."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.benchmark = True  # tries out each convolution's algorithms when it is first called


def _repeated(images, batch):
    index = torch.arange(batch, device=images.device) % len(images)
    return images[index].to(memory_format=torch.channels_last)


def evaluation(key, config, state, images, batch, precision, mode):
    """`images` are NumPy's (some, 3, H, W), repeated to fill the batch; the call leaves logits on the GPU. mode:
    torch.compile's; both use its own CUDA graphs."""
    configure(precision)
    if key in ("eager", "compile"):
        network = timm_network(config.name, state)
    else:
        network = FoldedLeViT(config, state, fused=key == "folded-sdpa")
    kind = TYPES[precision]
    network = network.eval().to("cuda", kind).to(memory_format=torch.channels_last)
    x = _repeated(torch.from_numpy(images).to("cuda", kind), batch)
    with torch.inference_mode():
        network(x)  # timm's network caches its biases, which must not be in a graph's memory
    if key != "eager":
        torch._dynamo.reset()
        network = torch.compile(network, mode=mode, dynamic=False)

    def call():
        with torch.inference_mode():
            return network(x)

    for _ in range(3):
        call()
    return call


def training(key, config, state, images, labels, precision, mode):
    """A step: forward, label-smoothed cross-entropy on both heads, backward, AdamW. key: eager, compile, or graphs
    (compile with PyTorch's CUDA graphs of forward and backward)."""
    configure(precision)
    network = timm_network(config.name, state).train().to("cuda").to(memory_format=torch.channels_last)
    network.set_distilled_training(True)
    x = _repeated(torch.from_numpy(images).to("cuda"), len(labels))
    y = torch.from_numpy(labels).to("cuda")
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=0.025, fused=True)
    scaler = torch.amp.GradScaler("cuda", enabled=precision == "float16")
    if key != "eager":
        torch._dynamo.reset()
        network = torch.compile(network, mode=mode if key == "graphs" else WITHOUT_GRAPHS[mode], dynamic=False)

    def call():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", TYPES[precision], enabled=precision in ("float16", "bfloat16")):
            first, second = network(x)
            loss = sum(torch.nn.functional.cross_entropy(out, y, label_smoothing=0.1) for out in (first, second))
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss

    for _ in range(3):
        call()
    return call


def matrix_peak(precision):
    """A call of one large matrix product, and its number of operations."""
    configure(precision)
    n, kind = 8192, TYPES[precision]
    a, b = (torch.randn(n, n, device="cuda").to(kind) for _ in "12")

    def call():
        return a @ b.T

    return call, 2.0 * n**3


def copy():
    """A call of one large copy, and the bytes that it reads and writes."""
    a = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    b = torch.empty_like(a)
    return lambda: b.copy_(a), 2.0 * a.numel()


def repeated(call, times):
    """A CUDA graph of `times` calls: launched from Python, an operation takes at least 15 µs, however short it is."""
    with torch.cuda.stream(torch.cuda.Stream()):
        for _ in range(3):
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    # A failed capture leaves its own stream as the current one, for whose work our events would not wait.
    with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph):
        for _ in range(times):
            call()

    def replay(needed=call):  # with the operands, which the graph knows by their addresses alone
        return graph.replay()

    return replay


def linear(rows, outputs, channels, precision):
    """cuBLAS: a matrix product with a bias, without an activation."""
    configure(precision)
    kind = TYPES[precision]
    x, w, b = (torch.randn(*shape, device="cuda").to(kind)
               for shape in ((rows, channels), (outputs, channels), (outputs,)))

    def call():
        return torch.nn.functional.linear(x, w, b)

    return {"cuBLAS": call}


def convolution(images, height, width, channels, outputs, kernel, stride, padding, precision):
    """cuDNN, channels-last, with a bias."""
    configure(precision)
    kind = TYPES[precision]
    x = torch.randn(images, channels, height, width, device="cuda").to(kind).to(memory_format=torch.channels_last)
    w = torch.randn(outputs, channels, kernel, kernel, device="cuda").to(kind).to(memory_format=torch.channels_last)
    b = torch.randn(outputs, device="cuda").to(kind)

    def call():
        return torch.nn.functional.conv2d(x, w, b, stride, padding)

    return {"cuDNN": call}


def attention(images, heads, queries, keys, key, value, precision):
    """scaled_dot_product_attention with the bias as mask, by each of PyTorch's kernels that accepts one."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    configure(precision)
    kind = TYPES[precision]
    q, k, v = (torch.randn(images, heads, n, size, device="cuda").to(kind)
               for n, size in ((queries, key), (keys, key), (keys, value)))
    bias = torch.randn(1, heads, queries, keys, device="cuda").to(kind).expand(images, -1, -1, -1)
    found = {}
    for backend in (SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH):
        def call(backend=backend):
            with torch.inference_mode(), sdpa_kernel(backend):
                return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)

        try:
            call()
            found[f"SDPA {backend.name.lower()}"] = call
        except RuntimeError:  # a kernel that does not support this shape or a mask
            continue
    return found
