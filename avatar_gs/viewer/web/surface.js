
const SURFACE_POINTS = 800;
const SOLID = 80;  // opacity in bytes from which a splat counts as surface

/** The posed splats as the camera meets them: points that it stays clear of, and the point below a finger. */
class Surface {
  constructor(splats, skeleton) {
    this.splats = splats;
    this.skeleton = skeleton;
    const solid = [];
    for (let i = 0; i < splats.count; i++) if (splats.colors[4 * i + 3] >= SOLID) solid.push(i);
    const step = Math.max(1, solid.length / SURFACE_POINTS);
    this.picked = Array.from({ length: Math.floor(solid.length / step) }, (_, i) => solid[Math.floor(i * step)]);
    this.points = new Float32Array(3 * this.picked.length);
  }

  /** Move the points with the skeleton. */
  update() {
    this.picked.forEach((splat, i) => this.place(splat, this.points, 3 * i));
  }

  /** Write the place of a splat to out[at..at+2]. */
  place(i, out, at) {
    const { means, joints, weights } = this.splats, { bones } = this.skeleton;
    const x = means[3 * i], y = means[3 * i + 1], z = means[3 * i + 2];
    let total = 0, a = 0, b = 0, c = 0;
    for (let k = 4 * i; k < 4 * i + 4; k++) {
      const w = weights[k], m = 12 * joints[k];
      total += w;
      a += w * (bones[m] * x + bones[m + 1] * y + bones[m + 2] * z + bones[m + 3]);
      b += w * (bones[m + 4] * x + bones[m + 5] * y + bones[m + 6] * z + bones[m + 7]);
      c += w * (bones[m + 8] * x + bones[m + 9] * y + bones[m + 10] * z + bones[m + 11]);
    }
    out[at] = a / total;
    out[at + 1] = b / total;
    out[at + 2] = c / total;
  }

  /** The nearest splat below a place of the image (pixels right and down of the optical axis); null if there is none. */
  hit({ cameraFromWorld: m, focal }, right, down) {
    const { count, scales, colors } = this.splats, at = [0, 0, 0];
    let nearest = Infinity, found = null;
    for (let i = 0; i < count; i++) {
      if (colors[4 * i + 3] < SOLID) continue;
      this.place(i, at, 0);
      const [x, y, z] = [0, 1, 2].map((r) => m[r] * at[0] + m[4 + r] * at[1] + m[8 + r] * at[2] + m[12 + r]);
      if (z <= 0 || z >= nearest) continue;
      const radius = 3 + 1.5 * Math.max(scales[3 * i], scales[3 * i + 1], scales[3 * i + 2]) * focal / z;
      if (Math.hypot(focal * x / z - right, focal * y / z - down) > radius) continue;
      nearest = z;
      found = [...at];
    }
    return found;
  }
}
