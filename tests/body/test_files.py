"""Body files: the free one, SMPL-X's with its pickled members, and all that is wrong with other files."""

import io
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from avatar_gs.body import files
from avatar_gs.body.config import BodyConfig
from avatar_gs.body.files import FREE_BODY, checked_body, find_body, read_arrays
from avatar_gs.body.model import Body, load_body
from avatar_gs.body.pose import JOINT, PARENTS, pose_of
from avatar_gs.core.errors import UserError

SMPLX_VERTICES = 10475


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def smplx_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A body laid out as the published SMPL-X v1.1: its sizes, float64, unsigned tree, pickled members."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    random = np.random.default_rng(0)
    V = SMPLX_VERTICES
    weights = np.zeros((V, 55))
    weights[np.arange(V), random.integers(0, 55, V)] = 1.0
    regressor = random.random((55, V))
    posedirs = np.zeros((V, 3, 486))
    posedirs[:5] = 0.01
    np.savez(
        tmp_path / "SMPLX_FEMALE.npz",
        v_template=random.uniform(-0.5, 0.5, (V, 3)) * (1.8, 1.7, 0.4),
        f=random.integers(0, V, (20908, 3)).astype(np.uint32),
        shapedirs=np.zeros((V, 3, 400), dtype=np.float32),
        posedirs=posedirs.astype(np.float32),
        J_regressor=regressor / regressor.sum(1, keepdims=True),
        weights=weights,
        kintree_table=np.stack([np.array(PARENTS), np.arange(55)]).astype(np.uint32),
        lmk_faces_idx=random.integers(0, 20908, 51),
        lmk_bary_coords=np.full((51, 3), 1 / 3),
        dynamic_lmk_faces_idx=random.integers(0, 20908, (79, 17)),
        dynamic_lmk_bary_coords=np.full((79, 17, 3), 1 / 3),
        hands_componentsl=np.eye(45),
        hands_componentsr=np.eye(45),
        hands_meanl=np.zeros(45),
        hands_meanr=np.zeros(45),
        joint2num=np.array({"Pelvis": 0}, dtype=object),
        part2num=np.array(Bomb(tmp_path / "exploded"), dtype=object),
    )
    return tmp_path / "SMPLX_FEMALE.npz"


def test_published_smplx_is_loaded_from_a_clean_copy(smplx_file: Path, tmp_path: Path) -> None:
    clean = checked_body(smplx_file)
    assert clean.is_relative_to(tmp_path / "cache")
    with np.load(clean, allow_pickle=False) as archive:
        assert set(archive.files) == set(files.LAYOUT)
        assert all(not archive[name].dtype.hasobject for name in archive.files)
    written = clean.stat().st_mtime_ns
    body = load_body(BodyConfig(path=str(smplx_file)))
    assert clean.stat().st_mtime_ns == written  # made once
    assert body.name == "smplx"
    assert body.path == smplx_file
    assert body.template.shape == (SMPLX_VERTICES, 3)
    assert body.parents.tolist() == list(PARENTS)
    assert not (tmp_path / "exploded").exists()
    # SMPL-X's pose-dependent offsets are there
    assert body.pose_directions is not None
    bent = pose_of(left_elbow=(0.0, -1.0, 0.0))
    stiff = Body(**{**{k: v for k, v in vars(body).items() if k != "parents_list"}, "pose_directions": None})
    difference = (body.pose(bent).vertices - stiff.pose(bent).vertices).norm(dim=1)
    assert difference[:5].min() > 1e-3
    assert difference[5:].max() == 0


def test_an_unchecked_pickle_would_be_executed(smplx_file: Path, tmp_path: Path) -> None:
    with np.load(smplx_file, allow_pickle=True) as archive:
        archive["part2num"]
    assert (tmp_path / "exploded").exists()


def test_a_cache_that_cannot_be_written_is_named(
    smplx_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match="XDG_CACHE_HOME"):
        checked_body(smplx_file)


def test_the_free_body_is_loaded_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert checked_body(FREE_BODY) == FREE_BODY
    body = load_body(BodyConfig(path=str(FREE_BODY)))
    assert body.name == "free"
    assert body.pose_directions is None
    assert body.template.dtype == torch.float32
    assert FREE_BODY.stat().st_size < 1.4e6
    assert capsys.readouterr().out == ""  # smplx's warnings are about its own files


def test_a_licensed_body_is_taken_when_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "BODY_MODELS", tmp_path / "elsewhere" / "body_models")
    monkeypatch.chdir(tmp_path)
    assert find_body(None) == FREE_BODY
    licensed = tmp_path / "body_models" / "smplx" / "SMPLX_NEUTRAL.npz"
    licensed.parent.mkdir(parents=True)
    shutil.copy(FREE_BODY, licensed)
    assert find_body(None) == licensed
    assert find_body(str(FREE_BODY)) == FREE_BODY


def one_line(error: pytest.ExceptionInfo[UserError], *words: str) -> None:
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text, (word, text)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load_body(BodyConfig(path=str(tmp_path / "none.npz")))
    one_line(error, "body.path", "none.npz", "no such file")


def test_a_missing_free_body_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "FREE_BODY", tmp_path / "SMPLX_NEUTRAL.npz")
    monkeypatch.setattr(files, "BODY_MODELS", tmp_path / "body_models")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        find_body(None)
    one_line(error, "SMPLX_NEUTRAL.npz", "stage=body")


