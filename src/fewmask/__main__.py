"""`python -m fewmask` runs `fewmask`, and torchrun starts it in this way."""

from fewmask.cli import main

if __name__ == "__main__":
    main()
