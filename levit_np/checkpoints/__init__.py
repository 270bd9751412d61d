"""Weight files.  loading.py turns files into models and back; reading.py recognises the format of a file; formats.py
has the tables of array names; hub.py finds and downloads files; the rest read and write other projects' containers."""
