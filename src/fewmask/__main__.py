"""`python -m fewmask` is `fewmask`; torchrun starts it so."""

from fewmask.cli import main

if __name__ == "__main__":
    main()
