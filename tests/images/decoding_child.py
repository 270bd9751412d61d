"""Decodes the image file that stdin holds, in a process of its own, and prints by how many bytes that raised the
process's largest memory."""

import sys

from levit_np.images.decoding import open_image


def largest_memory():
    with open("/proc/self/status") as file:  # not ru_maxrss: a new process begins with that of the one that started it
        return next(1024 * int(line.split()[1]) for line in file if line.startswith("VmHWM"))


data, before = sys.stdin.buffer.read(), largest_memory()
open_image(data)
print(largest_memory() - before)
