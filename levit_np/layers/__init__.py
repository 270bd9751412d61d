"""The layers of the network, one idea per file, each forward followed by its backward.  Start with linear.py, then read
attention.py and block.py; model.py assembles them."""
