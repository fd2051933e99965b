"""glTF files of splats, read by programs that we did not write."""

# pyright: reportOptionalMemberAccess=false, reportAttributeAccessIssue=false, reportArgumentType=false
# pyright: reportOptionalOperand=false, reportOptionalSubscript=false, reportAssignmentType=false
# pyright: reportOptionalIterable=false, reportCallIssue=false
# (pygltflib's and trimesh's annotations are narrower than their behaviour)

import io
from pathlib import Path

import numpy as np
import pygltflib
import pytest
import torch
import trimesh
from PIL import Image

from avatar_gs.export.glb import write_splats_glb
from avatar_gs.export.mesh import Skin, shown_colors, write_mesh
from avatar_gs.geometry import axis_angle_to_matrix, matrix_to_quat
from avatar_gs.types import SH_C0, Gaussians
from avatar_gs.viewer.rig import Rig

DTYPES = {5121: "u1", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}


def array(file: pygltflib.GLTF2, index: int) -> np.ndarray:
    """The values of an accessor."""
    accessor = file.accessors[index]
    view = file.bufferViews[accessor.bufferView]
    content = (file.binary_blob() or b"")[view.byteOffset : view.byteOffset + view.byteLength]
    values = np.frombuffer(content, DTYPES[accessor.componentType])
    return values.reshape(accessor.count, WIDTHS[accessor.type]).astype(float)


def chain(count: int = 40, seed: int = 0) -> tuple[Gaussians, Rig]:
    """Random splats, on a skeleton of five joints in a random pose."""
    random = torch.Generator().manual_seed(seed)
    rand = lambda *shape: torch.rand(*shape, generator=random)
    gaussians = Gaussians(
        means=rand(count, 3) * 2 - 1,
        quats=torch.nn.functional.normalize(torch.randn(count, 4, generator=random), dim=-1),
        scales=rand(count, 3) * 0.05 + 1e-3,
        opacities=rand(count) * 0.98 + 0.01,
        colors=rand(count, 3),
    )
    parents = [-1, 0, 1, 1, 3]
    joints, translation = rand(5, 3).double(), rand(3).double()
    turns = axis_angle_to_matrix(torch.randn(5, 3, generator=random).double())
    T = torch.eye(4).double().repeat(5, 1, 1)  # joint frames in the pose
    for joint, parent in enumerate(parents):
        local = torch.eye(4).double()
        local[:3, :3] = turns[joint]
        local[:3, 3] = joints[joint] - joints[parent] if parent >= 0 else joints[joint] + translation
        T[joint] = T[parent] @ local if parent >= 0 else local
    back = torch.eye(4).double().repeat(5, 1, 1)
    back[:, :3, 3] = -joints
    weights = rand(count, 5) ** 3
    rig = Rig(
        names=[f"joint{k}" for k in range(5)],
        parents=parents,
        joints=joints.numpy(),
        weights=weights / weights.sum(1, keepdim=True),
        T_posed_rest=(T @ back).float(),
        quats=matrix_to_quat(turns).numpy(),
        translation=translation.numpy(),
    )
    return gaussians, rig


def test_splats_are_read_as_they_were_written(tmp_path: Path) -> None:
    gaussians, rig = chain()
    write_splats_glb(tmp_path / "a.glb", gaussians, rig)
    file = pygltflib.GLTF2().load(str(tmp_path / "a.glb"))
    assert file is not None
    primitive = file.meshes[0].primitives[0]
    assert file.extensionsUsed == ["KHR_gaussian_splatting"] and not file.extensionsRequired
    assert primitive.mode == pygltflib.POINTS
    assert primitive.extensions["KHR_gaussian_splatting"] == {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}
    found = {name: array(file, index) for name, index in vars(primitive.attributes).items() if index is not None}
    splat = lambda name: found[f"KHR_gaussian_splatting:{name}"]
    np.testing.assert_array_equal(found["POSITION"], gaussians.means)
    np.testing.assert_array_equal(splat("SCALE"), gaussians.scales)
    np.testing.assert_array_equal(splat("OPACITY")[:, 0], gaussians.opacities)
    np.testing.assert_allclose(splat("ROTATION")[:, [3, 0, 1, 2]], gaussians.quats, atol=1e-6)
    np.testing.assert_allclose(splat("SH_DEGREE_0_COEF_0") * SH_C0 + 0.5, gaussians.colors, atol=1e-6)
    bounds = file.accessors[primitive.attributes.POSITION]
    np.testing.assert_array_equal(bounds.min, found["POSITION"].min(0))
    np.testing.assert_array_equal(bounds.max, found["POSITION"].max(0))


