"""The renderer on several threads: the same bits, after a fork, and called from two threads at once."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from avatar_gs.lab.benchmarks.renderers import capsule_person, person_camera
from avatar_gs.render.cpu import runtime
from avatar_gs.render.rasterize import rasterize
from avatar_gs.types import Gaussians


@pytest.fixture(autouse=True)
def four_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A pool as on a machine of four cores, independent of this one."""
    before = torch.get_num_threads()
    monkeypatch.setattr(runtime, "available_cores", lambda: 4)
    runtime._pool.cache_clear()
    yield
    runtime._pool.cache_clear()
    torch.set_num_threads(before)


def image_and_gradients(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    parameters = [x.requires_grad_() for x in vars(capsule_person(2000, generator)).values()]
    render = rasterize(Gaussians(*parameters), person_camera(140, 100))
    image = torch.cat([render.rgb, render.alpha, render.depth], dim=-1)
    weights = torch.randn(image.shape, generator=generator)
    return [image.detach(), *torch.autograd.grad((image * weights).sum(), parameters)]


def test_the_bits_do_not_depend_on_the_number_of_threads_nor_on_the_run() -> None:
    torch.set_num_threads(1)
    right = image_and_gradients()
    for count in (1, 2, 3, 4, 4):
        torch.set_num_threads(count)
        assert runtime.thread_count() == count
        assert all(map(torch.equal, image_and_gradients(), right)), count


def test_threads_follow_torch_within_the_cores_of_the_process() -> None:
    torch.set_num_threads(7)
    assert runtime.thread_count() == 4
    torch.set_num_threads(2)
    assert runtime.thread_count() == 2


def test_chunks_cover_the_range_once() -> None:
    torch.set_num_threads(4)
    for count in (0, 1, 3, 4, 10):
        seen: list[int] = []
        runtime.run_chunks(lambda start, stop, into: into.extend(range(start, stop)), count, seen)
        assert sorted(seen) == list(range(count))


def test_an_error_on_another_thread_is_raised() -> None:
    torch.set_num_threads(3)

    def fail_late(start: int, stop: int) -> None:
        if start > 0:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        runtime.run_chunks(fail_late, 3)


def test_calls_from_two_threads_at_once() -> None:
    torch.set_num_threads(3)
    right = {seed: image_and_gradients(seed) for seed in (1, 2)}
    with ThreadPoolExecutor(2) as pool:
        jobs = [(seed, pool.submit(image_and_gradients, seed)) for seed in (1, 2) * 5]
    for seed, job in jobs:
        assert all(map(torch.equal, job.result(), right[seed]))


class _Rendered(Dataset):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Tensor:
        # Torch itself computes with one thread in a worker; the renderer is to start threads of its own
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(runtime, "thread_count", lambda: 3)
            return torch.cat([x.flatten() for x in image_and_gradients(index)])


@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_a_forked_worker_renders_too() -> None:
    torch.set_num_threads(3)
    right = [torch.cat([x.flatten() for x in image_and_gradients(seed)]) for seed in (0, 1)]  # the pool is running
    loader = DataLoader(_Rendered(), batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=120)
    for found, expected in zip(loader, right, strict=True):
        assert torch.equal(found, expected)
