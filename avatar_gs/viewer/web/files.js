
const MAX_MOTION_BYTES = 64 * 2 ** 20;
const MAX_MOTION_FRAMES = 20000;
const STANDING = 0.85;  // cosine from which the zero pose's trunk and legs make one line: a rest pose in which a person stands
const BVH_NAMES = {  // joints of CMU's, Mixamo's and Rokoko's skeletons; of a limb without its side
  pelvis: ["hips", "hip", "pelvis"], neck: ["neck", "neck1", "lowerneck"], head: ["head"],
  hip: ["upleg", "thigh", "upperleg", "hip"], knee: ["leg", "shin", "knee", "lowerleg", "calf"], ankle: ["foot", "ankle"],
  foot: ["toebase", "toe", "toes", "ball"], shoulder: ["arm", "upperarm", "uparm", "shoulder"],
  elbow: ["forearm", "elbow", "lowerarm"], wrist: ["hand", "wrist"], collar: ["collar", "clavicle", "shoulder"],
};
const SPINES = ["spine", "spine1", "spine2", "spine3", "spine4", "lowerback", "chest", "chest2", "chest3", "chest4", "abdomen"];

/** A BVH file on the skeleton, as the program's retarget.py does it. */
function readBvh(text, skeleton, name) {
  const { bones, frames, fps } = parseBvh(text);
  const found = matchBones(bones.map((bone) => bone.name));
  const rest = bones.map(() => [0, 0, 0]);
  bones.forEach((bone, i) => { if (bone.parent >= 0) rest[i] = bone.offset.map((v, c) => v + rest[bone.parent][c]); });
  const to = (a, b) => rest[found.get(b)].map((v, c) => v - rest[found.get(a)][c]);
  const legs = ["left_knee", "right_knee"].map((knee) => to("pelvis", knee)), below = legs[0].map((v, c) => v + legs[1][c]);
  const top = ["head", "neck", "spine3"].find((joint) => found.has(joint));
  const trunk = top ? to("pelvis", top) : below.map((v) => -v);
  const stands = -dotted(trunk, below) > STANDING * Math.hypot(...trunk) * Math.hypot(...below);
  // Where the zero pose only defines the bones' lengths, only the pelvis with what hangs on it has a meaning.
  const spine = ["spine1", "spine2", "spine3", "neck"].filter((joint) => found.has(joint)).map((joint) => to("pelvis", joint)).find((v) => v.some(Boolean));
  const up = nearestAxis(stands || !spine ? below.map((v) => -v) : spine);
  let left = to("right_hip", "left_hip");
  left = normalized(left.map((v, c) => v - dotted(left, up) * up[c]));
  if (!left.every(Number.isFinite)) throw new Error("its hips are at one place, so left and right cannot be told");
  const world = rotationQuat([left, up, crossed(left, up)]), back = conjugate(world);  // from the file's axes to ours
  const recording = { bones, frames, found, stands, rest: rest.map((place) => turned(world, place)) };
  const inWorld = (turn) => multiplyQuats(multiplyQuats(world, turn), back);
  const align = alignBones(skeleton, recording, inWorld);
  const scale = legLength(skeleton.rest, (joint) => skeleton.names.indexOf(joint)) / legLength(rest, (joint) => found.get(joint));
  const count = skeleton.parents.length, quats = new Float32Array(4 * count * frames.length), translation = [];
  frames.forEach((row, f) => {
    const { turns, places } = poseBones(bones, row);
    const ours = [];
    skeleton.names.forEach((joint, j) => {
      const p = skeleton.parents[j], bone = found.get(joint);
      ours[j] = bone !== undefined ? multiplyQuats(inWorld(turns[bone]), align[j]) : p < 0 ? [1, 0, 0, 0] : ours[p];
      quats.set(p < 0 ? ours[j] : multiplyQuats(conjugate(ours[p]), ours[j]), 4 * (f * count + j));
    });
    translation.push(turned(world, places[found.get("pelvis")]).map((v, c) => v * scale - skeleton.rest[0][c]));
  });
  return grounded({ name, fps, frames: frames.length, loops: false, quats, translation }, skeleton);
}

