"""Recurring calls are compiled or captured, or stay unchanged if that fails or gives other results."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# (the annotations in diffusers are narrower than what it takes and returns)

import copy
import gc
import logging

import pytest
import torch
from torch import nn

from avatar_gs.prior import accelerate
from avatar_gs.prior.accelerate import AFTER, SHAPES, Accelerated, OneAtATime, captured, choose, compiled
from avatar_gs.prior.adapter import CameraLora
from avatar_gs.prior.compute import Compute
from avatar_gs.prior.config import Compile, PriorConfig
from avatar_gs.prior.parts import Parts
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior
from tests import tiny

WEIGHT = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))


def function(x, y):
    return torch.tanh(x @ WEIGHT) + (0 if y is None else y)


class Maker:
    """Counts its calls, and those of the functions that it makes."""

    def __init__(self, change=lambda output: output):
        self.change, self.made, self.calls = change, [], 0

    def __call__(self, function, arguments):
        self.made.append([None if argument is None else tuple(argument.shape) for argument in arguments])

        def faster(*arguments):
            self.calls += 1
            return self.change(function(*arguments))

        return faster


class Doubled(torch.autograd.Function):
    """Right values, wrong gradients."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


def called(fast, rows, times=1, learns=False, y=False):
    for _ in range(times):
        x = torch.randn(rows, 3, requires_grad=learns)
        other = torch.ones(rows, 3) if y else None
        output = fast(x, other)
        torch.testing.assert_close(output, function(x, other))
        if learns:
            (gradient,) = torch.autograd.grad(output.sum(), x)
            torch.testing.assert_close(gradient, torch.autograd.grad(function(x, other).sum(), x)[0])


def logged(caplog):
    """The warnings, without less severe messages."""
    records = [record for record in caplog.records if record.name.startswith("avatar_gs")]
    return [record.message for record in records if record.levelno >= logging.WARNING]


def test_calls_that_recur_are_made_faster_shape_by_shape():
    maker = Maker()
    fast = Accelerated(function, maker, torch.float32, "f")
    called(fast, 2, AFTER - 1)
    called(fast, 4, AFTER - 1)
    assert maker.made == []
    called(fast, 2)
    assert maker.made == [[(2, 3), None]]
    before = maker.calls
    called(fast, 2, 5)
    assert len(maker.made) == 1 and maker.calls == before + 5
    called(fast, 2, AFTER, learns=True)
    called(fast, 2, AFTER, y=True)
    with torch.no_grad():
        called(fast, 2, AFTER)
    assert maker.made == [[(2, 3), None]] * 2 + [[(2, 3), (2, 3)], [(2, 3), None]]
    for rows in range(10, 20):
        called(fast, rows, AFTER)
    assert len(maker.made) == SHAPES


def test_calls_with_gradients_may_be_left_alone():
    maker = Maker()
    fast = Accelerated(function, maker, torch.float32, "f", with_gradients=False)
    called(fast, 2, 2 * AFTER, learns=True)
    assert maker.made == []
    with torch.no_grad():
        called(fast, 2, AFTER, learns=False)
    assert len(maker.made) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda output: 1.01 * output, "answers are 1.0e-02 of their norm away"),
        (lambda output: output * float("nan"), "answers are nan of their norm away"),
        (Doubled.apply, "answers are 1.0e"),
    ],
)
def test_different_results_or_gradients_are_rejected(caplog, change, said):
    fast = Accelerated(function, Maker(change), torch.float32, "f")
    called(fast, 2, AFTER + 2, learns=True)
    (line,) = logged(caplog)
    assert line.startswith("f cannot be made faster here (Disagreement: ") and said in line
    assert fast.make is None


def test_a_failing_compiler_costs_one_line(caplog):
    def fails(function, arguments):
        raise RuntimeError("no compiler here\nand much more")

    fast = Accelerated(function, fails, torch.float32, "the networks")
    called(fast, 2, 2 * AFTER)
    called(fast, 3, 2 * AFTER)
    assert logged(caplog) == ["the networks cannot be made faster here (RuntimeError: no compiler here)"]


def test_what_fails_later_costs_one_line_too_but_memory_is_not_hidden(caplog):
    errors = []

    def fragile(output):
        if errors:
            raise errors[0]
        return output

    fast = Accelerated(function, Maker(fragile), torch.float32, "f")
    called(fast, 2, AFTER)
    errors.append(torch.OutOfMemoryError("no memory"))
    with pytest.raises(torch.OutOfMemoryError):
        called(fast, 2)
    errors[0] = ValueError("later")
    called(fast, 2, 3)
    assert logged(caplog) == ["f cannot be made faster here (ValueError: later)"]


