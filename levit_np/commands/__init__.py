"""The longer verbs of the command line, one file each; add(verbs) adds one to the parser."""