/** Rotations and places of a file's bones in one frame, in its axes. */
function poseBones(bones, row) {
  const turns = [], places = [];
  let column = 0;
  bones.forEach((bone, i) => {
    let local = [1, 0, 0, 0];
    const moved = [...bone.offset];
    for (const channel of bone.channels) {
      const value = row[column++];
      if (channel.endsWith("rotation")) local = multiplyQuats(local, axisQuat(channel[0].toLowerCase(), value));
      else moved["XYZ".indexOf(channel[0])] = value;
    }
    turns[i] = bone.parent < 0 ? local : multiplyQuats(turns[bone.parent], local);
    places[i] = bone.parent < 0 ? moved : turned(turns[bone.parent], moved).map((v, c) => v + places[bone.parent][c]);
  });
  return { turns, places };
}

/** SMPL-X's poses as AMASS stores them. */
async function readNpz(file, skeleton, name) {
  const arrays = await unzip(await file.arrayBuffer());
  const poses = await arrays("poses"), moved = (await arrays("trans")) ?? (await arrays("transl"));
  const joints = { 165: [0, 55], 156: [0, 22, 25, 55], 72: [0, 22], 66: [0, 22] }[poses?.shape.slice(1).reduce((a, b) => a * b, 1)];
  if (!joints) throw new Error("it holds no poses of SMPL, SMPL-H or SMPL-X");
  const [frames] = poses.shape, width = poses.values.length / frames;
  if (!(frames > 0)) throw new Error("it has no frames");
  if (frames > MAX_MOTION_FRAMES) throw new Error(`it has ${frames} frames; at most ${MAX_MOTION_FRAMES} are played`);
  if (!poses.values.every(Number.isFinite)) throw new Error("it holds numbers that are not finite");
  const rate = (await arrays("mocap_frame_rate")) ?? (await arrays("mocap_framerate")) ?? (await arrays("fps"));
  const fps = rate?.values[0] > 0 ? rate.values[0] : 30;
  const count = skeleton.parents.length, quats = new Float32Array(4 * count * frames), translation = [];
  for (let k = 0; k < count * frames; k++) quats[4 * k] = 1;
  let upright = 0;
  for (let f = 0; f < frames; f++) {
    let column = f * width;
    for (let part = 0; part < joints.length; part += 2) {
      for (let j = joints[part]; j < joints[part + 1]; j++, column += 3) {
        const [x, y, z] = poses.values.subarray(column, column + 3), angle = Math.hypot(x, y, z);
        if (j && angle > 7) throw new Error("its angles are degrees; radians are expected");
        const sine = angle > 1e-9 ? Math.sin(angle / 2) / angle : 0.5;
        quats.set([Math.cos(angle / 2), x * sine, y * sine, z * sine], 4 * (f * count + j));
      }
    }
    const spine = turned([...quats.subarray(4 * f * count, 4 * f * count + 4)], [0, 1, 0]);
    upright += spine[2] - Math.abs(spine[1]);
    translation.push(moved ? [...moved.values.subarray(3 * f, 3 * f + 3)] : [0, 0, 0]);
  }
  if (upright > 0) {  // z is up, as in AMASS
    const lay = axisQuat("x", -90);
    for (let f = 0; f < frames; f++) {
      quats.set(multiplyQuats(lay, quats.subarray(4 * f * count, 4 * f * count + 4)), 4 * f * count);
      translation[f] = turned(lay, translation[f]);
    }
  }
  return grounded({ name, fps, frames, loops: false, quats, translation }, skeleton);
}

/** A function that reads one array of an .npz file: {shape, values}, or undefined if there is none. */
async function unzip(buffer) {
  const view = new DataView(buffer);
  let end = buffer.byteLength - 22;
  while (end >= 0 && view.getUint32(end, true) !== 0x06054b50) end--;
  if (end < 0) throw new Error("it is no .npz file");
  const places = new Map();
  for (let at = view.getUint32(end + 16, true), k = view.getUint16(end + 10, true); k > 0; k--) {
    const [name, extra, comment] = [28, 30, 32].map((offset) => view.getUint16(at + offset, true));
    const text = new TextDecoder().decode(new Uint8Array(buffer, at + 46, name));
    const start = view.getUint32(at + 42, true);
    places.set(text, {
      method: view.getUint16(at + 10, true), packed: view.getUint32(at + 20, true), size: view.getUint32(at + 24, true),
      data: start + 30 + view.getUint16(start + 26, true) + view.getUint16(start + 28, true),
    });
    at += 46 + name + extra + comment;
  }
  return async (name) => {
    const place = places.get(`${name}.npy`);
    if (!place) return undefined;
    if (place.size > 4 * MAX_MOTION_BYTES) throw new Error(`${name} has ${Math.round(place.size / 2 ** 20)} MB`);
    const packed = new Blob([new Uint8Array(buffer, place.data, place.packed)]);
    const bytes = place.method === 0 ? await packed.arrayBuffer() : await inflated(packed, place.size);
    return readNpy(bytes, name);
  };
}