def test_graphs_need_a_gpu(caplog):
    fast = Accelerated(function, captured, torch.float32, "f")
    called(fast, 2, AFTER + 1)
    assert logged(caplog) == ["f cannot be made faster here (RuntimeError: CUDA graphs need a GPU)"]


def test_what_a_graph_keeps_is_used_once_at_a_time():
    """Until its backward pass has been made, or nobody can make it any more."""
    use, x = OneAtATime(), torch.randn(3, requires_grad=True)
    assert not use.busy()
    first = use.watch(2 * x)
    assert use.busy()
    loss = first.square().sum()
    loss.backward()
    assert not use.busy()
    torch.testing.assert_close(x.grad, 8 * x.detach())
    second = use.watch(3 * x)
    derived = second.sum()
    del second
    gc.collect()
    assert use.busy(), "derived may still go backward"
    del derived
    gc.collect()
    assert not use.busy()


def test_a_captured_function_with_gradients_goes_one_at_a_time(monkeypatch):
    """With torch's capture replaced by one whose memory is overwritten likewise, on a CPU."""
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", Overwritten)
    y = torch.tensor([0.5, 2.0])
    fast = accelerate._CapturedWithGradients(lambda x, y: (x * x * y).tanh(), (torch.ones(2, requires_grad=True), y))
    inputs = [torch.tensor(values, requires_grad=True) for values in ([0.1, 0.2], [0.3, 0.4], [0.5, 0.6])]
    first, second = fast(inputs[0], y), fast(inputs[1], y)
    kept = first.detach().clone()
    (first.sum() + second.sum()).backward()
    fast(inputs[2], y).sum().backward()
    torch.testing.assert_close(first.detach(), kept)
    for x in inputs:
        expected = x.detach().clone().requires_grad_()
        (expected * expected * y).tanh().sum().backward()
        torch.testing.assert_close(x.grad, expected.grad)


class Overwritten:
    """A stand-in for a captured function: one buffer for its output, one for what its backward pass needs."""

    def __init__(self, function, samples, capture_error_mode):
        assert capture_error_mode == "thread_local", "the next scene is prepared meanwhile"
        self.function, self.output = function, torch.empty(2)
        self.held = [sample.detach().clone().requires_grad_(sample.requires_grad) for sample in samples]

    def __call__(self, *arguments):
        graphed = self

        class Replayed(torch.autograd.Function):
            @staticmethod
            def forward(ctx, *arguments):
                for held, argument in zip(graphed.held, arguments, strict=True):
                    held.data.copy_(argument)
                return graphed.output.copy_(graphed.function(*graphed.held).detach()).detach()

            @staticmethod
            def backward(ctx, gradient):
                with torch.enable_grad():
                    output = graphed.function(*graphed.held)
                learning = [held for held in graphed.held if held.requires_grad]
                found = iter(torch.autograd.grad(output, learning, gradient))
                return tuple(next(found) if held.requires_grad else None for held in graphed.held)

        return Replayed.apply(*arguments)


def test_auto_is_what_pays():
    assert choose(12_000_000, 0.01, 1) is Compile.graphs
    assert choose(1_200_000_000, 0.025, 3_600) is Compile.never
    assert choose(1_200_000_000, 0.100, 3_600) is Compile.always
    assert choose(1_200_000_000, 0.025, 15_000) is Compile.always


# ---- of a prior


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return tiny.parts(tmp_path_factory.mktemp("prior"))


def made(parts, how, **settings):
    prior = StableDiffusionPrior(Parts(**copy.deepcopy(parts)), Compute(**settings))
    assert prior.accelerate(how, steps=10**6, batch=2) is (Compile.never if how is Compile.auto else how)
    return prior


def step(prior, seed):
    """Everything that a step computes with a prior: predictions without gradients and with, latents, all gradients."""
    random = torch.Generator().manual_seed(seed)
    z_t = torch.randn(2, 4, tiny.LATENT_SIZE, tiny.LATENT_SIZE, generator=random)
    cond = torch.randn(2, tiny.TOKEN_LENGTH, prior.text_width, generator=random)
    control = torch.rand(2, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE, 3, generator=random)
    images = torch.rand(2, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE, 3, generator=random).requires_grad_()
    t = torch.tensor([20 + seed, 500])
    with torch.no_grad():
        plain = prior.eps(z_t, t, cond, control)
    cond.requires_grad_()
    eps, latents = prior.eps(z_t, t, cond, control), prior.encode_images(images)
    (eps.square().sum() + latents.square().sum()).backward()
    return plain, eps.detach(), cond.grad, latents.detach(), images.grad


def traced(monkeypatch, **options):
    """``torch.compile`` as far as its graphs, without its code generation."""
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **more: compile(function, **(more | options)))