def test_other_programs_see_coloured_points(tmp_path: Path) -> None:
    gaussians, _ = chain()
    write_splats_glb(tmp_path / "a.glb", gaussians)
    cloud = trimesh.load_scene(tmp_path / "a.glb").geometry["avatar"]
    np.testing.assert_allclose(cloud.vertices, gaussians.means)
    encoded = gaussians.colors.double().numpy()
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    file = pygltflib.GLTF2().load(str(tmp_path / "a.glb"))
    assert file is not None and not file.skins
    np.testing.assert_allclose(
        array(file, file.meshes[0].primitives[0].attributes.COLOR_0),
        np.concatenate([linear, gaussians.opacities[:, None]], 1),
        atol=1e-6,
    )


def skinned(file: pygltflib.GLTF2, turns: dict[str, np.ndarray]) -> np.ndarray:
    """The positions that glTF's skinning gives, with the rotations (3x3, in the parent's frame) of some joints added in
    front of their own (glTF 2.0, section 3.7.3.3)."""
    frames: dict[int, np.ndarray] = {}

    def place(number: int, above: np.ndarray) -> None:
        node = file.nodes[number]
        local = np.eye(4)
        x, y, z, w = node.rotation or (0, 0, 0, 1)
        local[:3, :3] = trimesh.transformations.quaternion_matrix([w, x, y, z])[:3, :3]
        local[:3, :3] = turns.get(node.name, np.eye(3)) @ local[:3, :3]
        local[:3, 3] = node.translation or (0, 0, 0)
        frames[number] = above @ local
        for child in node.children or []:
            place(child, frames[number])

    for root in file.scenes[0].nodes:
        place(root, np.eye(4))
    skin, attributes = file.skins[0], file.meshes[0].primitives[0].attributes
    inverse = array(file, skin.inverseBindMatrices).reshape(-1, 4, 4).transpose(0, 2, 1)
    moves = np.stack([frames[joint] for joint in skin.joints]) @ inverse
    weights, joints = array(file, attributes.WEIGHTS_0), array(file, attributes.JOINTS_0).astype(int)
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
    blended = (weights[..., None, None] * moves[joints]).sum(1)
    positions = np.pad(array(file, attributes.POSITION), ((0, 0), (0, 1)), constant_values=1)
    return (blended @ positions[..., None])[:, :3, 0]


def test_the_skeleton_stands_where_the_splats_stand_and_carries_them(tmp_path: Path) -> None:
    gaussians, rig = chain()
    only = torch.zeros(40, 5)
    only[torch.arange(40), torch.arange(40) % 5] = 1  # a rigid part for each joint
    for weights in (rig.weights, only):
        write_splats_glb(tmp_path / "a.glb", gaussians, Rig(**vars(rig) | {"weights": weights}))
        file = pygltflib.GLTF2().load(str(tmp_path / "a.glb"))
        assert file is not None and [file.nodes[joint].name for joint in file.skins[0].joints] == rig.names
        np.testing.assert_allclose(skinned(file, {}), gaussians.means, atol=1e-6)
    turn = axis_angle_to_matrix(torch.tensor([0.3, -0.5, 0.2]).double()).numpy()
    moved = skinned(file, {"joint1": turn})
    with_parent = np.isin(np.arange(40) % 5, [0])
    np.testing.assert_allclose(moved[with_parent], gaussians.means[with_parent], atol=1e-6)
    T = rig.T_posed_rest.double().numpy()
    centre = T[1, :3, :3] @ rig.joints[1] + T[1, :3, 3]
    above = T[0, :3, :3]
    expected = (gaussians.means.double().numpy() - centre) @ (above @ turn @ above.T).T + centre
    np.testing.assert_allclose(moved[~with_parent], expected[~with_parent], atol=1e-5)