/** Inflate at most the size that the archive promises, so that a bomb does not fill the memory. */
async function inflated(packed, size) {
  const reader = packed.stream().pipeThrough(new DecompressionStream("deflate-raw")).getReader();
  const out = new Uint8Array(size);
  for (let filled = 0; ;) {
    const { done, value } = await reader.read();
    if (done) return out.buffer;
    if (filled + value.length > size) throw new Error("it is damaged");
    out.set(value, filled);
    filled += value.length;
  }
}

function readNpy(buffer, name) {
  const view = new DataView(buffer), wide = view.getUint8(6) > 1;
  const start = (wide ? 12 : 10) + (wide ? view.getUint32(8, true) : view.getUint16(8, true));
  const header = new TextDecoder().decode(new Uint8Array(buffer, wide ? 12 : 10, start - (wide ? 12 : 10)));
  const type = { "<f4": Float32Array, "<f8": Float64Array, "<i4": Int32Array, "<i8": BigInt64Array }[/'descr': '([^']*)'/.exec(header)?.[1]];
  if (!type) throw new Error(`${name} is no array of numbers`);
  const shape = (/'shape': \(([^)]*)\)/.exec(header)?.[1] ?? "").split(",").map((size) => size.trim()).filter(Boolean).map(Number);
  const count = shape.reduce((a, b) => a * b, 1);
  const values = Float64Array.from(new type(buffer.slice(start, start + count * type.BYTES_PER_ELEMENT)), Number);
  if (!/'fortran_order': True/.test(header)) return { shape, values };
  const [rows, columns = 1] = shape;  // stored by columns
  return { shape, values: values.map((_, i) => values[(i % columns) * rows + Math.floor(i / columns)]) };
}

function parseBvh(text) {
  const [head, data] = text.split(/^\s*MOTION\s*$/m);
  if (!/^\s*HIERARCHY/.test(head) || data === undefined) throw new Error("it is no BVH file");
  const bones = [], open = [];
  for (const line of head.split("\n")) {
    const words = line.trim().split(/\s+/);
    if (["ROOT", "JOINT", "End"].includes(words[0])) {
      open.push(bones.length);
      bones.push({ name: words[0] === "End" ? "" : words.slice(1).join(" "), parent: open.at(-2) ?? -1, offset: [0, 0, 0], channels: [] });
    } else if (words[0] === "OFFSET") bones[open.at(-1)].offset = words.slice(1, 4).map(Number);
    else if (words[0] === "CHANNELS") bones[open.at(-1)].channels = words.slice(2);
    else if (words[0] === "}") open.pop();
  }
  const lines = data.trim().split("\n");
  const count = Number(lines[0]?.split(":")[1]), seconds = Number(lines[1]?.split(":")[1]);
  if (!(count > 0) || !(seconds > 0)) throw new Error("it has no frames");
  if (count > MAX_MOTION_FRAMES) throw new Error(`it has ${count} frames; at most ${MAX_MOTION_FRAMES} are played`);
  const width = bones.reduce((sum, bone) => sum + bone.channels.length, 0);
  const frames = lines.slice(2, 2 + count).map((line) => line.trim().split(/\s+/).map(Number));
  if (frames.length < count || frames.some((row) => row.length !== width || !row.every(Number.isFinite))) throw new Error("its frames are damaged");
  return { bones, frames, fps: 1 / seconds };
}

