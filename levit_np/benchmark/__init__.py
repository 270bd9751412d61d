"""How fast a model is: rounds.py lets candidates take turns, peak.py measures the processor's limit, machine.py says
what it was measured on; short.py is `levit-np bench`."""
