"""The tests, in the same folders as the code that they test.

`python -m pytest -n auto` runs the fast ones, `-m slow` the full-size fuzz and kill tests, `-m gpu` those for a GPU.

What is tested             against what
ops/reference/             torch.nn.functional and autograd (ops/test_reference.py); finite differences (ops/cases.py)
ops/cpu/, ops/cuda/        the reference operations in float64; CUDA kernels are emulated (ops/cuda/emulator.py)
layers/, whole networks    a LeViT written in torch (torch_levit.py); the transformers package (parity.py)
inference/                 the network evaluated layer by layer in float64
checkpoints/, storage/     torch, safetensors and h5py; named attacks (attacks_*.py) and random damage (mutations.py)
images/                    Pillow, and torchvision's arithmetic; random damage
training/                  PyTorch (training/torch_recipe.py); runs that were interrupted, against one that was not
explain/                   the model's own numbers; the page in Chromium, the walk in a real terminal
benchmark/                 levit_np/benchmark/ and the scripts in bench/, with replaced clocks and small runs

That these comparisons can fail is itself tested: test_planted_bugs.py, training/test_planted_training_bugs.py and
ops/cuda/test_harness.py plant bugs, each of which must be detected.

Helpers: random_model.py, networks.py and any_network.py make networks and images; distance.py measures differences;
authors.py renames weights; weight_files.py is for all file formats; forked.py, at_once.py and can_start.py run
processes and threads."""
