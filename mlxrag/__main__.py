"""`python -m mlxrag` is the command `mlxrag`."""

from mlxrag.cli.main import main

main()
