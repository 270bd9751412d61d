"""Weight files: loading.py makes models of them and files of models, reading.py tells the formats apart, formats.py has
their names; the other files read and write the containers of other projects."""
