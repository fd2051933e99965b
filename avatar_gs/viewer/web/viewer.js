
/*
 * The page. Options behind # in its address, separated by &:
 *   azimuth=90  elevation=10  distance=4  fov=30  target=0,0.9,0   the first view in degrees and metres, see OrbitCamera
 *   spin=0            no rotation
 *   background=dark   or light, or a hexadecimal colour such as 7f7f7f
 *   controls=0        only the avatar, without title and buttons; title=0: without the title
 *   detail=1          the fraction of the resolution while it moves, 0.3 to 1; otherwise as fast frames need it
 *   motion=walk       a packaged motion, or "none"; time=0.5 shows that second of it and pauses
 * For tests, <html> has data-state ("loading", "ready" or "error"), data-view (azimuth, elevation and distance of the
 * last frame), data-detail (the fraction of its resolution), data-sort (milliseconds of the last sort) and data-frame
 * ("done" if that frame is final, else "due").
 */
const root = document.documentElement;
const element = (id) => document.getElementById(id);
const canvas = element("canvas");
const options = new URLSearchParams(location.hash.slice(1));
const MAX_PIXELS = 4e6;
const SPIN = 24;  // degrees per second
const SLOW = 40, FAST = 21;  // milliseconds between frames from which the resolution is lowered, and raised again
const LEAST_DETAIL = 0.4;

function fail(text) {
  root.dataset.state = "error";
  element("message").textContent = text;
  element("message").hidden = false;
  element("tools").hidden = element("hint").hidden = true;
}

function isDark(background) {
  if (background === "dark" || background === "light") return background === "dark";
  const [red, green, blue] = [0, 2, 4].map((i) => parseInt(background.slice(i, i + 2), 16));
  return 0.3 * red + 0.6 * green + 0.1 * blue < 128;
}

function setBackground(background) {
  root.dataset.background = isDark(background) ? "dark" : "light";
  document.body.style.background = /^[0-9a-f]{6}$/i.test(background) ? `#${background}` : "";
}

function readOptions(camera) {
  for (const name of ["azimuth", "elevation", "distance", "fov"]) {
    const value = parseFloat(options.get(name));
    if (Number.isFinite(value)) camera.first[name] = name === "fov" ? Math.min(120, Math.max(5, value)) : value;
  }
  const target = (options.get("target") ?? "").split(",").map(parseFloat);
  if (target.length === 3 && target.every(Number.isFinite)) camera.first.target = target;
  if (options.get("controls") === "0") root.dataset.controls = "off";
  if (options.get("title") === "0") element("title").hidden = true;
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const requested = options.get("background") ?? "";
  setBackground(/^([0-9a-f]{6}|dark|light)$/i.test(requested) ? requested : dark ? "dark" : "light");
}

/** Renders only when something has changed. */
class Viewer {
  constructor(splats) {
    this.splats = splats;
    this.renderer = new SplatRenderer(canvas, splats);
    this.skeleton = new Skeleton(splats.rig);
    this.player = new Player(this.skeleton, splats.rig.clips);
    this.onPose = () => {};
    this.camera = new OrbitCamera(splats.bounds);
    this.surface = new Surface(splats, this.skeleton);
    this.camera.points = this.surface.points;
    this.detail = 1;  // fraction of the resolution
    this.pace = { frames: 0, sum: 0 };  // of frames that follow each other
    this.asked = Math.min(1, Math.max(0.3, parseFloat(options.get("detail")))) || 0;
    this.still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.pending = false;
    this.time = 0;
    readOptions(this.camera);
    this.readMotion();
    this.sorter = new Sorter(splats, (order) => {
      this.order = order;
      this.renderer.setOrder(order);
      this.redraw();
    }, () => fail("This browser does not allow the page to start a worker, which sorts the splats."));
    this.setSpin(options.has("spin") ? options.get("spin") !== "0" : !this.still);
    this.resize();
  }

  /** The first motion: as the address asks, else standing and breathing, unless motion is to be reduced. */
  readMotion() {
    const { player } = this;
    const time = parseFloat(options.get("time"));
    player.choose(options.get("motion") ?? (this.still ? "none" : "stand"), false);
    player.playing = player.clip !== null && !Number.isFinite(time) && !this.still;
    if (player.clip && Number.isFinite(time)) player.time = Math.min(player.duration, Math.max(0, time));
  }

  setSpin(spinning) {
    this.spinning = spinning;
    element("spin").setAttribute("aria-pressed", String(spinning));
    this.redraw();
  }

  /** The user has moved the camera: stop spinning. */
  touch() {
    root.dataset.touched = "";
    if (this.spinning) this.setSpin(false);
    this.redraw();
  }

  reset() {
    this.camera.reset(canvas.width / canvas.height, this.free);
    this.redraw();
  }

