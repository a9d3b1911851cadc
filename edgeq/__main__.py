"""`python -m edgeq`: the command line, for launchers that start a module (torchrun)."""

from edgeq.cli.app import main

if __name__ == "__main__":
    main()
