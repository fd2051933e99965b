
const PARTS = {
  whole: null,
  head: { joints: ["head"], up: 0.07, span: 0.42 },
  upper: { joints: ["spine3"], up: 0.16, span: 0.95 },
  hands: { joints: ["left_wrist", "right_wrist"], up: 0, span: 0.35 },
};
const GROUPS = {  // the sliders of the drawer: joints, axes (x, y, z), degrees either way
  Head: [["head", "y", 60, "Turn"], ["head", "x", 35, "Nod"], ["head", "z", 30, "Tilt"]],
  Trunk: [["spine2", "x", 40, "Bend"], ["spine2", "y", 40, "Twist"], ["spine2", "z", 30, "Lean"]],
  "Left arm": [["left_shoulder", "z", 80, "Raise"], ["left_shoulder", "y", 80, "Swing"], ["left_elbow", "y", 120, "Elbow"], ["left_wrist", "z", 60, "Wrist"]],
  "Right arm": [["right_shoulder", "z", 80, "Raise"], ["right_shoulder", "y", 80, "Swing"], ["right_elbow", "y", 120, "Elbow"], ["right_wrist", "z", 60, "Wrist"]],
  "Left hand": [["left_fingers", "z", 80, "Fingers"], ["left_thumb1", "y", 45, "Thumb"]],
  "Right hand": [["right_fingers", "z", 80, "Fingers"], ["right_thumb1", "y", 45, "Thumb"]],
  "Left leg": [["left_hip", "x", 90, "Hip"], ["left_hip", "z", 45, "Spread"], ["left_knee", "x", 120, "Knee"]],
  "Right leg": [["right_hip", "x", 90, "Hip"], ["right_hip", "z", 45, "Spread"], ["right_knee", "x", 120, "Knee"]],
  Face: [["jaw", "x", 25, "Mouth"], ["left_eye", "y", 30, "Left eye"], ["right_eye", "y", 30, "Right eye"]],
};

function axisQuat(axis, degrees) {
  const half = (degrees / 2) * Math.PI / 180;
  return [Math.cos(half), ..."xyz".split("").map((name) => (name === axis ? Math.sin(half) : 0))];
}

/** The bar of motions: play, choose, scrub, speed, loop. */
function listenToPlayer(viewer) {
  const { player } = viewer;
  if (!player.clips.length) return;
  const [play, clips, timeline, speed, loop] = ["play", "clips", "timeline", "speed", "loop"].map(element);
  for (const { name } of [{ name: "pose" }, ...player.clips]) clips.append(new Option(name === "pose" ? "Standing" : name[0].toUpperCase() + name.slice(1), name));
  const show = () => {
    play.setAttribute("aria-pressed", String(player.playing));
    play.setAttribute("aria-label", player.playing ? "Pause" : "Play");
    element("play-icon").setAttribute("d", player.playing ? "M8 5v14M16 5v14" : "M8 5l11 7-11 7z");
    loop.setAttribute("aria-pressed", String(player.looping));
    clips.value = player.clip?.name ?? "pose";
    timeline.disabled = !player.clip;
    timeline.value = player.clip ? player.time / player.duration : 0;
  };
  viewer.onPose = () => {
    if (document.activeElement !== timeline || player.playing) timeline.value = player.clip ? player.time / player.duration : 0;
    if (play.getAttribute("aria-pressed") !== String(player.playing)) show();
  };
  const redraw = () => {
    show();
    viewer.redraw();
  };
  play.onclick = () => {
    if (!player.clip) player.choose(player.clips[0].name, !viewer.still);
    else if (!player.playing && player.time >= player.duration) player.time = 0;
    player.playing = !player.playing;
    redraw();
  };
  clips.onchange = () => {
    player.choose(clips.value, !viewer.still);
    player.playing = player.clip !== null && !viewer.still;
    redraw();
  };
  timeline.oninput = () => {
    player.playing = false;
    player.fade = 1;
    player.time = Number(timeline.value) * player.duration * 0.9999;
    redraw();
  };
  speed.onchange = () => { player.speed = Number(speed.value); };
  loop.onclick = () => {
    player.looping = !player.looping;
    redraw();
  };
  viewer.onClips = (name) => {
    if (![...clips.options].some((option) => option.value === name)) clips.append(new Option(name, name));
    player.choose(name, !viewer.still);
    player.playing = !viewer.still;
    redraw();
  };
  show();
}

