"""Files that appear whole or not at all, and the reading of strangers' files, which can do no harm: what weights,
trainings and traces are kept by."""
