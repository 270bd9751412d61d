"""The layers of the network, one idea a file, each forward beside its backward: begin with linear.py, then attention.py
and block.py, which model.py puts together."""
