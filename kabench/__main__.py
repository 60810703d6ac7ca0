"""`kabench` and `python -m kabench`."""

import sys

from kabench.system.streams import fill_closed_streams

_INTERRUPTED = 130


def main() -> None:
    """Run the command line; Ctrl-C while it is still being loaded is as quiet as later."""
    fill_closed_streams()
    try:
        from kabench.cli import main as run_command_line
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    run_command_line()


if __name__ == "__main__":
    main()
