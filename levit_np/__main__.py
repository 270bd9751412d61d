"""Where the command begins: `levit-np`, and `python -m levit_np` where the folder of the former is not on the path."""

import sys


def main() -> int:
    """cli.main, imported here, so that Ctrl-C ends the imports too without a traceback."""
    try:
        from .cli import main as run

        return run()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
