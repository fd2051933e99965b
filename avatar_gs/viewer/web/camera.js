
const NEAREST = 0.14;  // heights of the avatar from the target: outside a body
const CLEARANCE = 0.075;  // heights of the avatar from the eye to its surface: more than a trunk's half thickness
const RADIANS = Math.PI / 180;

/**
 * A camera that orbits a target. Angles in degrees: azimuth 0 is in front of the avatar, 90 at its left hand; elevation
 * is positive above. Lengths in metres. `goal` is the requested view, which `now` follows smoothly.
 */
class OrbitCamera {
  constructor(bounds) {
    const [low, high] = bounds;
    this.size = Math.max(...high.map((value, i) => value - low[i]), 0.01);
    this.bounds = bounds;
    this.points = new Float32Array(0);  // of the surface, which the eye stays clear of
    this.first = {};
    this.goal = { azimuth: 0, elevation: 5, distance: this.size, fov: 30, target: low.map((v, i) => (v + high[i]) / 2) };
    this.now = structuredClone(this.goal);
  }

  /**
   * Return to the first view: `first`, by default the whole avatar.
   * @param {number} aspect width / height of the image
   * @param {number} free fraction of the image's height that the avatar may fill
   */
  reset(aspect, free) {
    const [low, high] = this.bounds;
    const target = this.first.target ?? low.map((value, i) => (value + high[i]) / 2);
    const fov = this.first.fov ?? 30;
    const tangent = Math.tan((fov / 2) * RADIANS);
    const reach = Math.hypot(high[0] - low[0], high[2] - low[2]) / 2;
    const needed = Math.max((high[1] - low[1]) / 2 / free, reach / aspect);
    const fit = (1.12 * needed) / tangent + (high[2] - low[2]) / 2;
    Object.assign(this.goal, { azimuth: 0, elevation: 5, distance: fit, fov, ...this.first, target: [...target] });
    this.limit();
    // Take the shorter direction instead of unwinding a long spin.
    this.now.azimuth -= 360 * Math.round((this.now.azimuth - this.goal.azimuth) / 360);
  }

  turn(azimuth, elevation) {
    this.goal.azimuth += azimuth;
    this.goal.elevation += elevation;
    this.limit();
  }

  /** Come nearer by a factor below 1; what is shown right and down of the middle (fractions of the height) stays there. */
  zoom(factor, right = 0, down = 0) {
    const before = this.goal.distance;
    this.goal.distance *= factor;
    this.limit();
    if (factor < 1) this.goal.distance = Math.min(before, this.clear(this.goal));
    const kept = before / this.goal.distance - 1;
    if (right || down) this.pan(-right * kept, -down * kept);
  }

  /** Look at a place, with so many metres of height in the image. */
  focus(target, metres, aspect) {
    this.goal.target = [...target];
    this.goal.distance = metres / Math.min(1, aspect) / 2 / Math.tan((this.goal.fov / 2) * RADIANS);
    this.limit();
  }

  /** Move the scene right and down, in fractions of the image's height. */
  pan(right, down) {
    const [x, y] = this.axes(this.goal);
    const metres = 2 * this.goal.distance * Math.tan((this.goal.fov / 2) * RADIANS);
    this.goal.target = this.goal.target.map((value, i) => value - metres * (right * x[i] + down * y[i]));
    this.limit();
  }

  limit() {
    const { goal, size } = this;
    const [low, high] = this.bounds;
    goal.elevation = Math.min(89, Math.max(-89, goal.elevation));
    goal.distance = Math.min(20 * size, Math.max(NEAREST * size, goal.distance));
    goal.target = goal.target.map((value, i) => Math.min(high[i] + size, Math.max(low[i] - size, value)));
  }

  /** The distance from the target at which the eye is clear of the body: the view's, or the next larger one. */
  clear(view) {
    const { target: [a, b, c], distance } = view, { points } = this;
    const [x, y, z] = this.axes(view)[2], square = (CLEARANCE * this.size) ** 2;
    const spans = [];  // of distances at which the eye is too near to a point
    for (let i = 0; i < points.length; i += 3) {
      const [u, v, w] = [a - points[i], b - points[i + 1], c - points[i + 2]];
      const along = u * x + v * y + w * z;
      const half = along * along - (u * u + v * v + w * w) + square;
      if (half > 0 && along + Math.sqrt(half) > distance) spans.push([along - Math.sqrt(half), along + Math.sqrt(half)]);
    }
    spans.sort((one, other) => one[0] - other[0]);
    let free = distance;
    for (const [from, to] of spans) {
      if (from > free) break;
      free = Math.max(free, to);
    }
    return free;
  }

  jump() {
    this.now = structuredClone(this.goal);
  }

  /** Move towards the goal for a time step; returns whether it is not yet reached. */
  follow(seconds) {
    const fraction = 1 - Math.exp(-14 * seconds);
    let left = 0;
    const approach = (from, to, unit) => {
      left = Math.max(left, Math.abs(to - from) / unit);
      return from + (to - from) * fraction;
    };
    const { now, goal, size } = this;
    now.fov = goal.fov;
    now.azimuth = approach(now.azimuth, goal.azimuth, 0.02);
    now.elevation = approach(now.elevation, goal.elevation, 0.02);
    now.distance = approach(now.distance, goal.distance, 5e-4 * size);
    now.target = now.target.map((value, i) => approach(value, goal.target[i], 5e-4 * size));
    if (left <= 1) this.jump();
    return left > 1;
  }

  /** The camera's axes in the world: right, down, forward. */
  axes({ azimuth, elevation }) {
    const [a, e] = [azimuth * RADIANS, elevation * RADIANS];
    return [
      [Math.cos(a), 0, -Math.sin(a)],
      [Math.sin(a) * Math.sin(e), -Math.cos(e), Math.cos(a) * Math.sin(e)],
      [-Math.sin(a) * Math.cos(e), -Math.sin(e), -Math.cos(a) * Math.cos(e)],
    ];
  }

  /** The renderer's input for an image of this height in pixels. */
  view(height) {
    const { target, fov } = this.now, distance = this.clear(this.now);
    const [x, y, z] = this.axes(this.now);
    const eye = target.map((value, i) => value - distance * z[i]);
    const away = (axis) => -axis.reduce((sum, value, i) => sum + value * eye[i], 0);
    const columns = [0, 1, 2].flatMap((i) => [x[i], y[i], z[i], 0]);
    return {
      cameraFromWorld: new Float32Array([...columns, away(x), away(y), away(z), 1]),
      focal: height / 2 / Math.tan((fov / 2) * RADIANS),
      direction: z,
      distance,
    };
  }
}