/** Views of parts, images, files, and what is known about the avatar. */
function listenToMore(viewer) {
  const { camera, skeleton, splats } = viewer;
  const rigged = skeleton.names.length > 0;
  element("more").onclick = () => {
    const open = element("panel").hidden;
    element("panel").hidden = !open;
    element("more").setAttribute("aria-expanded", String(open));
  };
  for (const [name, part] of Object.entries(PARTS)) {
    const button = element(`view-${name}`);
    button.hidden = part !== null && !rigged;
    button.onclick = () => {
      if (!part) viewer.reset();
      else {
        const places = part.joints.map((joint) => skeleton.place(joint));
        const target = [0, 1, 2].map((i) => places.reduce((sum, place) => sum + place[i], 0) / places.length);
        const apart = Math.hypot(...[0, 1, 2].map((i) => places[0][i] - places.at(-1)[i]));
        target[1] += part.up;
        camera.focus(target, part.span + apart, canvas.width / canvas.height);
      }
      viewer.touch();
    };
  }
  element("save-image").onclick = () => viewer.saveImage();
  element("fullscreen").hidden = !document.documentElement.requestFullscreen;
  element("fullscreen").onclick = () => (document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen());
  element("save-ply").onclick = () => save(writePly(splats, skeleton.bones), "avatar.ply");
  element("copy-link").onclick = () => {
    const { azimuth, elevation, distance, target } = camera.goal;
    const numbers = { azimuth, elevation, distance };
    const parts = Object.entries(numbers).map(([name, value]) => `${name}=${value.toFixed(2)}`);
    const { clip, time, playing } = viewer.player;
    const motion = rigged ? `&motion=${encodeURIComponent(clip?.name ?? "none")}${clip && !playing ? `&time=${time.toFixed(2)}` : ""}` : "";
    history.replaceState(null, "", `#${parts.join("&")}&target=${target.map((value) => value.toFixed(3)).join(",")}&spin=0${motion}`);
    const said = "The address of this page shows this view now";
    const copied = navigator.clipboard ? navigator.clipboard.writeText(location.href) : Promise.reject();
    copied.then(() => viewer.say(`${said}, and is copied.`), () => viewer.say(`${said}.`));
  };
  element("about").hidden = !splats.about.length;
  element("about").onclick = () => element("facts").showModal();
  for (const line of splats.about) element("facts-list").append(Object.assign(document.createElement("p"), { textContent: line }));
  element("sliders").hidden = !rigged;
  element("sliders").onclick = () => { element("drawer").hidden = !element("drawer").hidden; };
}

/** The drawer of pose sliders; they turn joints on top of the motion. */
function listenToSliders(viewer) {
  const { skeleton } = viewer;
  const angles = new Map();  // joint -> {x, y, z} in degrees
  const turn = (name, axis, degrees) => {
    const j = skeleton.names.indexOf(name);
    if (j < 0) return;
    const own = angles.get(j) ?? { x: 0, y: 0, z: 0 };
    own[axis] = degrees;
    angles.set(j, own);
    skeleton.extra.set(j, multiplyQuats(multiplyQuats(axisQuat("y", own.y), axisQuat("x", own.x)), axisQuat("z", own.z)));
  };
  for (const [group, sliders] of Object.entries(GROUPS)) {
    const set = document.createElement("fieldset");
    set.append(Object.assign(document.createElement("legend"), { textContent: group }));
    for (const [joint, axis, limit, name] of sliders) {
      const label = Object.assign(document.createElement("label"), { textContent: name });
      const input = Object.assign(document.createElement("input"), { type: "range", min: -limit, max: limit, value: 0 });
      input.setAttribute("aria-label", `${group}: ${name}`);
      input.dataset.joint = joint;
      input.oninput = () => {
        const side = joint.split("_")[0];
        const joints = joint.endsWith("_fingers")
          ? ["index", "middle", "ring", "pinky"].flatMap((finger) => [1, 2, 3].map((k) => `${side}_${finger}${k}`)) : [joint];
        for (const one of joints) turn(one, axis, Number(input.value));
        viewer.redraw();
      };
      label.append(input);
      set.append(label);
    }
    element("slider-list").append(set);
  }
  element("slider-reset").onclick = () => {
    skeleton.extra.clear();
    angles.clear();
    for (const input of element("slider-list").querySelectorAll("input")) input.value = 0;
    viewer.redraw();
  };
}

