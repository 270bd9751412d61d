"""Images for a training: where they lie, in which order they come, and the processes that prepare them ahead."""
