"""A stand-in for CuPy where there is no GPU: what is called before and around the kernels."""

from types import SimpleNamespace


class Runtime:
    CUDARuntimeError = type("CUDARuntimeError", (RuntimeError,), {})

    def __init__(self, count):
        self.count = count

    def getDeviceCount(self):  # noqa: N802  CuPy's name
        if isinstance(self.count, Exception):
            raise self.count
        return self.count


class Cupy:
    """The part of CuPy that is used before anything is computed. broken: {kernel: the error raised when it is
    compiled}."""

    __version__ = "14.2.0"

    def __init__(self, count, capability="90", compiler=(13, 0), **broken):
        self.chosen, self.broken = [], broken

        class Device:
            compute_capability = capability

            def __init__(self, *number):
                self.number = number

            def use(device):
                self.chosen += device.number

        class Compiler:
            def getVersion():  # noqa: N802  CuPy's name
                if not compiler:
                    raise OSError("no libnvrtc.so\nin any of 20 places")
                return compiler

        self.RawModule = lambda code, options: SimpleNamespace(get_function=self.get_function)
        memory = type("memory", (), {"OutOfMemoryError": MemoryError})
        self.cuda = type("cuda", (), {"runtime": Runtime(count), "Device": Device, "nvrtc": Compiler, "memory": memory})

    def get_function(self, name):
        if name in self.broken:
            raise self.broken[name]
        return name
