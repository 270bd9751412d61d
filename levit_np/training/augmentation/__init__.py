"""Random augmentation of training images: one transformation per file; one_image.py applies them in order."""
