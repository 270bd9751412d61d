"""The verbs of the command line that need more than a screen, a file each: add(verbs) puts one beside the others."""
