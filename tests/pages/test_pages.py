"""The page of a run and the gallery as files: what they hold, whatever the runs' folders hold."""

import json
import multiprocessing
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from PIL import Image

from avatar_gs.core.errors import UserError
from avatar_gs.pages.charts import chart
from avatar_gs.pages.gallery import axes_of
from avatar_gs.pages.run import State, find_runs, read_run
from avatar_gs.pages.write import write_gallery, write_pages
from avatar_gs.training.config import OptimizeConfig
from avatar_gs.viewer.html import csp_hash
from tests.pages.conftest import FRAMES, MakeRun, optimized

VOID = {"meta", "img", "input", "link", "br", "source", "path", "polyline"}
HOSTILE = [
    "</script><script>alert(1)</script>",
    "</title></style><img src=x onerror=alert(1)>",
    "\" onload='alert(1)' x=`{{script}} {{style}} \\1 &amp; <!--",
    "\u202eright to left\u0000\u0007 رجل 日本語 🧍\u200d♀️ ]]>",
]


class Page(HTMLParser):
    """The tags and texts that a browser would make of a page; fails where elements are not closed in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["script"], ["style"]):
            self.text += data

    def all(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        return [found for name, found in self.tags if name == tag and attributes.items() <= found.items()]

    def addresses(self) -> list[str]:
        return [str(found[key]) for _, found in self.tags for key in ("src", "href", "srcset", "data") if key in found]


def test_the_page_of_a_run_says_what_it_is_and_how_to_make_it_again(make_run: MakeRun, outputs: Path, figure) -> None:
    folder = make_run("people/anna", prompt="a woman in green", seed=3, splats=figure)
    page = Page(folder / "index.html")
    for words in (
        "anna",
        "a woman in green",
        "seed 3",
        "5,000",
        "2.00 GiB (host)",
        "step 100",
        "step 200",
        "overwrite=true",
    ):
        assert words in page.text
    assert "avatar-gs 'prompt=a woman in green' name=people/anna seed=3" in page.text
    assert "prompt: a woman in green" in page.text, "all settings"
    assert [frame["src"] for frame in page.all("iframe")] == ["avatar.html#title=0"]
    assert page.all("a", href="../../index.html")
    assert len(page.all("svg")) == 2
    assert Page(outputs / "index.html").all("a", href="people/anna/index.html")


def test_pages_name_only_files_that_exist_and_no_host(make_run: MakeRun, outputs: Path, figure) -> None:
    folder = make_run("a b#1?%é", splats=figure)
    (folder / "motions").mkdir()
    (folder / "motions" / "walk & wave.mp4").write_bytes(b"")
    write_pages(folder, outputs)
    for path in (folder / "index.html", outputs / "index.html"):
        page = Page(path)
        assert page.addresses()
        for address in page.addresses():
            assert (path.parent / unquote(address.split("#")[0])).exists(), address
        assert not re.search(r"https?:|url\(|@import|fetch\(", path.read_text(encoding="utf-8"))
        policy = page.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
        assert policy and policy.startswith("default-src 'none'") and "unsafe" not in policy and "http" not in policy
        text = path.read_text(encoding="utf-8")
        for tag in ("script", "style"):
            found = re.search(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
            assert found and csp_hash(found[1]) in policy


@pytest.mark.parametrize("prompt", HOSTILE)
def test_hostile_texts_stay_texts(make_run: MakeRun, outputs: Path, prompt: str) -> None:
    plain, nasty = make_run("plain"), make_run("nasty", prompt=prompt)
    metrics = nasty / "metrics.json"
    record = json.loads(metrics.read_text())
    record["stages"]["optimize"]["curves"]["values"] = {f"loss/{prompt}": [1, 2, 3]}
    metrics.write_text(json.dumps(record))
    write_pages(nasty, outputs)
    kinds = {tag for tag, _ in Page(plain / "index.html").tags}
    page = Page(nasty / "index.html")
    assert {tag for tag, _ in page.tags} == kinds
    assert len(page.all("script")) == 1 and len(page.all("img")) == len(Page(plain / "index.html").all("img"))
    assert not [key for _, found in page.tags for key in found if key.startswith("on")]
    shown = re.sub(r"[\x00\x07]", "\N{REPLACEMENT CHARACTER}", prompt)
    assert shown in page.text
    front = Page(outputs / "index.html")
    assert shown in front.text and len(front.all("script")) == 1 and len(front.all("li")) == 2
    assert "\0" not in (outputs / "index.html").read_text(encoding="utf-8")


def test_damaged_and_unfinished_runs_are_shown_as_such(make_run: MakeRun, outputs: Path) -> None:
    def other(name: str, config: str | bytes | None, metrics: str | None = None, checkpoint: bool = False) -> None:
        folder = outputs / name
        folder.mkdir(parents=True)
        if config is not None:
            (folder / "config.yaml").write_bytes(config if isinstance(config, bytes) else config.encode())
        if metrics is not None:
            (folder / "metrics.json").write_text(metrics)
        if checkpoint:
            (folder / "checkpoints").mkdir()

    make_run("good")
    other("begun", "prompt: a man\n", checkpoint=True)
    other("learned", "prompt: a man\n", json.dumps({"schema": 1, "stages": {"embed": {"finished": True}}}))
    other("new", "prompt: a man\n")
    other("cut", "prompt: 'a ma", checkpoint=True)
    other("binary", b"\xff\xfe\x00", checkpoint=True)
    other("tagged", "!!python/object/apply:os.system ['touch /tmp/owned']", checkpoint=True)
    other("cut figures", "prompt: a man\n", '{"schema": 1, "sta')
    other("odd figures", "prompt: a man\nseed: [1]\nprior: 3\n", '{"schema": 1, "stages": [1]}')
    other("a list", "[1, 2]")
    other("another program's", "model: 3\n")
    (outputs / "loop").symlink_to(outputs, target_is_directory=True)
    (outputs / ".identities").mkdir()
    write_gallery(outputs)
    found = {run.folder.name: run.state for run in find_runs(outputs)}
    assert found == {
        "good": State.finished,
        "begun": State.unfinished,
        "learned": State.unfinished,
        "new": State.empty,
        **dict.fromkeys(("cut", "binary", "tagged", "cut figures", "odd figures"), State.damaged),
    }
    page = Page(outputs / "index.html")
    assert len(page.all("li")) == len(found) and "9 avatars" in page.text
    assert [link["href"] for link in page.all("a")] == ["good/index.html"]


@pytest.mark.parametrize(
    "record",
    [
        {"optimize": {"finished": True}, "export": {"finished": True}},
        {"optimize": optimized(steps="many", splats=None, seconds_per_step=[1], curves=7, peak_memory_mib="all")},
        {
            "optimize": optimized(
                splats=1e400, prior_calls=True, curves={"steps": 3, "values": {"a": "b", "c": [[], {}]}}
            )
        },
        {"optimize": optimized(seconds_per_step={"total": None, "x": "y"}), "embed": {"photos": 3, "loss_curve": "z"}},
        {"embed": {"seconds": 3, "photos": ["a"], "loss_curve": [3, 2, 1, None], "steps": -1}},
    ],
)
def test_odd_figures_are_left_out(make_run: MakeRun, outputs: Path, record: dict) -> None:
    folder = make_run("odd")
    (folder / "metrics.json").write_text(json.dumps({"schema": 1, "stages": record}))
    write_pages(folder, outputs)
    page = Page(folder / "index.html")
    assert "nan" not in page.text.lower() and "inf" not in page.text


def test_a_sweep_is_a_grid_of_what_differs(make_run: MakeRun, outputs: Path) -> None:
    for seed in (0, 1, 10):
        for steps in (100, 20):
            if (seed, steps) != (10, 20):
                make_run(
                    f"red/seed={seed},optimize.steps={steps}",
                    seed=seed,
                    optimize=OptimizeConfig(steps=steps),
                    pages=False,
                )
    make_run("blue/prompt=a-b-1234", prompt="a b", pages=False)
    make_run("blue/prompt=c-d-5678", prompt="c d", pages=False)
    make_run("people/anna", pages=False)
    make_run("people/ben")
    text = (outputs / "index.html").read_text(encoding="utf-8")
    sections = {re.sub("<.*?>", "", part[: part.index("</h2>")]): part for part in text.split("<h2>")[1:]}
    assert sections.keys() == {"red", "blue", "people"}
    heads = {name: re.findall("<th[^>]*>(.*?)</th>", part) for name, part in sections.items()}
    plain = {name: [re.sub("<.*?>", "", head) for head in found] for name, found in heads.items()}
    assert plain["red"] == ["steps 20", "steps 100", "seed 0", "seed 1", "seed 10"]
    assert plain["blue"] == ["prompt a b", "prompt c d"], "texts are those of the settings, not of the folders"
    assert plain["people"] == [] and sections["people"].count('class="card"') == 2
    assert sections["red"].count("no image yet") == 5 and sections["red"].count('class="none"') == 1


def test_axes_of_folders() -> None:
    assert axes_of("seed=0,optimize.steps=50") == {"seed": "0", "optimize.steps": "50"}
    assert axes_of("seed=0") == {"seed": "0"}
    assert axes_of("anna") == axes_of("anna,ben") == axes_of("=3") == axes_of("") == {}


def test_the_newest_run_comes_first(make_run: MakeRun, outputs: Path) -> None:
    for name, age in (("old", 500.0), ("new", 0.0), ("middle", 100.0)):
        make_run(name, age=age)
    assert [run.folder.name for run in find_runs(outputs)] == ["new", "middle", "old"]


def test_photos_are_shown_small_unless_they_have_gone(make_run: MakeRun, outputs: Path, tmp_path: Path) -> None:
    photos = tmp_path / "my photos"
    photos.mkdir()
    for index in range(14):
        Image.new("RGB", (640, 900), (index, 50, 50)).save(photos / f"{index:02d}.jpg")
    (photos / "05.jpg").write_bytes(b"\xff\xd8\xff cut")
    (photos / "notes.txt").write_text("no photo")
    folder = make_run("anna", photos=str(photos))
    page = Page(folder / "index.html")
    shown = [image for image in page.all("img") if str(image["src"]).startswith("data:image/jpeg;base64,")]
    assert [image["alt"] for image in shown] == [f"{index:02d}.jpg" for index in range(14) if index != 5][:12]
    assert (folder / "index.html").stat().st_size < 150_000
    photos.rename(tmp_path / "elsewhere")
    write_pages(folder, outputs)
    assert "my photos" in Page(folder / "index.html").text


def test_the_images_turn_and_are_small(make_run: MakeRun) -> None:
    folder = make_run("anna")
    with Image.open(folder / "turntable.webp") as turning:
        assert (getattr(turning, "n_frames", 1), turning.info["loop"]) == (20, 0)
    with Image.open(folder / "poster.webp") as poster:
        assert poster.size == (64, 64)


def test_pages_of_the_user_are_left_alone(make_run: MakeRun, outputs: Path, caplog) -> None:
    outputs.mkdir()
    (outputs / "index.html").write_text("<h1>my own page</h1>")
    folder = make_run("anna")
    assert (outputs / "index.html").read_text() == "<h1>my own page</h1>"
    assert "stays as it is" in caplog.text
    assert "anna" in Page(folder / "index.html").text


def test_a_page_that_cannot_be_written_is_one_line(make_run: MakeRun, outputs: Path) -> None:
    folder = make_run("anna")
    (folder / "poster.webp").unlink()
    (folder / "poster.webp").mkdir()
    with pytest.raises(UserError, match=r"poster\.webp: the run's page cannot be written \(.*\): free some space"):
        write_pages(folder, outputs, FRAMES)


def _finish(folder: Path, outputs: Path, start) -> None:
    start.wait()
    (folder / "metrics.json").write_text(
        json.dumps({"schema": 1, "stages": {"optimize": optimized(), "export": {"finished": True}}})
    )
    write_pages(folder, outputs)


def test_processes_that_end_together_leave_a_gallery_of_all(outputs: Path) -> None:
    context = multiprocessing.get_context("fork")
    start, names = context.Event(), [f"run{index}" for index in range(6)]
    for name in names:
        (outputs / name).mkdir(parents=True)
        (outputs / name / "config.yaml").write_text(f"prompt: {name}\n")
    workers = [context.Process(target=_finish, args=(outputs / name, outputs, start)) for name in names]
    for worker in workers:
        worker.start()
    start.set()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    page = Page(outputs / "index.html")
    assert sorted(str(link["href"]) for link in page.all("a")) == [f"{name}/index.html" for name in names]
    assert not page.all("span", **{"class": "badge"})
    assert [path for path in outputs.rglob("*") if "partial" in path.name] == []


def test_a_large_folder_is_not_searched_to_its_bottom(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b" / "c" / "d" / "e"
    deep.mkdir(parents=True)
    for folder in (deep.parent, deep):
        (folder / "config.yaml").write_text("prompt: a man\n")
    assert [run.folder for run in find_runs(tmp_path)] == [deep.parent]
    assert find_runs(tmp_path / "none") == []
    assert read_run(tmp_path / "none") is not None, "its settings have gone: damaged"


def test_a_chart_needs_two_values() -> None:
    for steps, values in (([1.0, 2.0], [1.0, None]), ([], []), ([1.0, 1.0], [2.0, 3.0])):
        assert chart("a", steps, values) == ""
    image = chart("<a>", [1.0, 2.0, 3.0], [0.0, 1e-9, 2e6])
    assert "&lt;a&gt;: 0 at step 1, 2.0e+06 at step 3" in image and image.count("<polyline") == 2