  /** Keep the avatar clear of title and buttons: the free fraction of the height, and the offset of its middle. */
  makeRoom() {
    const controls = root.dataset.controls !== "off";
    const top = controls ? element("title").getBoundingClientRect().bottom : 0;
    const bottom = controls ? element("hint").getBoundingClientRect().top : canvas.clientHeight;
    const height = Math.max(1, canvas.clientHeight);
    this.free = Math.max(0.4, (bottom - top) / height);
    this.lift = (0.5 - (top + bottom) / 2 / height) * canvas.height;
  }

  /** Where a place of the page is, right and down of the optical axis, in fractions of the image's height. */
  fromMiddle(x, y) {
    const { clientWidth, clientHeight } = canvas;
    return [(x - clientWidth / 2) / clientHeight, (y - clientHeight / 2) / clientHeight + this.lift / canvas.height];
  }

  resize() {
    const { clientWidth, clientHeight } = canvas;
    const ratio = this.detail * Math.min(devicePixelRatio, Math.sqrt(MAX_PIXELS / Math.max(1, clientWidth * clientHeight)));
    const width = Math.max(1, Math.round(clientWidth * ratio));
    const height = Math.max(1, Math.round(clientHeight * ratio));
    if (canvas.width === width && canvas.height === height) return;
    const shape = `${clientWidth} ${clientHeight}`;
    const untouched = shape !== this.shape && !("touched" in root.dataset);
    this.shape = shape;
    canvas.width = width;
    canvas.height = height;
    this.makeRoom();
    if (untouched) {  // keep the whole avatar visible, but do not stop its spin
      const { azimuth } = this.camera.now;
      this.reset();
      if (this.order) this.camera.goal.azimuth = azimuth;
      this.camera.jump();
    }
    this.redraw();
  }

  /** Lower the resolution while frames are slow, and return to the full one when nothing moves. */
  adapt(milliseconds, moving) {
    const { pace } = this;
    let { detail } = this;
    if (!moving || this.wanted) {
      detail = 1;
      pace.frames = pace.sum = 0;
    } else if (this.asked) detail = this.asked;
    else if (milliseconds < 500) {  // longer ones are those of a page that was hidden
      pace.frames += 1;
      pace.sum += milliseconds;
      const mean = pace.sum / pace.frames;
      if (pace.frames >= 5 && mean > SLOW) detail = Math.max(LEAST_DETAIL, 0.8 * detail);
      else if (pace.frames >= 40 && mean < FAST) detail = Math.min(1, 1.15 * detail);
      if (detail !== this.detail || pace.frames >= 40) pace.frames = pace.sum = 0;
    }
    if (detail === this.detail) return;
    this.detail = detail;
    this.resize();
  }

  /** Look at the point below a place of the page from nearer, or at the whole avatar where there is none. */
  focusAt(x, y) {
    const [right, down] = this.fromMiddle(x, y).map((value) => value * canvas.height);
    const point = this.surface.hit(this.camera.view(canvas.height), right, down);
    if (!point) this.reset();
    else {
      this.camera.goal.target = point;
      this.camera.zoom(0.5);
    }
    this.touch();
  }

  /** Show a line for some seconds. */
  say(text) {
    element("note").textContent = text;
    element("note").hidden = false;
    clearTimeout(this.silence);
    this.silence = setTimeout(() => { element("note").hidden = true; }, 8000);
  }

  /** Restore a lost context. */
  restore() {
    this.renderer.prepare();
    if (this.order) this.renderer.setOrder(this.order);
    this.redraw();
  }

  redraw() {
    root.dataset.frame = "due";
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame((time) => this.frame(time));
  }

  /** Save the next frame as an image, on a transparent background. */
  saveImage() {
    this.wanted = true;
    this.redraw();
  }

  takeImage() {
    this.wanted = false;
    canvas.toBlob((blob) => save(blob, "avatar.png"));
  }

  frame(time) {
    this.pending = false;
    const elapsed = time - this.time, seconds = Math.min(0.1, elapsed / 1000);
    this.time = time;
    if (this.renderer.gl.isContextLost()) return;
    if (this.spinning) this.camera.goal.azimuth += SPIN * seconds;
    if (this.still || this.spinning) this.camera.jump();
    this.player.advance(seconds);
    this.player.apply();
    this.onPose();
    this.surface.update();
    const moving = this.camera.follow(seconds) || this.spinning || this.player.moves;
    this.adapt(elapsed, moving);
    const view = this.camera.view(canvas.height);
    const depths = this.skeleton.depths(view.direction);
    this.sorter.request(depths);
    if (this.order) {
      this.renderer.setBones(this.skeleton.bones);
      this.renderer.draw(view, this.lift);
      if (this.wanted) this.takeImage();
      root.dataset.state = "ready";
      const { azimuth, elevation } = this.camera.now;
      root.dataset.detail = this.detail.toFixed(2);
      root.dataset.sort = this.sorter.took.toFixed(2);
      root.dataset.view = [azimuth, elevation, view.distance].map((value) => value.toFixed(3)).join(" ");
      if (!this.player.moves && this.sorter.isCurrent(depths)) root.dataset.frame = "done";
    }
    if (moving) this.redraw();
  }
}

