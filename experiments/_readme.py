"""Print README.md, the table of all experiments, as their docstrings have it: `make experiments/README.md`."""

from pathlib import Path

from gan_jax.training import lookup

HEAD = """# Experiments

A file each: what it trains or measures, the command, what came out of it when it was last run in full, and what that
cost, on the machine that the last column names. `gan-jax list` prints the same. Where a result names a file in `docs/`,
that holds the whole table and its pictures, with the configuration and provenance of each cell beside it.

`gan-jax train EXPERIMENT --help` shows an experiment's fields; `gan-jax train my_experiment.py` takes a file of one's
own, and [a page](../docs/howto/experiment.md) says what it needs. `peers/` holds the other side of comparisons with
PyTorch, for a Python of its own that `GAN_JAX_PEERS` names.

This table is made of the files' docstrings by `make experiments/README.md`; a test holds it to them.

| experiment | command | result | cost |
| --- | --- | --- | --- |
"""


def text() -> str:
    """Return the whole file."""
    here = Path(__file__).parent
    rows = []
    for path in sorted(here.glob("[!_]*.py")):
        found = lookup.summary(lookup.Experiment(path.stem, path))
        cells = (f"[{path.stem}]({path.name}): {found.what}", f"`{found.command}`", found.result, found.cost)
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n")
    return HEAD + "".join(rows)


if __name__ == "__main__":
    print(text(), end="")
