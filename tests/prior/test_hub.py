"""Downloads from a hub on this machine: what is chosen, resuming, and every failure in one line."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# (the annotations in diffusers are narrower than what it takes and returns)

import hashlib
import http.server
import json
import pickle
import shutil
import threading
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny, ControlNetModel
from huggingface_hub import constants
from safetensors.torch import load_file

from avatar_gs.core.errors import UserError
from avatar_gs.prior.config import Encoder, Prediction, PriorConfig
from avatar_gs.prior.loading import hub as module
from avatar_gs.prior.loading import hub_client
from avatar_gs.prior.loading.components import load_component
from avatar_gs.prior.loading.hub import fetch
from avatar_gs.prior.loading.sources import Source, _hub_answers
from avatar_gs.prior.stable_diffusion import load_prior
from avatar_gs.prior.two_text_encoders import TwoTextEncoders
from tests import tiny
from tests.prior.loading import error_of

BASE, POSE, TINY = "someone/base", "someone/pose", "someone/tiny"
COMMIT = "0" * 40


class Hub(http.server.BaseHTTPRequestHandler):
    """Serves the folders ``root/<owner>/<name>`` as the hub does; ``cut`` files end after so many bytes, once."""

    root: Path
    cut: dict[str, int]
    gated: set[str]
    asked: list[tuple[str, str]]

    def do_HEAD(self):
        self.answer(head=True)

    def do_GET(self):
        self.answer(head=False)

    def answer(self, head):
        path = self.path.partition("?")[0].strip("/")
        if path.startswith("api/models/"):
            self.info("/".join(path.split("/")[2:4]))
            return
        owner, name, resolve, _, *rest = [*path.split("/"), "", "", "", ""][:99]
        file = self.root / owner / name / "/".join(part for part in rest if part)
        if f"{owner}/{name}" in self.gated:
            self.refuse(403, "GatedRepo")
            return
        if resolve != "resolve" or not file.is_file():
            self.refuse(404, "EntryNotFound")
            return
        content = file.read_bytes()
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        type(self).asked.append((file.relative_to(self.root).as_posix(), "head" if head else f"get {start}"))
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("Accept-Ranges", "bytes")
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if not head:
            end = self.cut.pop(file.name, None) if start == 0 else None
            self.wfile.write(content[start:end])
            if end is not None:
                self.connection.close()

    def info(self, name):
        folder = self.root / name
        if name in self.gated:
            self.refuse(403, "GatedRepo")
            return
        if not folder.is_dir():
            self.refuse(404, "RepoNotFound")
            return
        files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
        entries = [{"rfilename": f.relative_to(folder).as_posix(), "size": f.stat().st_size} for f in files]
        body = json.dumps({"id": name, "sha": COMMIT, "siblings": entries}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def refuse(self, code, reason):
        self.send_response(code)
        self.send_header("X-Error-Code", reason)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub(original, tmp_path, monkeypatch):
    """A running hub with a prior, other files, and a ControlNet; the cache is empty."""
    root = tmp_path / "hub"
    base = shutil.copytree(original, root / BASE)
    shutil.move(base / "controlnet", root / POSE)
    for name in ("model.ckpt", "model.safetensors", "README.md", "unet/diffusion_pytorch_model.bin"):
        (base / name).write_bytes(b"x" * 1000)
    shutil.copy(base / "unet" / "diffusion_pytorch_model.safetensors", base / "unet" / "x.fp16.safetensors")
    handler = type("Handler", (Hub,), {"root": root, "cut": {}, "gated": set(), "asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", constants.ENDPOINT + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    _hub_answers.cache_clear()
    yield handler
    server.shutdown()
    server.server_close()
    _hub_answers.cache_clear()


def config(**more):
    return PriorConfig(**{"name": "custom", "path": BASE, "controlnet": POSE, **more})


def cached(tmp_path, name):
    folder = tmp_path / "cache" / f"models--{name.replace('/', '--')}" / "snapshots" / COMMIT
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def refuses(*words, **more):
    error_of(lambda: fetch(config(**more)), *words)


def test_only_what_is_loaded_is_fetched_and_then_needs_no_network(hub, original, tmp_path, monkeypatch):
    count = fetch(config())
    files = cached(tmp_path, BASE)
    assert {"unet/config.json", "unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"} <= files
    assert "scheduler/scheduler_config.json" in files and any(file.startswith("tokenizer/") for file in files)
    assert not any(file.endswith((".bin", ".ckpt", ".md", "fp16.safetensors")) for file in files)
    assert "model.safetensors" not in files
    assert cached(tmp_path, POSE) == {"config.json", "diffusion_pytorch_model.safetensors"}
    assert count == len(files) + 2
    hub.asked.clear()
    assert fetch(config()) == 0 and hub.asked == []

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    _hub_answers.cache_clear()
    monkeypatch.setenv("HF_HUB_CACHE", constants.HF_HUB_CACHE)
    prior = load_prior(config())
    expected = tiny.parts(tmp_path / "again")["unet"].state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in prior.unet.state_dict().items())


def test_the_second_text_encoder_of_sdxl_is_fetched(hub, tmp_path, monkeypatch):
    shutil.rmtree(hub.root / BASE)
    shutil.rmtree(hub.root / POSE)
    base = tiny.save_prior(hub.root / BASE, "sdxl")
    shutil.move(base / "controlnet", hub.root / POSE)
    monkeypatch.setenv("HF_HUB_CACHE", constants.HF_HUB_CACHE)
    prior = load_prior(config(prediction=Prediction.epsilon))
    files = cached(tmp_path, BASE)
    assert {"text_encoder_2/model.safetensors", "text_encoder_2/config.json", "tokenizer_2/vocab.json"} <= files
    assert isinstance(prior.prompt_encoder, TwoTextEncoders)


def test_the_tiny_encoder_is_fetched_where_it_is_set(hub, tmp_path, monkeypatch):
    two = (4, 4)
    made = AutoencoderTiny(
        encoder_block_out_channels=two,
        num_encoder_blocks=(1, 1),
        decoder_block_out_channels=two,
        num_decoder_blocks=(1, 1),
    )
    made.save_pretrained(hub.root / TINY)
    (hub.root / TINY / "diffusion_pytorch_model.bin").write_bytes(b"x" * 1000)
    fetch(config(tiny_encoder=TINY))
    assert not cached(tmp_path, TINY), "prior.encoder=vae does not use it"
    assert fetch(config(tiny_encoder=TINY, encoder=Encoder.tiny)) == 2
    assert cached(tmp_path, TINY) == {"config.json", "diffusion_pytorch_model.safetensors"}
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    _hub_answers.cache_clear()
    monkeypatch.setenv("HF_HUB_CACHE", constants.HF_HUB_CACHE)
    prior = load_prior(config(tiny_encoder=TINY, encoder=Encoder.tiny))
    found = prior.codec.tiny_encoder.networks[0].state_dict()
    assert all(torch.equal(value, found[key]) for key, value in made.encoder.state_dict().items())


def test_an_interrupted_download_resumes(hub, tmp_path, monkeypatch):
    weights = f"{POSE}/diffusion_pytorch_model.safetensors"
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 512)
    hub.cut[Path(weights).name] = 1024  # of the first such file that is asked for
    fetch(config())
    assert sum(how == "get 1024" for _, how in hub.asked) == 1, "resumed, not started again"
    (file,) = (tmp_path / "cache").glob("models--someone--pose/snapshots/*/*.safetensors")
    assert file.read_bytes() == (hub.root / weights).read_bytes()


def test_another_process_resumes_a_download(hub, tmp_path, monkeypatch, caplog):
    """Ctrl-C in the middle of the ControlNet's weights, which the next command fetches the rest of."""
    weights = hub.root / POSE / "diffusion_pytorch_model.safetensors"
    whole = hub_client.append

    def interrupted(url, target, *others):
        if POSE not in url or not url.endswith(".safetensors"):
            return whole(url, target, *others)
        target.write(weights.read_bytes()[:1024])
        raise KeyboardInterrupt

    monkeypatch.setattr(hub_client, "append", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch(config())
    monkeypatch.setattr(hub_client, "append", whole)
    hub.asked.clear()
    with caplog.at_level("INFO"):
        fetch(config())
    assert (f"{POSE}/{weights.name}", "get 1024") in hub.asked and "going on after" in caplog.text
    (file,) = (tmp_path / "cache").glob("models--someone--pose/snapshots/*/*.safetensors")
    assert file.read_bytes() == weights.read_bytes()
    assert not list((tmp_path / "cache").rglob(f"*{module.PART}"))


def test_a_damaged_download_is_removed_and_fetched_again(hub, tmp_path):
    weights = hub.root / POSE / "diffusion_pytorch_model.safetensors"
    blob = tmp_path / "cache" / "models--someone--pose" / "blobs" / hashlib.sha256(weights.read_bytes()).hexdigest()
    blob.parent.mkdir(parents=True)
    part = blob.with_name(f"{blob.name}{module.PART}")
    part.write_bytes(b"x" * 1024)
    refuses("damaged", "the same command fetches it again")
    part.write_bytes(b"x" * (weights.stat().st_size + 1))
    fetch(config())
    assert blob.read_bytes() == weights.read_bytes()


def test_half_precision_files_are_used_if_there_are_no_others(hub, tmp_path, monkeypatch):
    weights = hub.root / BASE / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    fetch(config())
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in cached(tmp_path, BASE)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_CACHE", constants.HF_HUB_CACHE)
    _hub_answers.cache_clear()
    assert load_prior(config()).image_size == tiny.IMAGE_SIZE


def pickled(hub, name, stem="diffusion_pytorch_model"):
    """The hub has this model's weights as a pickle only; returns them."""
    (file,) = (hub.root / name).glob("*.safetensors")
    weights = load_file(file)
    file.unlink()
    torch.save(weights, file.with_name(f"{stem}.bin"))
    return weights


def test_weights_that_are_pickled_only_are_converted_by_fetching(hub, tmp_path, monkeypatch, caplog):
    weights = {POSE: pickled(hub, POSE), "text": pickled(hub, f"{BASE}/text_encoder", "pytorch_model")}
    with caplog.at_level("INFO"):
        fetch(config())
    assert caplog.text.count("read as plain tensors") == 2
    assert "diffusion_pytorch_model.bin" in cached(tmp_path, POSE)
    (copy,) = (tmp_path / "cache" / "models--someone--pose" / "avatar_gs").glob("*/diffusion_pytorch_model.safetensors")
    time = copy.stat().st_mtime_ns
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_CACHE", constants.HF_HUB_CACHE)
    _hub_answers.cache_clear()
    prior = load_prior(config())
    found = prior.controlnet.state_dict()
    assert all(torch.equal(found[key], value) for key, value in weights[POSE].items())
    found = {key.removeprefix("text_model."): value for key, value in prior.text_encoder.state_dict().items()}
    assert all(torch.equal(found[key.removeprefix("text_model.")], value) for key, value in weights["text"].items())
    assert copy.stat().st_mtime_ns == time


def test_loading_fetches_what_is_not_here_and_converts_it(hub, tmp_path, monkeypatch):
    weights = pickled(hub, POSE)
    monkeypatch.setenv("HF_HUB_CACHE", constants.HF_HUB_CACHE)
    found = load_prior(config()).controlnet.state_dict()
    assert all(torch.equal(found[key], value) for key, value in weights.items())
    assert not any(file.endswith((".ckpt", ".md")) for file in cached(tmp_path, BASE))


def test_a_fetched_pickle_that_is_a_program_is_refused(hub):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was executed",))

    pickled(hub, POSE)
    (hub.root / POSE / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    refuses("diffusion_pytorch_model.bin", "could run a program", "plain tensors only")


@pytest.mark.parametrize("address", ["", "hf-mirror.com", "localhost:8080"])
def test_an_endpoint_that_is_no_address(monkeypatch, address):
    monkeypatch.setattr(constants, "ENDPOINT", address)
    _hub_answers.cache_clear()
    refuses("HF_ENDPOINT=", "https://")
    with pytest.raises(UserError, match="HF_ENDPOINT="):
        load_prior(config())


def test_every_failure_is_one_line(hub, original, monkeypatch):
    refuses("prior.path=someone/nothing", "no such model", "private", path="someone/nothing")
    hub.gated.add("someone/gated")
    refuses("prior.controlnet=someone/gated", "gated", "accept its terms", "HF_TOKEN", controlnet="someone/gated")
    refuses("no controlnet/config.json", "prior.controlnet=", controlnet="")
    (hub.root / POSE / "diffusion_pytorch_model.safetensors").rename(hub.root / POSE / "flax_model.msgpack")
    refuses("prior.controlnet=someone/pose: no weights in it", "diffusion_pytorch_model.bin")
    refuses("no hub name", path="/nowhere/at/all")
    refuses("nothing to fetch", path=str(original), controlnet="")


def test_loading_reports_a_gated_model(hub):
    hub.gated.add(POSE)
    source = Source(POSE, "", is_local=False)
    with pytest.raises(
        UserError, match=r"controlnet from someone/pose \(this model is gated: accept its terms on http"
    ):
        load_component(ControlNetModel, source, "controlnet", torch.float32)


def test_no_room_and_no_network(hub, monkeypatch):
    monkeypatch.setattr(module, "SPARE", 1 << 60)
    refuses("are free", "HF_HOME")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    refuses("cannot be reached", "HF_ENDPOINT")