@pytest.mark.parametrize("keep", [0, 10, 700_000, -1])
def test_a_truncated_file_is_named(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "SMPLX_NEUTRAL.npz"
    path.write_bytes(FREE_BODY.read_bytes()[:keep])
    with pytest.raises(UserError) as error:
        load_body(BodyConfig(path=str(path)))
    one_line(error, "SMPLX_NEUTRAL.npz", "damaged or truncated")


@pytest.mark.parametrize("name", ["SMPLX_NEUTRAL.npz", "renamed.npz"])
def test_flipped_bytes_are_noticed(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = bytearray(FREE_BODY.read_bytes())
    data[60_000:60_040] = bytes(40)
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(UserError) as error:
        load_body(BodyConfig(path=str(path)))
    one_line(error, name, "damaged or truncated")


@pytest.mark.parametrize("key", ["path", "output"])
def test_a_pkl_body_is_refused(key: str) -> None:
    with pytest.raises(UserError) as error:
        BodyConfig(**{key: "SMPLX_NEUTRAL.pkl"})  # pyright: ignore[reportArgumentType]
    one_line(error, f"body.{key}=SMPLX_NEUTRAL.pkl", ".npz", "never loaded")


def test_a_pickle_named_npz_is_refused(tmp_path: Path) -> None:
    import pickle

    path = tmp_path / "SMPLX_NEUTRAL.npz"
    path.write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    with pytest.raises(UserError):
        load_body(BodyConfig(path=str(path)))
    assert not (tmp_path / "exploded").exists()


def changed(tmp_path: Path, **arrays: np.ndarray | None) -> BodyConfig:
    """The free body with arrays replaced, or taken out."""
    everything = read_arrays(FREE_BODY) | arrays
    path = tmp_path / "SMPLX_NEUTRAL.npz"
    kept = {name: array for name, array in everything.items() if array is not None}
    np.savez(path, **kept)  # pyright: ignore[reportArgumentType]
    return BodyConfig(path=str(path))


def with_value(array: np.ndarray, value: float) -> np.ndarray:
    """A copy whose first number is another."""
    changed = array.copy()
    changed.flat[0] = value
    return changed


def test_arrays_of_gigabytes_are_refused_by_their_headers(tmp_path: Path) -> None:
    """Zeros compress a thousandfold: a small file may claim more than the memory holds."""
    path = tmp_path / "SMPLX_NEUTRAL.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name, shape in files.LAYOUT.items():
            numbers = {"V": 500_000, "F": 10, "S": 20, "H": 45}
            sizes = tuple(numbers[size] if isinstance(size, str) else size for size in shape)
            header = io.BytesIO()
            fields = {"descr": "<f4", "fortran_order": False, "shape": sizes}
            np.lib.format.write_array_header_1_0(header, fields)
            archive.writestr(f"{name}.npy", header.getvalue())
    with pytest.raises(UserError) as error:
        load_body(BodyConfig(path=str(path)))
    one_line(error, "GiB", "SMPLX_NEUTRAL.npz")


def test_wrong_arrays_are_named(tmp_path: Path) -> None:
    free = read_arrays(FREE_BODY)
    ids = free["f"].copy()
    ids[0, 0] = 99999
    tree = free["kintree_table"].copy()
    tree[0, 5] = 1
    holes = free["v_template"].copy()
    holes[7, 1] = np.nan
    wrong = {
        "'weights' is missing": {"weights": None},
        "'weights' is float32 13718×24, expected numbers 13718×55": {"weights": free["weights"][:, :24]},
        "'J_regressor' is float32 55×100, expected numbers 55×13718": {"J_regressor": free["J_regressor"][:, :100]},
        "'v_template' is <U3 2, expected numbers V×3": {"v_template": np.array(["no", "yes"])},
        "'posedirs' is float32 13718×3×207, expected numbers 13718×3×486": {"posedirs": free["posedirs"][..., :207]},
        "f: triangles of vertices": {"f": ids},
        "kintree_table": {"kintree_table": tree},
        "do not sum to 1": {"weights": free["weights"] * 0.5},
        "v_template: 1 numbers that are not finite": {"v_template": holes},
        "J_regressor: 1 numbers that are not finite": {"J_regressor": with_value(free["J_regressor"], np.nan)},
        "shapedirs: 1 numbers that are not finite": {"shapedirs": with_value(free["shapedirs"], np.inf)},
        "divide by 100": {"v_template": 100 * free["v_template"], "shapedirs": 100 * free["shapedirs"]},
        "joints outside of the body": {"J_regressor": 3 * free["J_regressor"]},
        "triangles without area": {"f": np.zeros_like(free["f"])},
        "lmk_faces_idx": {"lmk_faces_idx": free["lmk_faces_idx"] + 40000},
    }
    for words, arrays in wrong.items():
        with pytest.raises(UserError) as error:
            load_body(changed(tmp_path, **arrays))
        one_line(error, words, "SMPLX_NEUTRAL.npz")


def test_too_many_or_extreme_betas_are_refused() -> None:
    with pytest.raises(UserError) as error:
        load_body(BodyConfig(path=str(FREE_BODY), betas=[0.0] * 11))
    one_line(error, "body.betas", "11", "10")
    for value in (float("nan"), 50.0):
        with pytest.raises(UserError, match=r"body\.betas"):
            BodyConfig(betas=[value])


def test_joint_names_are_smplx_names() -> None:
    from smplx.joint_names import JOINT_NAMES

    assert [name.removesuffix("_smplhf") for name in JOINT_NAMES[:55]] == list(JOINT)


def test_fixed_vertices_are_in_the_order_of_smplx() -> None:
    from smplx.joint_names import JOINT_NAMES

    from avatar_gs.body.model import EXTRA_POINTS

    assert tuple(JOINT_NAMES[55:76]) == EXTRA_POINTS
