
const TEXTURES = ["geometry", "colors", "joints", "weights", "bones", "order"];  // by their units

/** Renders splats to a canvas with WebGL2. Colours are sRGB and stay unchanged. */
class SplatRenderer {
  static ROW = 512;  // splats per row of a texture; three texels each: below 2048, which every device supports

  /** @throws {Error} if the browser has no WebGL2. */
  constructor(canvas, splats) {
    this.canvas = canvas;
    this.splats = splats;
    this.gl = canvas.getContext("webgl2", { antialias: false, depth: false, powerPreference: "high-performance" });
    if (!this.gl) throw new Error("WebGL2");
    this.prepare();
  }

  /** Create everything on the GPU; called again after a lost context. */
  prepare() {
    const gl = this.gl;
    this.program = this.link();
    gl.useProgram(this.program);
    this.places = {};
    for (const name of [...TEXTURES, "cameraFromWorld", "focal", "viewport", "middle", "count"]) {
      this.places[name] = gl.getUniformLocation(this.program, name);
    }
    TEXTURES.forEach((name, unit) => gl.uniform1i(this.places[name], unit));
    this.upload();
    this.ordered = 0;
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
    const corners = Uint16Array.from({ length: 6 * BATCH }, (_, i) => 4 * Math.floor(i / 6) + [0, 1, 2, 2, 1, 3][i % 6]);
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, corners, gl.STATIC_DRAW);
    gl.disable(gl.DITHER);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  }

  link() {
    const gl = this.gl;
    const program = gl.createProgram();
    for (const [type, source] of [[gl.VERTEX_SHADER, VERTEX_SHADER], [gl.FRAGMENT_SHADER, FRAGMENT_SHADER]]) {
      const shader = gl.createShader(type);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost()) {
      const logs = gl.getAttachedShaders(program).map((shader) => gl.getShaderInfoLog(shader));
      throw new Error(`the graphics driver refused the shaders: ${logs.join(" ")} ${gl.getProgramInfoLog(program)}`);
    }
    return program;
  }

  upload() {
    const gl = this.gl;
    const { count, means, quats, scales, colors, joints, weights, rig } = this.splats;
    const rows = Math.ceil(count / SplatRenderer.ROW);
    const geometry = new Float32Array(rows * SplatRenderer.ROW * 12);
    for (let i = 0; i < count; i++) {
      geometry.set(means.subarray(3 * i, 3 * i + 3), 12 * i);
      geometry.set(quats.subarray(4 * i, 4 * i + 4), 12 * i + 4);
      geometry.set(scales.subarray(3 * i, 3 * i + 3), 12 * i + 8);
    }
    const padded = (values) => {
      const all = new Uint8Array(rows * SplatRenderer.ROW * 4);
      all.set(values);
      return all;
    };
    const { ROW } = SplatRenderer;
    this.texture(0, gl.RGBA32F, gl.RGBA, gl.FLOAT, 3 * SplatRenderer.ROW, rows, geometry);
    this.texture(1, gl.RGBA8, gl.RGBA, gl.UNSIGNED_BYTE, ROW, rows, padded(colors));
    this.texture(2, gl.RGBA8UI, gl.RGBA_INTEGER, gl.UNSIGNED_BYTE, ROW, rows, padded(joints));
    this.texture(3, gl.RGBA8, gl.RGBA, gl.UNSIGNED_BYTE, ROW, rows, padded(weights));
    const bones = rig.parents.length;
    this.texture(4, gl.RGBA32F, gl.RGBA, gl.FLOAT, 3, bones, new Float32Array(12 * bones));
    this.texture(5, gl.R32UI, gl.RED_INTEGER, gl.UNSIGNED_INT, ROW, rows, new Uint32Array(ROW * rows));
  }

  texture(unit, internal, format, type, width, height, data) {
    const gl = this.gl;
    gl.activeTexture(gl.TEXTURE0 + unit);
    gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
    gl.texImage2D(gl.TEXTURE_2D, 0, internal, width, height, 0, format, type, data);
  }

  /** Set the splats' indices, from the farthest to the nearest, padded to whole rows of the texture. */
  setOrder(order) {
    const gl = this.gl, { ROW } = SplatRenderer;
    gl.activeTexture(gl.TEXTURE5);
    gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, ROW, order.length / ROW, gl.RED_INTEGER, gl.UNSIGNED_INT, order);
    this.ordered = this.splats.count;
  }

  /** Set the joints' transforms from rest to pose, 12 numbers each (3 x 4 by rows). */
  setBones(bones) {
    const gl = this.gl;
    gl.activeTexture(gl.TEXTURE4);
    gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, 3, bones.length / 12, gl.RGBA, gl.FLOAT, bones);
  }

  /**
   * @param {{cameraFromWorld: Float32Array, focal: number}} view the 4 x 4 matrix by columns; focal length in pixels
   * @param {number} lift height of the optical axis above the canvas's centre, in pixels
   */
  draw({ cameraFromWorld, focal }, lift) {
    const gl = this.gl;
    const { width, height } = this.canvas;
    gl.viewport(0, 0, width, height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.uniformMatrix4fv(this.places.cameraFromWorld, false, cameraFromWorld);
    gl.uniform2f(this.places.focal, focal, focal);
    gl.uniform2f(this.places.viewport, width, height);
    gl.uniform2f(this.places.middle, 0, -lift);
    gl.uniform1i(this.places.count, this.ordered);
    gl.drawElementsInstanced(gl.TRIANGLES, 6 * BATCH, gl.UNSIGNED_SHORT, 0, Math.ceil(this.ordered / BATCH));
  }
}
