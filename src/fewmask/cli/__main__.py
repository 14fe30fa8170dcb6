"""`python -m fewmask.cli` runs the command `fewmask`."""

from fewmask.cli import main

if __name__ == "__main__":
    main()
