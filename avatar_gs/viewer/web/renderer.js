
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
    for (const name of ["geometry", "colors", "cameraFromWorld", "focal", "viewport", "middle"]) {
      this.places[name] = gl.getUniformLocation(this.program, name);
    }
    gl.uniform1i(this.places.geometry, 0);
    gl.uniform1i(this.places.colors, 1);
    this.upload();
    this.ordered = 0;
    this.orderBuffer = gl.createBuffer();
    gl.bindBuffer(gl.ARRAY_BUFFER, this.orderBuffer);
    const place = gl.getAttribLocation(this.program, "splat");
    gl.enableVertexAttribArray(place);
    gl.vertexAttribIPointer(place, 1, gl.UNSIGNED_INT, 0, 0);
    gl.vertexAttribDivisor(place, 1);
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
    const { count, means, quats, scales, colors } = this.splats;
    const rows = Math.ceil(count / SplatRenderer.ROW);
    const geometry = new Float32Array(rows * SplatRenderer.ROW * 12);
    for (let i = 0; i < count; i++) {
      geometry.set(means.subarray(3 * i, 3 * i + 3), 12 * i);
      geometry.set(quats.subarray(4 * i, 4 * i + 4), 12 * i + 4);
      geometry.set(scales.subarray(3 * i, 3 * i + 3), 12 * i + 8);
    }
    const padded = new Uint8Array(rows * SplatRenderer.ROW * 4);
    padded.set(colors);
    this.texture(0, gl.RGBA32F, gl.RGBA, gl.FLOAT, 3 * SplatRenderer.ROW, rows, geometry);
    this.texture(1, gl.RGBA8, gl.RGBA, gl.UNSIGNED_BYTE, SplatRenderer.ROW, rows, padded);
  }

  texture(unit, internal, format, type, width, height, data) {
    const gl = this.gl;
    gl.activeTexture(gl.TEXTURE0 + unit);
    gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
    gl.texImage2D(gl.TEXTURE_2D, 0, internal, width, height, 0, format, type, data);
  }

  /** Set the splats' indices, from the farthest to the nearest. */
  setOrder(order) {
    const gl = this.gl;
    gl.bindBuffer(gl.ARRAY_BUFFER, this.orderBuffer);
    gl.bufferData(gl.ARRAY_BUFFER, order, gl.DYNAMIC_DRAW);
    this.ordered = order.length;
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
    gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, this.ordered);
  }
}
