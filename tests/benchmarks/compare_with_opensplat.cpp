// Binds OpenSplat's two differentiable CPU functions to Python: the signatures are theirs, see compare_with_opensplat.py.
#include <torch/extension.h>

#include "project_gaussians.hpp"
#include "rasterize_gaussians.hpp"

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
    module.def("project", [](torch::Tensor means, torch::Tensor scales, torch::Tensor quats, torch::Tensor view,
                             torch::Tensor projection, float fx, float fy, float cx, float cy, int height, int width) {
        return ProjectGaussiansCPU::apply(means, scales, 1.0f, quats, view, projection, fx, fy, cx, cy, height, width);
    });
    module.def("rasterize", [](torch::Tensor means2d, torch::Tensor radii, torch::Tensor conics, torch::Tensor colors,
                               torch::Tensor opacities, torch::Tensor covariances, torch::Tensor depths, int height,
                               int width, torch::Tensor background) {
        return RasterizeGaussiansCPU::apply(means2d, radii, conics, colors, opacities, covariances, depths, height,
                                            width, background);
    });
}
