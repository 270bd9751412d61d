"""How fast a model is. rounds.py times candidates in turns, peak.py measures the processor's limit, machine.py
describes the machine, short.py is `levit-np bench`, steps.py its `--steps`."""
