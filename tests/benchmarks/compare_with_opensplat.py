"""Times our CPU renderer compared with OpenSplat's (``rasterizer/gsplat-cpu``), forward and backward, in one process.

    git clone https://github.com/pierotofy/OpenSplat /tmp/OpenSplat
    OMP_WAIT_POLICY=PASSIVE python tests/benchmarks/compare_with_opensplat.py /tmp/OpenSplat

It needs g++ and ninja on the PATH, and compiles only OpenSplat's projection and rasteriser, which takes more than a
minute. OpenSplat is AGPL-3.0: neither it nor the compiled module is part of this project.

Both render the person of ``stage=benchmark``, in alternating passes. No ratio is printed unless the images, and the
gradients of colours and opacities of the same loss, agree. Remaining differences:

- Ours renders colour, alpha and depth, all with gradients; OpenSplat's renders colour only, and would need a second
  pass for depth. The times are those of one pass, with a loss on all outputs.
- OpenSplat cuts a splat off at 3 standard deviations plus 2 pixels along each axis, ours where it falls below 1/255
  (3.33 at most); the 2 pixels hide the difference at these sizes.
- OpenSplat sorts by the depth of the projection matrix. Its float32 rounding differs from that of metres, so that
  splats of nearly equal depth change places; for the comparison of images, not for the times, it sorts by our depths.
- OpenSplat's backward pass clamps alpha at .99 (forward: .999, ours in both), and halves the gradient of the conics'
  off-diagonal, so the gradients of means, quaternions and scales differ and are not compared.
- OpenSplat rasterises on one thread; only torch's part of its projection uses more.
- OpenSplat's rasteriser reads depths and the image's gradient as if they were contiguous, which the depths of its
  projection are not (so its program renders in another order than that of depth): two small copies, included in its
  time, make them contiguous.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.cpp_extension import load

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout need not be installed

from avatar_gs.core.errors import UserError
from avatar_gs.lab.benchmarks.config import BenchmarkConfig
from avatar_gs.lab.benchmarks.renderers import Scene, person_scene, time_renderers
from avatar_gs.render.rasterize import rasterize
from avatar_gs.types import Cameras, Gaussians, Render

NEAR, FAR = 1.0, 10.0
"""Metres; they affect only the depths that OpenSplat sorts by."""
IMAGE_TOLERANCE = 0.01
"""Largest difference at a pixel: float32 may put a splat on either side of the threshold of 1/255."""
MEAN_TOLERANCE = 1e-6
"""Mean absolute difference of the images."""
GRADIENT_TOLERANCE = 1e-3
"""Norm of the difference of two gradients, relative to the norm of ours."""


def build(checkout: Path, folder: Path, flags: list[str]) -> ModuleType:
    """The functions ``project`` and ``rasterize`` of an OpenSplat checkout, compiled into ``folder``."""
    sources = ["project_gaussians.cpp", "rasterize_gaussians.cpp", "rasterizer/gsplat-cpu/gsplat_cpu.cpp"]
    folder.mkdir(parents=True, exist_ok=True)
    module = load(
        name="opensplat_cpu",
        sources=[str(Path(__file__).with_suffix(".cpp")), *[str(checkout / source) for source in sources]],
        extra_include_paths=[str(checkout), str(checkout / "rasterizer")],
        extra_cflags=flags,
        extra_ldflags=[flag for flag in flags if flag.startswith("-fopenmp")],
        build_directory=str(folder),
    )
    return cast(ModuleType, module)


def projection_matrix(cameras: Cameras) -> Tensor:
    """``[4, 4]`` from the camera frame to OpenGL's clip space, with our pixel centres."""
    (fx, _, cx), (_, fy, cy), _ = cameras.K[0].tolist()
    width, height = cameras.width, cameras.height
    return torch.tensor(
        [
            [2 * fx / width, 0.0, 2 * cx / width - 1, 0.0],
            [0.0, 2 * fy / height, 2 * cy / height - 1, 0.0],
            [0.0, 0.0, (FAR + NEAR) / (FAR - NEAR), -2 * FAR * NEAR / (FAR - NEAR)],
            [0.0, 0.0, 1.0, 0.0],
        ]
    )


def renderer(opensplat: ModuleType) -> Callable[..., Render]:
    """OpenSplat as a renderer of one camera; alpha and depth are zeros without gradient."""

    def render(splats: Gaussians, cameras: Cameras, sort_by: Tensor | None = None) -> Render:
        view, (fx, fy, cx, cy) = cameras.T_camera_world[0], cameras.K[0, [0, 1, 0, 1], [0, 1, 2, 2]].tolist()
        projection = projection_matrix(cameras) @ view
        size = (cameras.height, cameras.width)
        means2d, radii, conics, covariances, depths = opensplat.project(
            splats.means, splats.scales, splats.quats, view, projection, fx, fy, cx, cy, *size
        )
        depths, background = depths.contiguous() if sort_by is None else sort_by, torch.zeros(3)
        rgb = opensplat.rasterize(
            means2d, radii, conics, splats.colors, splats.opacities[:, None], covariances, depths, *size, background
        )
        rgb.register_hook(Tensor.contiguous)
        nothing = torch.zeros(1, *size, 1)
        return Render(rgb[None], nothing, nothing, {})

    return render


