"""Safe file storage for weights, training checkpoints and traces: atomic writing, our sealed HDF5 container, and
readers that an untrusted file cannot harm."""
