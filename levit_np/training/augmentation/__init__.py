"""What makes a training image another one each time: one transformation a file, `one_image` their order."""