def ranks(depths: Tensor) -> Tensor:
    """Rank of each splat in our order: by depth, then by index."""
    return depths.argsort(stable=True).argsort().float()


def disagreement(theirs: Callable[..., Render], scene: Scene) -> tuple[dict[str, float], bool]:
    """Differences of the two renderers by name, and whether one exceeds its tolerance."""

    def draw(render: Callable[..., Render], **options: Any) -> tuple[Render, tuple[Tensor, ...]]:
        splats = Gaussians(*[x.clone().requires_grad_() for x in vars(scene.splats).values()])
        drawn = render(splats, scene.cameras, **options)
        loss = (drawn.rgb * scene.weights[0]).sum()
        return drawn, torch.autograd.grad(loss, (splats.colors, splats.opacities))

    ours, our_gradients = draw(rasterize)
    other, other_gradients = draw(theirs, sort_by=ranks(ours.info["depths"][0].detach()))
    apart = (ours.rgb - other.rgb).detach().abs()
    found = {"largest difference of a pixel": float(apart.max()), "mean difference": float(apart.mean())}
    for name, a, b in zip(("colours", "opacities"), our_gradients, other_gradients, strict=True):
        found[f"gradient of {name}"] = float((a - b).norm() / a.norm())
    limits = (IMAGE_TOLERANCE, MEAN_TOLERANCE, GRADIENT_TOLERANCE, GRADIENT_TOLERANCE)
    return found, any(not value <= limit for value, limit in zip(found.values(), limits, strict=True))


def table_row(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    """One line of the Markdown table."""
    cells = [f"{ours['splats']:,}, {ours['pixels']}²"]
    for clock in ("wall", "cpu"):
        low, middle = f"{clock}_min", f"{clock}_median"
        cells += [f"{row[low]:.1f} / {row[middle]:.1f}" for row in (ours, theirs)]
        cells += [f"{theirs[low] / ours[low]:.1f} / {theirs[middle] / ours[middle]:.1f}"]
    return f"| {' | '.join(cells)} |"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time our CPU renderer compared with OpenSplat's.")
    parser.add_argument("checkout", type=Path, help="a checkout of OpenSplat")
    parser.add_argument("--folder", type=Path, help="folder to compile in and to keep; default: a temporary one")
    parser.add_argument("--flags", default="-O3 -DNDEBUG -march=native -fopenmp", help="for g++")
    parser.add_argument("--splats", type=int, nargs="+", default=[10_000, 20_000, 50_000, 100_000])
    parser.add_argument("--pixels", type=int, nargs="+", default=[128, 256, 512, 512])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int, help="default: all cores")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if not (arguments.checkout / "rasterizer/gsplat-cpu/gsplat_cpu.cpp").is_file():
        parser.error(f"{arguments.checkout} is no OpenSplat checkout: no rasterizer/gsplat-cpu/gsplat_cpu.cpp in it")
    try:
        BenchmarkConfig(splats=arguments.splats, pixels=arguments.pixels, repeats=arguments.repeats)
    except UserError as error:
        parser.error(str(error))
    return arguments


def main() -> None:
    arguments = parse()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        theirs = renderer(build(arguments.checkout.resolve(), folder.resolve(), arguments.flags.split()))
    sizes = list(zip(arguments.splats, arguments.pixels, strict=True))
    for count, side in sizes:
        found, apart = disagreement(theirs, person_scene(count, side, arguments.seed))
        print(f"{count:,}, {side}²: " + ", ".join(f"{name} {value:.1e}" for name, value in found.items()))
        if apart:
            raise SystemExit("error: the renders differ, so the times cannot be compared")
    print(
        f"\nForward + backward, threads: {torch.get_num_threads()}, {arguments.repeats} passes of each in turn, "
        f"OpenSplat compiled with {arguments.flags}; ms min / median\n\n"
        "| splats, px | wall: ours | OpenSplat | ratio | CPU: ours | OpenSplat | ratio |\n|---|---|---|---|---|---|---|"
    )
    for count, side in sizes:
        config = BenchmarkConfig(splats=[count], pixels=[side], repeats=arguments.repeats, dense_limit=0)
        print(table_row(*time_renderers(config, arguments.seed, others={"OpenSplat": theirs})), flush=True)


if __name__ == "__main__":
    main()
