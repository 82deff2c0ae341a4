"""`python -m heft`: the command line."""

from heft.cli import main

if __name__ == "__main__":
    main()
