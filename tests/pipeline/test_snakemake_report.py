"""Snakemake's own report holds the figures and tables of a run, with captions."""

from tools.miniature import Tree


def test_figures_and_tables_of_the_run_are_in_it(edited: Tree) -> None:
    (run,) = (path for path in (edited.results / "runs").iterdir() if (path / "done/report/all").exists())
    for folder in ("figures", "tables"):
        shown = {path.name: path.read_bytes() for path in (run / "shown/all" / folder).glob("[a-z]*")}
        assert shown == {path.name: path.read_bytes() for path in (edited.results / folder).iterdir()}
    marker = (run / "done/report/all").relative_to(edited.root)
    done = edited.snakemake(str(marker), "--report", "suite.html")
    assert done.returncode == 0, done.stderr[-3000:]
    text = (edited.root / "suite.html").read_text()
    for name in ("death_by_layer.png", "layers.csv", "outlier severity", "a row for each trained SAE"):
        assert name in text
