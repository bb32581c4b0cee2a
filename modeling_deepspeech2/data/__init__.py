"""Training data: sources, durations, batches in the order of SortaGrad, augmentation, the loader."""
