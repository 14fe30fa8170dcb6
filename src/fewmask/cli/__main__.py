"""`python -m fewmask.cli` is `fewmask` too."""

from fewmask.cli import main

if __name__ == "__main__":
    main()