function matchBones(names) {
  const index = new Map();
  names.forEach((name, i) => {
    const plain = name.replace(/^.*:/, "").toLowerCase().replace("mixamorig", "").replace(/[\s_.-]/g, "");
    if (!index.has(plain)) index.set(plain, i);
  });
  const found = new Map();
  const add = (joint, options, taken = new Set()) => {
    const match = options.find((option) => index.has(option) && !taken.has(option));
    if (match === undefined) return;
    taken.add(match);
    found.set(joint, index.get(match));
  };
  for (const joint of ["pelvis", "neck", "head"]) add(joint, BVH_NAMES[joint]);
  for (const side of ["left", "right"]) {
    const taken = new Set();
    for (const joint of Object.keys(BVH_NAMES).slice(3)) {
      add(`${side}_${joint}`, BVH_NAMES[joint].flatMap((name) => [side + name, side[0] + name, name + side]), taken);
    }
    for (const finger of ["thumb", "index", "middle", "ring", "pinky"]) {
      for (const k of [1, 2, 3]) add(`${side}_${finger}${k}`, [`${side}hand${finger}${k}`, `${side}${finger}${k}`, `${side}finger${finger}${k}`]);
    }
  }
  const spines = SPINES.filter((name) => index.has(name)).map((name) => index.get(name)).sort((a, b) => a - b);
  if (spines.length) found.set("spine3", spines.at(-1));
  if (spines.length > 1) found.set("spine1", spines[0]);
  if (spines.length > 2) found.set("spine2", spines[Math.floor(spines.length / 2)]);
  const needed = ["pelvis", ...["hip", "knee", "shoulder", "elbow"].flatMap((joint) => [`left_${joint}`, `right_${joint}`])];
  if (!needed.every((joint) => found.has(joint))) throw new Error(`its joints have unknown names: ${names.filter(Boolean).slice(0, 12).join(", ")}`);
  return found;
}

/** The rotation of each bone from our rest pose to the file's. */
function alignBones({ names, parents, rest }, { bones, frames, found, stands, rest: theirs }, inWorld) {
  const trunk = ["spine1", "spine2", "spine3", "neck", "head"];
  const limbs = { hip: "knee", knee: "ankle", ankle: "foot", collar: "shoulder", shoulder: "elbow", elbow: "wrist", wrist: "middle1" };
  const align = [];
  names.forEach((joint, j) => {
    let before = parents[j] < 0 ? [1, 0, 0, 0] : align[parents[j]];
    align[j] = before;
    if (!found.has(joint) || joint === "pelvis") return;
    const [side, part = ""] = joint.split("_"), at = found.get(joint);
    const central = trunk.includes(joint) || part === "collar";
    if (stands && central) {  // the curve of a spine is each skeleton's own
      align[j] = [1, 0, 0, 0];
      return;
    }
    const next = trunk.includes(joint) ? trunk.slice(trunk.indexOf(joint) + 1).find((name) => found.has(name))
      : [`${side}_${limbs[part] ?? part.replace(/[12]$/, (k) => Number(k) + 1)}`].find((name) => name !== joint && found.has(name));
    const end = next ? found.get(next) : joint === "head" || /\d$/.test(part) ? bones.findIndex((bone) => bone.parent === at) : -1;
    if (end < 0 || (joint === "head" && !stands)) {
      const parent = found.get(names[parents[j]]);
      if (!stands && parent !== undefined) {  // a head has no direction: over the frames it is turned as its parent is
        align[j] = multiplyQuats(meanQuat(frames.map((row) => {
          const { turns } = poseBones(bones, row);
          return multiplyQuats(conjugate(inWorld(turns[at])), inWorld(turns[parent]));
        })), before);
      }
      return;
    }
    let ours = next ? rest[names.indexOf(next)].map((v, c) => v - rest[j][c]) : rest[j].map((v, c) => v - rest[parents[j]][c]);
    let direction = theirs[end].map((v, c) => v - theirs[at][c]);
    if (central) ours = part === "collar" ? [Math.sign(ours[0]), 0, 0] : [0, 1, 0];
    else if (part === "ankle" && stands) {  // feet stand flat in both rest poses; only their headings differ
      [ours, direction] = [[ours[0], 0, ours[2]], [direction[0], 0, direction[2]]];
      before = [1, 0, 0, 0];
    }
    if (Math.hypot(...ours) > 1e-6 && Math.hypot(...direction) > 1e-6) align[j] = multiplyQuats(smallestTurn(turned(before, ours), direction), before);
  });
  return align;
}

/** The mean of rotations that are not far apart. */
function meanQuat(quats) {
  const sum = [0, 0, 0, 0];
  for (const q of quats) {
    const sign = q.reduce((dot, v, c) => dot + v * quats[0][c], 0) < 0 ? -1 : 1;
    q.forEach((v, c) => { sum[c] += sign * v; });
  }
  return normalized(sum);
}

