"""`kabench` and `python -m kabench`."""

from kabench.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