def same_and_steady(fast, plain, first, last):
    """All steps agree, and after the first ones nothing is compiled any more."""
    for seed in range(first):
        step(fast, seed)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for seed in range(first, last):
            for one, other in zip(step(fast, seed), step(plain, seed), strict=True):
                torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
                assert other.abs().max() > 1e-3
    assert fast.denoiser.accelerated.make is not None and len(fast.denoiser.accelerated._faster) == 2
    assert len(fast.codec.vae_encoder.encode._faster) == 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_compiled_prior_predicts_the_same_and_is_compiled_once(parts, monkeypatch, caplog):
    """Through the compiler's graphs of both passes."""
    traced(monkeypatch, backend="aot_eager")
    same_and_steady(made(parts, Compile.always), made(parts, Compile.never), AFTER, AFTER + 3)
    assert not [line for line in logged(caplog) if "cannot" in line]


@pytest.mark.slow
def test_a_backward_pass_may_follow_twice(monkeypatch):
    """As guidance.de_sds.variant=seed has it."""
    traced(monkeypatch, backend="aot_eager")
    fast = Accelerated(function, compiled, torch.float32, "f")
    called(fast, 2, AFTER + 1, learns=True)
    x = torch.randn(2, 3, requires_grad=True)
    output = fast(x, None).square().sum()
    first, second = (torch.autograd.grad(output, x, retain_graph=again)[0] for again in (True, False))
    assert fast.make is not None and torch.equal(first, second) and first.abs().max() > 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_generated_code_computes_the_same():
    """By inductor: convolutions, a norm and SiLU, with the gradient of their input."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 4, 3)).requires_grad_(False)
    fast = Accelerated(network, compiled, torch.float32, "the network")
    for _ in range(AFTER + 2):
        x = torch.randn(2, 3, 8, 8, requires_grad=True)
        answers = []
        for function in (fast, network):
            output = function(x)
            (gradient,) = torch.autograd.grad(output.square().sum(), x)
            answers.append((output, gradient))
        for one, other in zip(*answers, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    assert fast.make is not None and len(fast._faster) == 1


def test_a_prior_continues_uncompiled_if_compiling_fails(parts, monkeypatch, caplog):
    def fails(*arguments, **options):
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(accelerate, "compiled", fails)
    fast, plain = made(parts, Compile.always), made(parts, Compile.never)
    for seed in range(AFTER + 1):
        for one, other in zip(step(fast, seed), step(plain, seed), strict=True):
            assert torch.equal(one, other)
    assert sorted(logged(caplog)) == [
        "UNet and ControlNet cannot be made faster here (RuntimeError: no C++ compiler)",
        "the VAE's encoder cannot be made faster here (RuntimeError: no C++ compiler)",
    ]


def test_on_a_cpu_auto_leaves_all_as_it_is(parts):
    prior = made(parts, Compile.auto)
    assert prior.denoiser.accelerated is None and not isinstance(prior.codec.vae_encoder.encode, Accelerated)
    assert PriorConfig().compile is Compile.auto


def test_what_saves_memory_or_learns_is_never_compiled(parts, monkeypatch):
    """Chunks that are computed again must be computed alike, and an adapter has another UNet."""
    maker = Maker()
    monkeypatch.setattr(accelerate, "compiled", maker)
    prior = made(parts, Compile.always, predict_chunk=1, checkpoint_encoder=True)
    for seed in range(AFTER):
        step(prior, seed)
    assert maker.made and all(shapes[0] == (1, 4, 8, 8) for shapes in maker.made), "predictions without gradients only"
    assert len(maker.made) == 1 and not isinstance(prior.codec.vae_encoder.encode, Accelerated)
    assert CameraLora(made(parts, Compile.always).denoiser, rank=2).twin.accelerated is None


def test_a_prior_with_another_control_scale_does_not_use_this_ones_faster_calls(tmp_path):
    prior = StableDiffusionPrior(Parts(**tiny.parts(tmp_path)))
    size = prior.latent_size
    inputs = (
        torch.randn(2, prior.latent_channels, size, size),
        torch.tensor([10, 500]),
        prior.encode_prompts(["a", "b"]),
    )
    control = torch.rand(2, prior.image_size, prior.image_size, 3)
    expected = prior.with_control_scale(0.0).eps(*inputs, control)
    prior.denoiser.accelerate(Maker(), with_gradients=False)
    for _ in range(AFTER + 1):
        assert not torch.equal(prior.eps(*inputs, control), expected)
    torch.testing.assert_close(prior.with_control_scale(0.0).eps(*inputs, control), expected, atol=0, rtol=0)


def test_encoders_are_made_faster_once(tmp_path):
    prior = StableDiffusionPrior(Parts(**tiny.parts(tmp_path)))
    for _ in range(2):  # as two runs with one prior do
        prior.codec.accelerate(Maker())
    fast = prior.codec.vae_encoder.encode
    assert isinstance(fast, Accelerated) and not isinstance(fast.function, Accelerated)
