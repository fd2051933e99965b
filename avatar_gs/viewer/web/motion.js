
const FADE_SECONDS = 0.35;  // from one motion to the next

/** Normalised linear interpolation of quaternions, into out[at..at+3]. */
function mixQuats(p, i, q, j, t, out, at) {
  const dot = p[i] * q[j] + p[i + 1] * q[j + 1] + p[i + 2] * q[j + 2] + p[i + 3] * q[j + 3];
  const sign = dot < 0 ? -t : t;
  let norm = 0;
  const mixed = [0, 1, 2, 3].map((k) => p[i + k] * (1 - t) + q[j + k] * sign);
  for (const value of mixed) norm += value * value;
  for (let k = 0; k < 4; k++) out[at + k] = mixed[k] / Math.sqrt(norm);
}

/** The skeleton, its pose and the joints' transforms. Quaternions are w x y z, relative to the parent. */
class Skeleton {
  constructor({ names, parents, joints, quats, translation }) {
    this.names = names;
    this.parents = parents;
    this.rest = joints;
    this.standing = { quats: Float32Array.from(quats.flat()), translation: [...translation] };
    this.pose = { quats: this.standing.quats.slice(), translation: [...translation] };
    this.extra = new Map();  // joint -> quaternion applied after the pose's, by the sliders
    this.bones = new Float32Array(12 * parents.length);
    this.places = new Float32Array(3 * parents.length);
    this.turns = new Float32Array(9 * parents.length);
    this.rows = new Float32Array(4 * parents.length);
  }

  /** Compute bones (3 x 4 by rows, from rest to pose) and the joints' places, down the tree. */
  update() {
    const { parents, rest, bones, places, turns, pose } = this;
    for (let j = 0; j < parents.length; j++) {
      let q = pose.quats.subarray(4 * j, 4 * j + 4);
      if (this.extra.has(j)) q = multiplyQuats(q, this.extra.get(j));
      const [w, x, y, z] = q, p = parents[j];
      const own = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
      ];
      for (let r = 0; r < 3; r++) {
        const row = 9 * p + 3 * r;
        for (let c = 0; c < 3; c++) {
          turns[9 * j + 3 * r + c] = p < 0 ? own[3 * r + c]
            : turns[row] * own[c] + turns[row + 1] * own[3 + c] + turns[row + 2] * own[6 + c];
        }
        places[3 * j + r] = p < 0 ? rest[j][r] + pose.translation[r]
          : places[3 * p + r] + [0, 1, 2].reduce((sum, c) => sum + turns[row + c] * (rest[j][c] - rest[p][c]), 0);
      }
      for (let r = 0; r < 3; r++) {
        let moved = places[3 * j + r];
        for (let c = 0; c < 3; c++) {
          bones[12 * j + 4 * r + c] = turns[9 * j + 3 * r + c];
          moved -= turns[9 * j + 3 * r + c] * rest[j][c];
        }
        bones[12 * j + 4 * r + 3] = moved;
      }
    }
  }

  /** For each joint the numbers that give the depth of a point at rest, along a direction. */
  depths([x, y, z]) {
    const { bones } = this, rows = new Float32Array(this.rows.length);
    for (let j = 0; j < this.parents.length; j++) {
      for (let c = 0; c < 4; c++) {
        const k = 12 * j + c;
        rows[4 * j + c] = x * bones[k] + y * bones[k + 4] + z * bones[k + 8];
      }
    }
    return rows;
  }

  /** Where a joint is now; undefined without a skeleton of that name. */
  place(name) {
    const j = this.names.indexOf(name);
    return j < 0 ? undefined : [...this.places.subarray(3 * j, 3 * j + 3)];
  }
}

function multiplyQuats([a, b, c, d], [e, f, g, h]) {
  return [a * e - b * f - c * g - d * h, a * f + b * e + c * h - d * g, a * g - b * h + c * e + d * f, a * h + b * g - c * f + d * e];
}

/** The rotations of a packaged motion: of each frame and joint, from the vector parts of the joints that move. */
function unpackClip(clip, joints) {
  const { frames, moving, still, values } = clip;
  const quats = new Float32Array(4 * joints * frames);
  const set = (at, x, y, z) => quats.set([Math.sqrt(Math.max(0, 1 - x * x - y * y - z * z)), x, y, z], at);
  for (let f = 0; f < frames; f++) {
    for (let j = 0; j < joints; j++) set(4 * (f * joints + j), ...still[j]);
    moving.forEach((j, m) => {
      const from = 3 * (f * moving.length + m);
      set(4 * (f * joints + j), values[from] / 32767, values[from + 1] / 32767, values[from + 2] / 32767);
    });
  }
  return { name: clip.name, fps: clip.fps, frames, loops: clip.loops, quats, translation: clip.translation };
}

/** Plays motions on a skeleton. */
class Player {
  constructor(skeleton, clips) {
    this.skeleton = skeleton;
    this.clips = clips.map((clip) => unpackClip(clip, skeleton.parents.length));
    this.clip = null;  // null: the pose in which the avatar was exported
    this.time = 0;
    this.speed = 1;
    this.playing = false;
    this.looping = true;
    this.fade = 1;
    this.before = null;
  }

  get duration() {
    const { clip } = this;
    return clip ? (clip.loops ? clip.frames : Math.max(1, clip.frames - 1)) / clip.fps : 0;
  }

  /** Change to a motion by its name; any other name is the standing pose. */
  choose(name, smoothly = true) {
    const { pose } = this.skeleton;
    this.before = smoothly ? { quats: pose.quats.slice(), translation: [...pose.translation] } : null;
    this.fade = smoothly ? 0 : 1;
    this.clip = this.clips.find((clip) => clip.name === name) ?? null;
    this.time = 0;
  }

  /** Whether the next frame differs from this one. */
  get moves() {
    return (this.playing && this.clip !== null) || this.fade < 1;
  }

  advance(seconds) {
    if (this.fade < 1) this.fade = Math.min(1, this.fade + seconds / FADE_SECONDS);
    if (!this.playing || !this.clip) return;
    this.time += seconds * this.speed;
    if (this.time < this.duration) return;
    if (this.looping) this.time %= this.duration;
    else {
      this.time = this.duration;
      this.playing = false;
    }
  }

  /** Write the pose of this time into the skeleton. */
  apply() {
    const { clip, skeleton, before } = this, { pose, standing } = skeleton;
    const joints = skeleton.parents.length;
    if (!clip) {
      pose.quats.set(standing.quats);
      pose.translation = [...standing.translation];
    } else {
      const place = Math.min(this.time * clip.fps, clip.loops ? clip.frames : clip.frames - 1);
      const first = Math.floor(place) % clip.frames, t = place - Math.floor(place);
      const next = clip.loops ? (first + 1) % clip.frames : Math.min(first + 1, clip.frames - 1);
      for (let j = 0; j < joints; j++) {
        mixQuats(clip.quats, 4 * (first * joints + j), clip.quats, 4 * (next * joints + j), t, pose.quats, 4 * j);
      }
      pose.translation = clip.translation[first].map((value, i) => value * (1 - t) + clip.translation[next][i] * t);
    }
    if (before && this.fade < 1) {
      const t = this.fade * this.fade * (3 - 2 * this.fade);
      for (let j = 0; j < joints; j++) mixQuats(before.quats, 4 * j, pose.quats.slice(), 4 * j, t, pose.quats, 4 * j);
      pose.translation = pose.translation.map((value, i) => before.translation[i] * (1 - t) + value * t);
    }
    skeleton.update();
  }
}
