"""Why seeds look alike: a toy of 64 surface points that prints the fraction of seeds in the likelier mode.

A prior says of every view "all +1" (probability .6) or "all -1" (.4). Sixteen views see half of the points each. The
prior's samples keep its odds; distillation with noise that is new in every step always finds the likelier mode, unless
noise stays on the surface and classifier-free guidance is off at high noise.
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np

POINTS, VIEWS, STEPS, SEEDS = 64, 16, 300, 60
ODDS, TAU = np.log(0.6 / 0.4), 0.3
"""Log odds of "all +1", and the standard deviation within a mode."""
TIMES = np.linspace(0.98, 0.02, STEPS)
SCALES: dict[str, Callable[[float], float]] = {
    "CFG 1": lambda t: 1.0,
    "CFG 4": lambda t: 4.0,
    "CFG 7.5": lambda t: 7.5,
    "CFG 7.5 below t = .6": lambda t: 7.5 if t < 0.6 else 1.0,
}


def levels(t: float) -> tuple[float, float]:
    """alpha and sigma of Stable Diffusion's schedule at a fraction of its timesteps."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alphas_cumprod = np.cumprod(1 - betas)[min(999, int(t * 1000))]
    return float(np.sqrt(alphas_cumprod)), float(np.sqrt(1 - alphas_cumprod))


def predicted_noise(z_t: np.ndarray, t: float, scale: float) -> np.ndarray:
    """The prior's guided noise prediction for views ``[..., n]``; without the prompt both modes are equally likely."""
    alpha, sigma = levels(t)
    variance = alpha**2 * TAU**2 + sigma**2
    evidence = 2 * alpha * z_t.sum(-1, keepdims=True) / variance
    mode = {odds: np.tanh((evidence + odds) / 2) for odds in (0.0, ODDS)}
    mean = mode[0.0] + scale * (mode[ODDS] - mode[0.0])
    return sigma * (z_t - alpha * mean) / variance


def sampled(scale: Callable[[float], float], rng: np.random.Generator) -> float:
    """The mode that a DDIM sample of one view ends in."""
    z_t = rng.normal(size=POINTS // 2)
    for t, later in pairwise(TIMES):
        alpha, sigma = levels(t)
        eps = predicted_noise(z_t, t, scale(t))
        alpha_later, sigma_later = levels(later)
        z_t = alpha_later * (z_t - sigma * eps) / alpha + sigma_later * eps
    return z_t.mean()


def distilled(noise: str, falling: bool, scale: Callable[[float], float], rng: np.random.Generator) -> float:
    """The mode that distillation into the points ends in.

    Args:
        noise: new, view (fixed for each view) or surface (fixed for each point).
        falling: anneal t; else it is uniform.
    """
    seen = np.array([rng.permutation(POINTS)[: POINTS // 2] for _ in range(VIEWS)])
    points, first, second = 0.01 * rng.normal(size=POINTS), np.zeros(POINTS), np.zeros(POINTS)
    of_points, of_views = rng.normal(size=POINTS), rng.normal(size=seen.shape)
    for step in range(STEPS):
        t = TIMES[step] if falling else rng.uniform(0.02, 0.98)
        alpha, sigma = levels(t)
        eps = {"new": rng.normal(size=seen.shape), "view": of_views, "surface": of_points[seen]}[noise]
        residual = predicted_noise(alpha * points[seen] + sigma * eps, t, scale(t)) - eps
        gradient = np.zeros(POINTS)
        np.add.at(gradient, seen, sigma / alpha * residual)
        first, second = 0.9 * first + 0.1 * gradient, 0.99 * second + 0.01 * gradient**2
        corrected = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.99 ** (step + 1))
        points -= 0.03 * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
    return points.mean()


def main(seeds: int = SEEDS) -> dict[str, list[float]]:
    """Print the table.

    Returns:
        By the name of the scale, the fraction for each column.
    """
    table: dict[str, list[float]] = {}
    columns = {
        "prior's samples": sampled,
        "new noise, t uniform": lambda scale, rng: distilled("new", False, scale, rng),
        "new noise, t falling": lambda scale, rng: distilled("new", True, scale, rng),
        "fixed per view": lambda scale, rng: distilled("view", True, scale, rng),
        "fixed on the surface": lambda scale, rng: distilled("surface", True, scale, rng),
    }
    print("fraction of seeds in the likelier mode (the prior's: 0.60)")
    print(" " * 22 + "".join(f"{name:>22}" for name in columns))
    for name, scale in SCALES.items():
        ends = [[run(scale, np.random.default_rng([seed, 5])) > 0 for seed in range(seeds)] for run in columns.values()]
        table[name] = [float(np.mean(values)) for values in ends]
        print(f"{name:22}" + "".join(f"{fraction:22.2f}" for fraction in table[name]))
    return table


if __name__ == "__main__":
    main()
