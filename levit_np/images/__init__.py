"""From an image file to the network's input: containers.py parses the file format, decoding.py decodes the pixels,
preprocessing.py resizes, crops and normalises them."""