function legLength(places, index) {
  const chain = index("left_ankle") >= 0 && index("right_ankle") >= 0 ? ["hip", "knee", "ankle"] : ["hip", "knee"];
  let sum = 0;
  for (const side of ["left", "right"]) {
    for (let k = 1; k < chain.length; k++) {
      const [a, b] = [chain[k - 1], chain[k]].map((joint) => places[index(`${side}_${joint}`)]);
      sum += Math.hypot(...a.map((v, c) => b[c] - v));
    }
  }
  return sum / 2;
}

/** The motion such that it begins at the middle, faces the front there, and its lowest foot stands where ours stands. */
function grounded(clip, skeleton) {
  const count = skeleton.parents.length, { quats, translation } = clip;
  const ahead = turned([...quats.subarray(0, 4)], [0, 0, 1]);
  const turn = Math.hypot(ahead[0], ahead[2]) > 0.1 ? axisQuat("y", -Math.atan2(ahead[0], ahead[2]) * 180 / Math.PI) : [1, 0, 0, 0];
  for (let f = 0; f < clip.frames; f++) {
    const at = 4 * f * count;
    quats.set(multiplyQuats(turn, quats.subarray(at, at + 4)), at);
    translation[f] = turned(turn, translation[f]);
  }
  const [x, , z] = translation[0];
  const probe = new Skeleton({ names: skeleton.names, parents: skeleton.parents, joints: skeleton.rest, quats: [...Array(count)].map(() => [1, 0, 0, 0]), translation: [0, 0, 0] });
  const feet = ["left_foot", "right_foot", "left_ankle", "right_ankle"].map((joint) => skeleton.names.indexOf(joint));
  const lowest = (pose) => {
    probe.pose = pose;
    probe.update();
    return Math.min(...feet.map((j) => probe.places[3 * j + 1] - skeleton.rest[j][1]));
  };
  const standing = lowest(skeleton.standing), step = Math.max(1, Math.floor(clip.frames / 200));
  let low = Infinity;
  for (let f = 0; f < clip.frames; f += step) low = Math.min(low, lowest({ quats: quats.subarray(4 * f * count, 4 * (f + 1) * count), translation: translation[f] }));
  clip.translation = translation.map((place) => [place[0] - x, place[1] + standing - low, place[2] - z]);
  return clip;
}

const dotted = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const crossed = ([a, b, c], [d, e, f]) => [b * f - c * e, c * d - a * f, a * e - b * d];
const normalized = (a) => a.map((v) => v / Math.hypot(...a));
const conjugate = ([w, x, y, z]) => [w, -x, -y, -z];
const turned = (q, v) => multiplyQuats(multiplyQuats(q, [0, ...v]), conjugate(q)).slice(1);

function nearestAxis(v) {
  const k = v.map(Math.abs).indexOf(Math.max(...v.map(Math.abs)));
  return v.map((value, i) => (i === k ? Math.sign(value) : 0));
}

/** The smallest rotation from the direction of a to that of b. */
function smallestTurn(a, b) {
  [a, b] = [normalized(a), normalized(b)];
  const w = 1 + dotted(a, b);
  if (w < 1e-9) return [0, ...normalized(crossed(a, Math.abs(a[2]) < 0.9 ? [0, 0, 1] : [1, 0, 0]))];
  const q = [w, ...crossed(a, b)], norm = Math.hypot(...q);
  return q.map((value) => value / norm);
}

/** Files that are dropped on the page: a .bvh or .npz plays, anything else is answered with a line. */
function listenToFiles(viewer) {
  const read = async (file) => {
    if (!viewer.skeleton.names.length) throw new Error("this avatar has no skeleton");
    const suffix = file.name.slice(-4).toLowerCase();
    if (![".bvh", ".npz"].includes(suffix)) throw new Error("this page plays .bvh and .npz files");
    if (file.size > MAX_MOTION_BYTES) throw new Error(`it has ${Math.round(file.size / 2 ** 20)} MB; at most ${MAX_MOTION_BYTES / 2 ** 20} MB are read`);
    const name = file.name.slice(0, -4);
    const clip = suffix === ".bvh" ? readBvh(await file.text(), viewer.skeleton, name) : await readNpz(file, viewer.skeleton, name);
    const { clips } = viewer.player;
    const known = clips.findIndex((other) => other.name === name);
    if (known >= 0) clips.splice(known, 1);
    clips.push(clip);
    viewer.onClips(name);
  };
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    for (const file of event.dataTransfer.files) read(file).catch((error) => viewer.say(`${file.name} cannot be played: ${error.message}`));
  });
}
