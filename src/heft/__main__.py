"""`python -m heft`: the command line, where the `heft` script is not on the PATH."""

from heft.cli import main

if __name__ == "__main__":
    main()
