"""From an image file to the network's input: containers.py reads the framing, decoding.py the pixels, preprocessing.py
resizes, crops and normalises them."""