/** Mouse, pen and fingers: one orbits, two (or the right button) move and zoom. */
function listenToPointers(viewer) {
  const pointers = new Map();
  const { camera } = viewer;
  const middle = () => {
    const all = [...pointers.values()];
    return { x: all.reduce((s, p) => s + p.x, 0) / all.length, y: all.reduce((s, p) => s + p.y, 0) / all.length };
  };
  const apart = () => {
    const [a, b] = [...pointers.values()];
    return b ? Math.hypot(a.x - b.x, a.y - b.y) : 0;
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    viewer.touch();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!pointers.has(event.pointerId)) return;
    const [before, gap] = [middle(), apart()];
    pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    const after = middle();
    const [right, down] = [after.x - before.x, after.y - before.y].map((move) => move / canvas.clientHeight);
    if (pointers.size > 1 || event.shiftKey || event.buttons & 6) camera.pan(right, down);
    else camera.turn(-220 * right, 220 * down);
    if (gap && apart()) camera.zoom(gap / apart(), ...viewer.fromMiddle(after.x, after.y));
    viewer.redraw();
  });
  const lift = (event) => pointers.delete(event.pointerId);
  let down = null, tapped = null;  // where a finger or button went down, and the last tap
  canvas.addEventListener("pointerdown", ({ clientX, clientY, button }) => {
    down = pointers.size === 1 && button === 0 ? { x: clientX, y: clientY } : null;
  });
  canvas.addEventListener("pointerup", ({ clientX: x, clientY: y, timeStamp: time }) => {
    const isTap = down !== null && Math.hypot(x - down.x, y - down.y) < 8;
    const again = isTap && tapped !== null && time - tapped.time < 400 && Math.hypot(x - tapped.x, y - tapped.y) < 30;
    if (again) viewer.focusAt(x, y);
    tapped = isTap && !again ? { x, y, time } : null;
  });
  canvas.addEventListener("pointerup", lift);
  canvas.addEventListener("pointercancel", lift);
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const pixels = event.deltaY * (event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 33 : 1);
    const factor = Math.exp(Math.max(-200, Math.min(200, pixels)) * (event.ctrlKey ? 0.01 : 0.0015));
    camera.zoom(factor, ...viewer.fromMiddle(event.clientX, event.clientY));
    viewer.touch();
  }, { passive: false });
}

function listenToKeys(viewer) {
  const { camera } = viewer;
  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const others = {
    "+": () => camera.zoom(1 / 1.15), "=": () => camera.zoom(1 / 1.15), "-": () => camera.zoom(1.15),
    p: () => element("play").click(), m: () => element("more").click(), s: () => viewer.saveImage(),
    f: () => element("fullscreen").click(), 1: () => element("view-whole").click(), 2: () => element("view-upper").click(),
    3: () => element("view-head").click(), 4: () => element("view-hands").click(),
    r: () => viewer.reset(), b: () => element("background").click(), "?": () => element("help").click(),
  };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || element("keys").open || element("facts").open) return;
    if (["INPUT", "SELECT"].includes(event.target.tagName)) return;
    const arrow = arrows[event.key];
    if (arrow && event.shiftKey) camera.pan(0.04 * arrow[0], 0.04 * arrow[1]);
    else if (arrow) camera.turn(-10 * arrow[0], 10 * arrow[1]);
    else if (event.key === " " && event.target.tagName !== "BUTTON") viewer.setSpin(!viewer.spinning);
    else if (others[event.key]) others[event.key]();
    else return;
    event.preventDefault();
    if (arrow) viewer.touch();
    viewer.redraw();
  });
}

function listenToButtons(viewer) {
  element("spin").onclick = () => viewer.setSpin(!viewer.spinning);
  element("background").onclick = () => setBackground(root.dataset.background === "dark" ? "light" : "dark");
  element("reset").onclick = () => viewer.reset();
  element("help").onclick = () => element("keys").showModal();
}

function listenToContext(viewer) {
  canvas.addEventListener("webglcontextlost", (event) => {
    event.preventDefault();
    fail("The page has lost the graphics card. It should recover by itself; if not, reload the page.");
  });
  canvas.addEventListener("webglcontextrestored", () => {
    element("message").hidden = true;
    element("tools").hidden = element("hint").hidden = false;
    viewer.restore();
  });
}

try {
  const splats = readSplats(element("splats").textContent);
  if (splats.rig.clips.length) root.dataset.moves = "";
  const viewer = new Viewer(splats);
  for (const listen of [listenToPointers, listenToKeys, listenToButtons, listenToContext, listenToPlayer, listenToMore, listenToSliders, listenToFiles]) listen(viewer);
  new ResizeObserver(() => viewer.resize()).observe(canvas);
  addEventListener("resize", () => viewer.resize());
} catch (error) {
  const missing = error.message === "WebGL2";
  fail(missing
    ? "This browser cannot show the avatar: it has no WebGL2, or hardware acceleration is switched off."
    : `The avatar cannot be shown: ${error.message}`);
}
