"""Binary glTF: splats by ``KHR_gaussian_splatting``, meshes with a texture, and the skeleton of both.

glTF's frame is the program's world: +y up, facing +z, metres. Quaternions are xyzw in glTF.
(glTF 2.0 specification; KHR_gaussian_splatting, release candidate of 2026: linear scales, activated opacities.)
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from avatar_gs.core.io import atomic_write
from avatar_gs.types import SH_C0, Gaussians
from avatar_gs.viewer.rig import JOINTS_A_SPLAT, Rig

_SPLATS = "KHR_gaussian_splatting"
_UNLIT = "KHR_materials_unlit"
_COMPONENTS = {"u1": 5121, "u2": 5123, "u4": 5125, "f4": 5126}
_SHAPES = {(): "SCALAR", (2,): "VEC2", (3,): "VEC3", (4,): "VEC4", (4, 4): "MAT4"}
_POINTS, _LINEAR, _CLAMP = 0, 9729, 33071
_LINEAR_MIPMAPS = 9987
_VERTICES, _INDICES = 34962, 34963


def write_splats_glb(path: str | Path, gaussians: Gaussians, rig: Rig | None = None) -> None:
    """Write splats as points with the attributes of ``KHR_gaussian_splatting``.

    Programs without the extension show coloured points. Skeleton and weights do not change how the splats stand: the
    bind pose is the pose that they are in.

    Args:
        path: the file.
        gaussians: finite splats (see ``writer.clean_splats``) in the world frame.
        rig: their skeleton and skinning weights.

    Raises:
        OSError: if the file cannot be written.
    """
    scene = _Scene()
    colors = gaussians.colors.detach().clamp(0, 1)
    linear = torch.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)  # sRGB's inverse
    quats = torch.nn.functional.normalize(gaussians.quats.detach().double(), dim=-1)
    attributes = {
        "POSITION": scene.add(_numbers(gaussians.means), bounds=True),
        "COLOR_0": scene.add(_numbers(torch.cat([linear, gaussians.opacities.detach()[:, None]], -1).clamp(0, 1))),
        f"{_SPLATS}:ROTATION": scene.add(_numbers(quats[:, [1, 2, 3, 0]])),
        f"{_SPLATS}:SCALE": scene.add(_numbers(gaussians.scales)),
        f"{_SPLATS}:OPACITY": scene.add(_numbers(gaussians.opacities.clamp(0, 1))),
        f"{_SPLATS}:SH_DEGREE_0_COEF_0": scene.add(_numbers((gaussians.colors - 0.5) / SH_C0)),
    }
    extension = {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}
    primitive = {"attributes": attributes, "mode": _POINTS, "extensions": {_SPLATS: extension}}
    scene.write(path, primitive, rig, [_SPLATS])


def write_mesh_glb(
    path: str | Path,
    vertices: Float[np.ndarray, "V 3"],
    faces: Int[np.ndarray, "F 3"],
    uv: Float[np.ndarray, "V 2"],
    texture_png: bytes,
    rig: Rig,
) -> None:
    """Write a rigged mesh whose texture is shown as it is, without lighting.

    Args:
        path: the file.
        vertices: in the pose of ``rig``, metres.
        faces: counter-clockwise from outside.
        uv: texture coordinates, (0, 0) at the texture's upper left.
        texture_png: the texture.
        rig: the skeleton; its weights are the vertices'.

    Raises:
        OSError: if the file cannot be written.
    """
    scene = _Scene()
    attributes = {
        "POSITION": scene.add(vertices.astype(np.float32), bounds=True),
        "TEXCOORD_0": scene.add(uv.astype(np.float32)),
    }
    scene.json["images"] = [{"bufferView": scene.view(texture_png), "mimeType": "image/png"}]
    scene.json["samplers"] = [{"magFilter": _LINEAR, "minFilter": _LINEAR_MIPMAPS, "wrapS": _CLAMP, "wrapT": _CLAMP}]
    scene.json["textures"] = [{"source": 0, "sampler": 0}]
    surface = {"baseColorTexture": {"index": 0}, "metallicFactor": 0.0, "roughnessFactor": 1.0}
    scene.json["materials"] = [{"name": "avatar", "pbrMetallicRoughness": surface, "extensions": {_UNLIT: {}}}]
    primitive = {"attributes": attributes, "indices": scene.add(faces.astype(np.uint32).reshape(-1)), "material": 0}
    scene.write(path, primitive, rig, [_UNLIT])


def _numbers(values: Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy()


class _Scene:
    """A scene with one object, and the bytes of its arrays."""

    def __init__(self) -> None:
        self.json: dict[str, Any] = {"asset": {"version": "2.0", "generator": "avatar_gs"}, "scene": 0}
        self.json |= {"accessors": [], "bufferViews": []}
        self.data = bytearray()

    def view(self, content: bytes) -> int:
        """Append bytes; the number of their view."""
        self.json["bufferViews"].append({"buffer": 0, "byteOffset": len(self.data), "byteLength": len(content)})
        self.data += content + bytes(-len(content) % 4)
        return len(self.json["bufferViews"]) - 1

    def add(self, array: np.ndarray, *, bounds: bool = False) -> int:
        """Append an array, of which the first axis counts; the number of its accessor."""
        code = array.dtype.str[1:]
        accessor = {
            "bufferView": self.view(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()),
            "componentType": _COMPONENTS[code],
            "count": len(array),
            "type": _SHAPES[array.shape[1:]],
        }
        if bounds:
            accessor |= {"min": array.min(0).tolist(), "max": array.max(0).tolist()}
        self.json["accessors"].append(accessor)
        return len(self.json["accessors"]) - 1

    def write(self, path: str | Path, primitive: dict[str, Any], rig: Rig | None, extensions: Sequence[str]) -> None:
        """Write the file: the object, and with a rig its skeleton, as two trees of the scene."""
        thing: dict[str, Any] = {"name": "avatar", "mesh": 0}
        nodes, roots = [thing], [0]
        if rig is not None:
            joints, weights = _four_weights(rig.weights)
            primitive["attributes"] |= {"JOINTS_0": self.add(joints), "WEIGHTS_0": self.add(weights)}
            bones = _bones(rig, first=1)
            nodes += bones
            roots.append(1 + list(rig.parents).index(-1))
            thing["skin"] = 0
            numbers = list(range(1, len(nodes)))
            self.json["skins"] = [
                {"joints": numbers, "skeleton": roots[1], "inverseBindMatrices": self.add(_inverse_binds(rig))}
            ]
        buffers = dict.fromkeys(primitive["attributes"].values(), _VERTICES)
        buffers |= {primitive["indices"]: _INDICES} if "indices" in primitive else {}
        for accessor, target in buffers.items():
            self.json["bufferViews"][self.json["accessors"][accessor]["bufferView"]]["target"] = target
        self.json |= {
            "extensionsUsed": list(extensions),
            "scenes": [{"nodes": roots}],
            "nodes": nodes,
            "meshes": [{"name": "avatar", "primitives": [primitive]}],
            "buffers": [{"byteLength": len(self.data)}],
        }
        with atomic_write(path) as temporary:
            temporary.write_bytes(_container(self.json, bytes(self.data)))


def _container(description: dict[str, Any], data: bytes) -> bytes:
    """The GLB file: a header, the JSON chunk and the binary chunk (glTF 2.0, section 4.4)."""
    text = json.dumps(description, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    chunks = [(b"JSON", text), (b"BIN\0", data)]
    body = b"".join(len(content).to_bytes(4, "little") + name + content for name, content in chunks)
    return b"glTF" + (2).to_bytes(4, "little") + (12 + len(body)).to_bytes(4, "little") + body


def _four_weights(weights: Float[Tensor, "N J"]) -> tuple[np.ndarray, np.ndarray]:
    """The joints with the largest weights (uint8, joints of weight 0 are joint 0) and these weights, of sum 1."""
    padded = torch.nn.functional.pad(weights.detach().cpu().double(), (0, max(0, JOINTS_A_SPLAT - weights.shape[1])))
    values, joints = padded.topk(JOINTS_A_SPLAT, dim=1)
    values = (values / values.sum(1, keepdim=True)).float()
    return torch.where(values > 0, joints, 0).numpy().astype(np.uint8), values.numpy()


def _bones(rig: Rig, first: int) -> list[dict[str, Any]]:
    """The joints as nodes in the rig's pose; ``first`` is the number of the first one."""
    bones = []
    for index, (name, parent) in enumerate(zip(rig.names, rig.parents, strict=True)):
        offset = rig.joints[index] - rig.joints[parent] if parent >= 0 else rig.joints[index] + rig.translation
        bone: dict[str, Any] = {"name": name, "translation": offset.tolist()}
        bone["rotation"] = rig.quats[index][[1, 2, 3, 0]].tolist()
        children = [first + child for child, above in enumerate(rig.parents) if above == index]
        bones.append(bone | ({"children": children} if children else {}))
    return bones


def _inverse_binds(rig: Rig) -> Float[np.ndarray, "J 4 4"]:
    """From the pose to each joint's frame there, column-major as in glTF."""
    places = np.tile(np.eye(4), (len(rig.joints), 1, 1))
    places[:, :3, 3] = rig.joints
    inverse = np.linalg.inv(rig.T_posed_rest.detach().cpu().double().numpy() @ places)
    return inverse.transpose(0, 2, 1).astype(np.float32)
