"""LPIPS on weights from a file: torchvision's own networks with random weights, and lpips' own arithmetic."""

import warnings
from pathlib import Path

import lpips
import pytest
import torch
import torchvision
from safetensors.torch import save_file

from avatar_gs.core.errors import UserError
from avatar_gs.lab.metrics.perceptual import load_lpips


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torchvision.models.alexnet(weights=None)


@pytest.fixture(scope="module")
def file(network, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("lpips") / "alexnet-owt-7be5be79.pth"
    torch.save(features(network), path)
    return path


def features(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The layers that LPIPS uses; what classifies would only make the files large."""
    return {name: value for name, value in network.state_dict().items() if name.startswith("features")}


def test_distances_are_those_of_lpips_on_the_same_network(network, file):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    layers = dict(network.features.named_children())
    for block in reference.net.children():
        for name, module in block.named_children():
            module.load_state_dict(layers[name].state_dict())
    first, second = torch.rand(3, 64, 64, 3), torch.rand(3, 64, 64, 3)
    expected = reference(first.permute(0, 3, 1, 2) * 2 - 1, second.permute(0, 3, 1, 2) * 2 - 1).detach().flatten()
    found = load_lpips(str(file))
    assert found is not None and found.name == "alexnet"
    torch.testing.assert_close(found.distances(first, second), expected)
    assert float(expected.min()) > 0.01 and float(found.distances(first, first).abs().max()) == 0


def test_a_folder_and_safetensors_serve_as_well(network, file, tmp_path):
    save_file(features(network), tmp_path / "alexnet.safetensors")
    images = torch.rand(1, 64, 64, 3), torch.rand(1, 64, 64, 3)
    found = [load_lpips(str(path)) for path in (file, tmp_path, file.parent)]
    distances = [float(one.distances(*images)) for one in found if one is not None]
    assert len(distances) == 3 and len(set(distances)) == 1


def test_nothing_given_is_nothing_measured_and_nothing_downloaded(monkeypatch, file):
    def never(*_, **__):
        raise AssertionError("downloads")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", never)
    assert load_lpips("") is None
    assert load_lpips(str(file)) is not None


def test_what_does_not_serve_is_named(file, tmp_path):
    with pytest.raises(UserError, match=r"no such file or folder; expected torchvision"):
        load_lpips(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"no alexnet\*\.pth"):
        load_lpips(str(tmp_path))
    cut = tmp_path / "alexnet-cut.pth"
    cut.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be read"):
        load_lpips(str(cut))
    other = tmp_path / "other.pth"
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, other)
    with pytest.raises(UserError, match="neither torchvision's AlexNet nor its VGG16"):
        load_lpips(str(other))


def test_a_pickle_that_would_run_code_is_not_loaded(tmp_path):
    ran = tmp_path / "ran"
    path = tmp_path / "alexnet.pth"
    torch.save({"features.0.weight": _Touches(ran)}, path)
    with pytest.raises(UserError, match="cannot be read"):
        load_lpips(str(path))
    assert not ran.exists()


class _Touches:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))
