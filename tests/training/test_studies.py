"""Studies: cells are computed once, an interruption loses nothing that was kept, and the report follows."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gan_jax.base import Continue, Hook, Report, Study
from gan_jax.training import loop, studies
from tests.training.toy import same, toy


def study(calls=None, **cells):
    """Two cells that count their calls, and a report of what is there."""
    calls = [] if calls is None else calls

    def cell(value):
        def compute(directory):
            calls.append(value)
            (directory / "scratch").write_text("kept only while the cell is computed")
            return {"value": value}

        return compute

    def report(results):
        from matplotlib.figure import Figure

        rows = [f"| {name} | {result['value']} |" for name, result in results.items()]
        return Report("\n".join(["| cell | value |", "| --- | --- |", *rows]), {"drawn": Figure()})

    return Study({"one": cell(1), "other": cell(2), **cells}, report)


def run(made, directory, names=("one", "other")):
    told = []
    studies.run(made, directory, names, "digest", lambda name, seconds: told.append(name))
    return told


def test_a_finished_cell_is_kept_and_not_computed_again(tmp_path):
    calls = []
    made = study(calls)
    assert run(made, tmp_path, ("other",)) == ["other"]
    assert run(made, tmp_path) == ["one"]
    assert calls == [2, 1]
    assert studies.finished(made, tmp_path) == {"one": {"value": 1}, "other": {"value": 2}}
    kept = json.loads((tmp_path / "cells" / "one.json").read_text())
    assert kept["sha256"] == "digest"
    assert {"jax", "device"} <= set(str(kept["provenance"]).replace("'", " ").replace(":", " ").split())
    assert sorted(path.name for path in (tmp_path / "cells").iterdir()) == ["one.json", "other.json"]


def test_the_report_is_there_after_the_first_cell(tmp_path):
    def broken(directory):
        text = (tmp_path / "report.md").read_text()
        assert "| one | 1 |" in text
        assert "drawn.png" in text
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        run(study(last=broken), tmp_path, ("one", "last"))
    assert (tmp_path / "drawn.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "cells" / "last.json").exists()


def test_cells_are_chosen_by_pattern_in_their_order():
    made = study()
    assert studies.matching(made, "*") == ("one", "other")
    assert studies.matching(made, "o[t]*") == ("other",)
    with pytest.raises(ValueError, match="--cells two matches none of one, other"):
        studies.matching(made, "two")


@pytest.mark.parametrize("name", ["", "a/b", "../a", ".hidden", "two words"])
def test_a_name_that_is_no_file_is_refused(name):
    with pytest.raises(ValueError, match="cannot name a file"):
        studies.matching(study(**{name: lambda directory: {}}), "*")


@pytest.mark.parametrize("content", ["{", "[]", '{"value": 1}'])
def test_a_damaged_cell_is_named(tmp_path, content):
    made = study()
    run(made, tmp_path)
    (tmp_path / "cells" / "one.json").write_text(content)
    with pytest.raises(ValueError, match=r"one\.json records no cell: .*delete it"):
        studies.finished(made, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("members", [None, 2])
def test_training_in_a_cell_goes_on_where_it_was_interrupted(tmp_path, monkeypatch, members):
    key = jax.random.key(5) if members is None else jax.vmap(jax.random.key)(jnp.arange(members))
    whole = studies.train(toy(), key, tmp_path / "whole", steps=6, every=2)
    stepped = []

    def interrupted():
        def stop(step, state, metrics):
            stepped.append(step)
            return loop.Stop("interrupted by hand", 75) if step == 4 and stepped.count(4) == 1 else Continue()

        return Hook(1, stop)

    class Context:
        def __enter__(self):
            return interrupted()

        def __exit__(self, *error):
            return None

    monkeypatch.setattr(loop, "interruption", Context)
    with pytest.raises(KeyboardInterrupt, match="by hand"):
        studies.train(toy(), key, tmp_path / "torn", steps=6, every=2)
    again = studies.train(toy(), key, tmp_path / "torn", steps=6, every=2)
    assert stepped == [1, 2, 3, 4, 5, 6]
    assert again.step == whole.step == 6
    assert same(again.state, whole.state)
    rows = [json.loads(line) for line in (tmp_path / "torn" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 6]
    assert all(np.isfinite(row["toy/loss"]) for row in rows)