def ball(subdivisions: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    sphere = trimesh.creation.icosphere(subdivisions=subdivisions, radius=0.2)
    return torch.tensor(sphere.vertices, dtype=torch.float32), torch.tensor(sphere.faces)


def colored(points: torch.Tensor) -> torch.Tensor:
    """A smooth colour for each place on the ball."""
    return 0.5 + 2.0 * points


@pytest.fixture(scope="module")
def mesh_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Skin, Rig]:
    vertices, faces = ball()
    splats, _ = ball(4)
    count = len(splats)
    skin = Skin(
        rest=vertices,
        posed=vertices + torch.tensor([0.0, 1.0, 0.0]),
        faces=faces,
        weights=torch.ones(len(vertices), 1),
        splats=Gaussians(
            means=splats,
            quats=torch.tensor([1.0, 0, 0, 0]).repeat(count, 1),
            scales=torch.full((count, 3), 0.006),
            opacities=torch.full((count,), 0.9),
            colors=colored(splats),
        ),
    )
    T = torch.eye(4)[None].clone()
    T[0, 1, 3] = 1.0
    identity = np.array([[1.0, 0, 0, 0]])
    rig = Rig(["ball"], [-1], np.zeros((1, 3)), torch.ones(count, 1), T, identity, np.array([0.0, 1.0, 0.0]))
    path = tmp_path_factory.mktemp("mesh") / "mesh.glb"
    write_mesh(path, skin, rig, 128)
    return path, skin, rig


def test_a_mesh_is_textured_with_the_colours_of_its_splats(mesh_file: tuple[Path, Skin, Rig]) -> None:
    path, skin, _ = mesh_file
    mesh = trimesh.load_scene(path).geometry["avatar"]
    assert isinstance(mesh, trimesh.Trimesh)
    assert mesh.area == pytest.approx(trimesh.Trimesh(skin.posed, skin.faces).area, rel=1e-4)
    assert trimesh.Trimesh(mesh.vertices, mesh.faces, process=True, merge_tex=True).is_watertight
    assert (np.einsum("fk,fk->f", mesh.face_normals, mesh.triangles_center - [0, 1, 0]) > 0).all(), "facing outwards"
    points, faces = trimesh.sample.sample_surface(mesh, 500, seed=0)
    barycentric = trimesh.triangles.points_to_barycentric(mesh.triangles[faces], points)
    uv = (barycentric[..., None] * mesh.visual.uv[mesh.faces[faces]]).sum(1)
    seen = mesh.visual.material.baseColorTexture.convert("RGB")
    width, height = seen.size
    pixels = np.asarray(seen)[((1 - uv[:, 1]) * height).astype(int), (uv[:, 0] * width).astype(int)] / 255
    expected = colored(torch.from_numpy(points - [0, 1, 0]))
    assert np.abs(pixels - expected.numpy()).mean() < 0.02
    assert np.abs(pixels - expected.numpy()).max() < 0.08


def test_a_mesh_is_rigged_and_shown_without_lighting(mesh_file: tuple[Path, Skin, Rig]) -> None:
    path, skin, _ = mesh_file
    file = pygltflib.GLTF2().load(str(path))
    assert file is not None and file.extensionsUsed == ["KHR_materials_unlit"]
    assert file.materials[0].extensions == {"KHR_materials_unlit": {}}
    view = file.bufferViews[file.images[0].bufferView]
    content = (file.binary_blob() or b"")[view.byteOffset : view.byteOffset + view.byteLength]
    assert Image.open(io.BytesIO(content)).size == (128, 128)
    np.testing.assert_allclose(skinned(file, {})[:, 1].mean(), skin.posed[:, 1].mean(), atol=0.02)


def test_the_outer_splats_colour_a_point() -> None:
    """Red under the surface, half transparent blue above it, green far away."""
    gaussians = Gaussians(
        means=torch.tensor([[0.0, 0, -0.005], [0, 0, 0.005], [0, 0, 1.0]]),
        quats=torch.tensor([1.0, 0, 0, 0]).repeat(3, 1),
        scales=torch.full((3, 3), 0.01),
        opacities=torch.tensor([1.0, 0.5, 1.0]),
        colors=torch.eye(3)[[0, 2, 1]],
    )
    up = torch.tensor([[0.0, 0, 1]])
    found = shown_colors(torch.zeros(1, 3), up, gaussians)
    np.testing.assert_allclose(found, [[0.5, 0, 0.5]], atol=1e-6)
    np.testing.assert_allclose(shown_colors(torch.zeros(1, 3), -up, gaussians), [[1.0, 0, 0]], atol=1e-6)
