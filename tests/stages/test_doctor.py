"""What a report of a fault needs, from one command."""

from avatar_gs import __version__, cli
from avatar_gs.core.errors import UserError
from avatar_gs.stages import doctor


def test_the_doctor_tells_of_the_machine_and_makes_an_avatar(prior, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["doctor", "device=cpu", f"prior={prior}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == lines[-1] == "```"
    told = dict(line.split(maxsplit=1) for line in lines[1:-1] if not line.startswith("tiny avatar"))
    assert told["avatar-gs"].startswith(__version__)
    assert "torch 2." in told["packages"] and "GB free" in told["memory"] and str(tmp_path) in told["disk"]
    assert told["device"].startswith("device=cpu is cpu")
    assert "mini is packaged" in told["priors"] and told["body"]
    assert lines[-2].startswith("tiny avatar  made in ")
    assert list(tmp_path.iterdir()) == []


def test_what_is_broken_is_told_and_the_rest_goes_on(tmp_path, monkeypatch, capsys):
    def broken(*arguments):
        raise OSError("the driver is gone\nat line 7")

    def refused(settings):
        raise UserError("no GPU")

    monkeypatch.setattr(doctor, "choose_device", broken)
    monkeypatch.setattr(doctor, "make_tiny", refused)
    assert cli.main(["doctor"]) == 1
    said = capsys.readouterr()
    assert "device       unknown (OSError: the driver is gone)" in said.out
    assert "tiny avatar  UserError: no GPU" in said.out and "priors " in said.out
    assert "could not be made (UserError: no GPU)" in said.err and "Traceback" not in said.out + said.err