function save(blob, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

/** The splats as they are posed, in the layout of the 3D Gaussian splatting paper, head at -y (as avatar.ply). */
function writePly({ count, means, quats, scales, colors, joints, weights }, bones) {
  const names = ["x", "y", "z", "nx", "ny", "nz", ...[0, 1, 2].map((i) => `f_dc_${i}`), ...Array.from({ length: 45 }, (_, i) => `f_rest_${i}`),
    "opacity", ...[0, 1, 2].map((i) => `scale_${i}`), ...[0, 1, 2, 3].map((i) => `rot_${i}`)];
  const header = `ply\nformat binary_little_endian 1.0\nelement vertex ${count}\n${names.map((name) => `property float ${name}\n`).join("")}end_header\n`;
  const rows = new Float32Array(names.length * count);
  for (let i = 0; i < count; i++) {
    const total = weights[4 * i] + weights[4 * i + 1] + weights[4 * i + 2] + weights[4 * i + 3];
    const blend = new Float32Array(12);
    for (let k = 4 * i; k < 4 * i + 4; k++) {
      for (let c = 0; c < 12; c++) blend[c] += (weights[k] / total) * bones[12 * joints[k] + c];
    }
    const mean = [0, 1, 2].map((r) => blend[4 * r + 3] + [0, 1, 2].reduce((sum, c) => sum + blend[4 * r + c] * means[3 * i + c], 0));
    const turned = multiplyQuats([0, 0, 0, 1], multiplyQuats(rotationQuat(nearestRotation(blend)), quats.subarray(4 * i, 4 * i + 4)));
    const alpha = Math.min(1 - 1e-6, Math.max(1e-3, colors[4 * i + 3] / 255));
    rows.set([-mean[0], -mean[1], mean[2], 0, 0, 0], names.length * i);
    rows.set([0, 1, 2].map((c) => (colors[4 * i + c] / 255 - 0.5) / 0.28209479177387814), names.length * i + 6);
    rows.set([Math.log(alpha / (1 - alpha)), ...[0, 1, 2].map((c) => Math.log(scales[3 * i + c])), ...turned], names.length * i + 54);
  }
  return new Blob([header, rows], { type: "application/octet-stream" });
}

/** The rotation (9 numbers by rows) nearest to the linear part of a 3 x 4 matrix. */
function nearestRotation(blend) {
  let m = [0, 1, 2].map((r) => [...blend.subarray(4 * r, 4 * r + 3)]);
  const cross = ([a, b, c], [d, e, f]) => [b * f - c * e, c * d - a * f, a * e - b * d];
  for (let step = 0; step < 6; step++) {
    const cofactor = [cross(m[1], m[2]), cross(m[2], m[0]), cross(m[0], m[1])];
    const determinant = cofactor[0].reduce((sum, value, i) => sum + value * m[0][i], 0);
    m = m.map((row, r) => row.map((value, c) => 0.5 * (value + cofactor[r][c] / determinant)));
  }
  return m;
}

function rotationQuat(m) {
  const squares = [1 + m[0][0] + m[1][1] + m[2][2], 1 + m[0][0] - m[1][1] - m[2][2], 1 - m[0][0] + m[1][1] - m[2][2], 1 - m[0][0] - m[1][1] + m[2][2]];
  const best = squares.indexOf(Math.max(...squares));
  const [a, b, c] = [m[2][1] - m[1][2], m[0][2] - m[2][0], m[1][0] - m[0][1]];
  const [s, t, u] = [m[1][2] + m[2][1], m[0][2] + m[2][0], m[0][1] + m[1][0]];
  const q = [[squares[0], a, b, c], [a, squares[1], u, t], [b, u, squares[2], s], [c, t, s, squares[3]]][best];
  const norm = Math.hypot(...q);
  return q.map((value) => value / norm);
}
