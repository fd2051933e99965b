"""Densification divides the splats of the largest gradient, carries every entry along and never exceeds its budget."""

import pytest
import torch
from gsplat.strategy import DefaultStrategy

from avatar_gs.core.errors import UserError
from avatar_gs.splats.config import DensityConfig, LearningRates, SplatsConfig
from avatar_gs.splats.density import STATISTICS, DistillationStrategy, largest
from avatar_gs.splats.optim import build_optimizers, step_all
from avatar_gs.splats.surface import surface_splats

COUNT = 100


@pytest.fixture
def model(tube, tube_weights):
    return surface_splats(SplatsConfig(count=COUNT), tube, tube_weights, torch.Generator().manual_seed(0))


def screen_info(gradient):
    """What a rasteriser reports of one camera, with a given screen-space gradient."""
    means2d = torch.zeros(1, len(gradient), 2, requires_grad=True)
    means2d.grad = gradient[None]
    ids = torch.arange(len(gradient))
    radii = torch.ones(1, len(gradient), 2, dtype=torch.int32)
    return {"means2d": means2d, "radii": radii, "gaussian_ids": ids, "width": 64, "height": 64, "n_cameras": 1}


def refine(model, config, gradient, seed=5):
    """One refinement at its first due step, of optimisers that have moments."""
    optimizers = build_optimizers(model, LearningRates())
    for parameter in model.trainable().values():
        parameter.grad = torch.ones_like(parameter)
    step_all(optimizers)
    strategy = DistillationStrategy(config, 10, model)
    return strategy.after_step(model, optimizers, config.every - 1, screen_info(gradient), seed), optimizers, strategy


def gradient_on(indices, count=COUNT):
    gradient = torch.full((count, 2), 1e-9)
    gradient[indices] = 1e-9 * torch.arange(2, 2 + len(indices))[:, None]
    return gradient


def test_largest_takes_the_positive_top():
    assert largest(torch.tensor([0.0, 3.0, 1.0, 3.0]), 2).tolist() == [False, True, False, True]
    assert largest(torch.tensor([0.0, 0.0]), 2).tolist() == [False, False]


def test_the_fraction_with_the_largest_gradient_is_split_at_any_scale(model):
    chosen = [3, 14, 15, 92, 65]
    parents = model.params["skinning"][sorted(chosen)].clone()
    kept = [i for i in range(COUNT) if i not in chosen]
    expected_rest = model.params["skinning"][kept].clone()
    config = DensityConfig(start=0.0, stop=1.0, prune_stop=1.0, every=1, grow_share=0.05)
    result, optimizers, _ = refine(model, config, gradient_on(chosen))
    assert (result.split, result.duplicated, result.pruned) == (5, 0, 0)
    assert len(model) == COUNT + 5
    assert torch.equal(model.params["skinning"][:95], expected_rest)
    assert torch.equal(model.params["skinning"][95:], parents.repeat(2, 1))
    assert not model.params["skinning"].requires_grad
    for name, optimizer in optimizers.items():
        assert optimizer.param_groups[0]["params"][0] is model.params[name]
        assert len(optimizer.state[model.params[name]]["exp_avg"]) == COUNT + 5


def test_small_splats_are_duplicated(model):
    config = DensityConfig(start=0.0, stop=1.0, prune_stop=1.0, every=1, grow_share=0.05, split_scale=10.0)
    result, _, _ = refine(model, config, gradient_on([1, 2, 3, 4, 5]))
    assert (result.split, result.duplicated) == (0, 5)
    assert torch.equal(model.params["means"][-5:], model.params["means"][1:6])


def test_the_number_of_splats_stays_within_its_limit(model):
    config = DensityConfig(start=0.0, stop=1.0, prune_stop=1.0, every=1, grow_share=0.5, max_splats=COUNT + 3)
    refine(model, config, torch.rand(COUNT, 2))
    assert len(model) == COUNT + 3


def test_transparent_large_and_stray_splats_are_pruned_and_nothing_grows_after_stop(model):
    with torch.no_grad():
        model.params["opacities"][:4] = -10.0
        model.params["scales"][4:6] = 0.0
        model.params["means"][6] += 5.0
    config = DensityConfig(start=0.0, stop=0.0, prune_stop=1.0, every=1)
    result, _, _ = refine(model, config, torch.rand(COUNT, 2))
    assert (result.split + result.duplicated, result.pruned, len(model)) == (0, 7, COUNT - 7)


def test_pruning_every_splat_is_refused(model):
    with torch.no_grad():
        model.params["opacities"].fill_(-10.0)
    with pytest.raises(UserError, match="prune_opacity"):
        refine(model, DensityConfig(start=0.0, stop=0.0, prune_stop=1.0, every=1), torch.rand(COUNT, 2))


def test_split_depends_on_its_seed_and_not_on_the_global_generator(tube, tube_weights):
    results = []
    for global_seed, seed in ((1, 5), (2, 5), (1, 6)):
        torch.manual_seed(global_seed)
        model = surface_splats(SplatsConfig(count=COUNT), tube, tube_weights, torch.Generator().manual_seed(0))
        before = torch.get_rng_state()
        refine(model, DensityConfig(start=0.0, stop=1.0, prune_stop=1.0, every=1), gradient_on([1, 2, 3, 4, 5]), seed)
        assert torch.equal(torch.get_rng_state(), before)
        results.append(model.params["means"].detach())
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


def test_statistics_survive_a_checkpoint(model):
    config = DensityConfig(start=0.0, stop=1.0, prune_stop=1.0, every=5)
    optimizers = build_optimizers(model, LearningRates())
    strategy, resumed = DistillationStrategy(config, 10, model), DistillationStrategy(config, 10, model)
    strategy.after_step(model, optimizers, 0, screen_info(torch.rand(COUNT, 2)), 0)
    resumed.load_tensors(strategy.tensors())
    assert torch.equal(resumed.running["grad2d"], strategy.running["grad2d"])
    assert torch.equal(resumed.running["count"], torch.ones(COUNT))


def test_running_sums_have_the_same_bytes_as_gsplats(model):
    """Over several views; some splats are not seen, and one of those has a gradient that is not a number."""
    random = torch.Generator().manual_seed(1)
    ours, theirs = DistillationStrategy(DensityConfig(), 10, model), DefaultStrategy()
    state = theirs.initialize_state()
    for _ in range(3):
        gradient = torch.randn(4, COUNT, 2, generator=random)
        radii = torch.randint(0, 3, (4, COUNT, 2), generator=random, dtype=torch.int32)
        gradient[0, 0], radii[0, 0] = float("nan"), 0
        means2d = torch.zeros(4, COUNT, 2)
        means2d.grad = gradient
        info = {"means2d": means2d, "radii": radii, "width": 96, "height": 64, "n_cameras": 4, "gaussian_ids": None}
        ours.accumulate(info)
        theirs._update_state(model.params, state, info)  # private to gsplat
        assert torch.equal(means2d.grad.nan_to_num(), gradient.nan_to_num()), "the gradient stays as it is"
    for name in STATISTICS:
        assert torch.equal(ours.running[name], state[name]) and ours.running[name].isfinite().all()
