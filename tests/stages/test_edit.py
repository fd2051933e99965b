"""An edit from the command line, with a tiny random prior: the avatar of one run becomes another run's beginning."""

import json

from avatar_gs import cli

SMALL = ["optimize.steps=2", "optimize.batch=1", "splats.count=300", "optimize.preview_every=0", "device=cpu"]


def test_a_run_is_edited_by_another(prior, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make = [f"prior={prior}", *SMALL, "threads=1"]
    assert cli.main(["stage=optimize", "prompt=a man in red", "name=anna", *make]) == 0
    first = (tmp_path / "outputs" / "anna" / "checkpoints" / "last.safetensors").read_bytes()
    edit = ["prompt=a man in blue", "init=anna", "guidance=pds", "name=blue", "export.video=false", *make]
    assert cli.main(edit) == 0
    run = tmp_path / "outputs" / "blue"
    assert (run / "avatar.ply").exists()
    config, metrics = (run / "config.yaml").read_text(), json.loads((run / "metrics.json").read_text())
    assert "init: outputs/anna" in config and "source_prompt: a man in red" in config
    record = metrics["stages"]["optimize"]
    assert record["init"] == "outputs/anna" and len(record["init_digest"]) == 16
    assert record["splats"] == 300 and record["prior_calls"] == 2 * 4
    assert (tmp_path / "outputs" / "anna" / "checkpoints" / "last.safetensors").read_bytes() == first
    capsys.readouterr()
    assert cli.main(["name=blue"]) == 0, "a resumed run knows where it started"
    assert "is finished" in capsys.readouterr().err
    assert cli.main([*edit, "name=anna", "overwrite=true"]) == 1
    error = capsys.readouterr().err
    assert "is this run itself" in error and error.count("\n") == 1
    assert (tmp_path / "outputs" / "anna" / "checkpoints" / "last.safetensors").read_bytes() == first
