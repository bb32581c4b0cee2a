"""Trains or fine-tunes a model in one process, with the code of `run_ctc.py`, wherever the package is installed."""


def run(arguments: list[str]) -> int:
    """`[RECIPE.yaml] [--field=value …]`, as `run_ctc.py` takes them."""
    import run_ctc

    run_ctc.main(arguments)
    return 0
