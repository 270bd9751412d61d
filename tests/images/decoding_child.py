"""Decodes the image file that stdin holds, in a process of its own, and prints by how many bytes that raised the
process's peak memory."""

import sys

from levit_np.images.decoding import open_image


def peak_memory():
    with open("/proc/self/status") as file:  # not ru_maxrss, which a new process inherits from the one that started it
        return next(1024 * int(line.split()[1]) for line in file if line.startswith("VmHWM"))


data, before = sys.stdin.buffer.read(), peak_memory()
open_image(data)
print(peak_memory() - before)
