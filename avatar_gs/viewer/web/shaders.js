
// The constants of the program's renderer (avatar_gs/render/cpu), so that the page shows what was trained.
const RENDERER = `
const float NEAR = 0.01;
const float BLUR = 0.3;             // variance in pixels squared, added to the projected covariance
const float WINDOW = 0.15;          // how far outside the image, in widths, the projection may be linearised
const float ALPHA_CUT = 1.0 / 255.0;
const float ALPHA_MAX = 0.999;
`;
const BATCH = 128;  // quads an instance: one quad an instance is slow, on software renderers by several times

/**
 * One quad per splat, around the ellipse that its Gaussian projects to (EWA splatting, Zwicker et al. 2001, as in the 3D
 * Gaussian splatting paper). The camera is OpenCV's: x right, y down, z forward.
 */
const VERTEX_SHADER = `#version 300 es
precision highp float;
precision highp int;
precision highp usampler2D;
const int BATCH = ${BATCH};
${RENDERER}
uniform highp sampler2D geometry;   // three texels per splat: mean, quaternion (wxyz), scale
uniform highp sampler2D colors;
uniform highp usampler2D joints;    // four per splat
uniform highp sampler2D weights;
uniform highp sampler2D bones;      // a row per joint: its transform from rest to pose, three rows of a 3 x 4 matrix
uniform highp usampler2D order;     // splats from the farthest to the nearest
uniform int count;
uniform mat4 cameraFromWorld;
uniform vec2 focal;                 // pixels
uniform vec2 viewport;              // pixels
uniform vec2 middle;                // where the optical axis meets the image: pixels from its centre, y down
out vec2 offset;                    // from the centre, in standard deviations
out vec4 color;

mat3 rotation(vec4 q) {
  float w = q.x, x = q.y, y = q.z, z = q.w;
  return mat3(
    1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y + w * z), 2.0 * (x * z - w * y),
    2.0 * (x * y - w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z + w * x),
    2.0 * (x * z + w * y), 2.0 * (y * z - w * x), 1.0 - 2.0 * (x * x + y * y)
  );
}

ivec2 texel(uint i, int width) {
  return ivec2(int(i) % width, int(i) / width);
}

// The rotation nearest to a blend of rotations, by Newton's iteration for the polar factor, as the program's.
mat3 nearestRotation(mat3 m) {
  for (int i = 0; i < 6; i++) {
    mat3 cofactor = mat3(cross(m[1], m[2]), cross(m[2], m[0]), cross(m[0], m[1]));
    m = 0.5 * (m + cofactor / dot(cofactor[0], m[0]));
  }
  return m;
}

// Covariance in pixels squared: xx, xy, yy.
vec3 project(vec3 center, mat3 axes) {
  // Far outside the image the linearised projection diverges: clamp it to a window.
  vec2 limit = (0.5 + WINDOW) * viewport / focal;
  vec2 slope = clamp(center.xy / center.z, -limit, limit);
  vec3 jx = vec3(focal.x, 0.0, -focal.x * slope.x) / center.z;
  vec3 jy = vec3(0.0, focal.y, -focal.y * slope.y) / center.z;
  vec3 px = jx * axes, py = jy * axes;
  return vec3(dot(px, px) + BLUR, dot(px, py), dot(py, py) + BLUR);
}

void main() {
  int width = textureSize(geometry, 0).x / 3;
  uint nth = uint(gl_InstanceID * BATCH + gl_VertexID / 4);
  if (int(nth) >= count) {
    gl_Position = vec4(0.0, 0.0, 2.0, 1.0);
    return;
  }
  ivec2 at = texel(texelFetch(order, texel(nth, width), 0).x, width);
  vec3 mean = texelFetch(geometry, ivec2(3 * at.x, at.y), 0).xyz;
  vec4 quat = texelFetch(geometry, ivec2(3 * at.x + 1, at.y), 0);
  vec3 scale = texelFetch(geometry, ivec2(3 * at.x + 2, at.y), 0).xyz;
  uvec4 joint = texelFetch(joints, at, 0);
  vec4 weight = texelFetch(weights, at, 0);
  weight /= dot(weight, vec4(1.0));
  mat3x4 rows = mat3x4(0.0);
  for (int k = 0; k < 4; k++) {
    if (weight[k] == 0.0) break;
    for (int r = 0; r < 3; r++) rows[r] += weight[k] * texelFetch(bones, ivec2(r, int(joint[k])), 0);
  }
  mat3 linear = transpose(mat3(rows[0].xyz, rows[1].xyz, rows[2].xyz));
  vec3 posed = linear * mean + vec3(rows[0].w, rows[1].w, rows[2].w);
  color = texelFetch(colors, at, 0);
  vec3 center = (cameraFromWorld * vec4(posed, 1.0)).xyz;
  if (center.z < NEAR || color.a < ALPHA_CUT) {
    gl_Position = vec4(0.0, 0.0, 2.0, 1.0);  // outside the clip volume
    return;
  }

  mat3 axes = mat3(cameraFromWorld) * nearestRotation(linear) * rotation(normalize(quat));
  axes[0] *= scale.x; axes[1] *= scale.y; axes[2] *= scale.z;
  vec3 cov = project(center, axes);
  float average = 0.5 * (cov.x + cov.z);
  float half_range = length(vec2(0.5 * (cov.x - cov.z), cov.y));
  vec2 major = abs(cov.y) > 1e-6 ? normalize(vec2(cov.y, average + half_range - cov.x))
    : cov.x >= cov.z ? vec2(1.0, 0.0) : vec2(0.0, 1.0);
  vec2 deviations = sqrt(vec2(average + half_range, max(average - half_range, BLUR)));

  // Where alpha falls to ALPHA_CUT.
  float reach = sqrt(2.0 * log(color.a / ALPHA_CUT));
  int which = gl_VertexID & 3;
  vec2 corner = vec2(which & 1, which >> 1) * 2.0 - 1.0;
  offset = reach * corner;
  vec2 steps = offset * deviations;
  vec2 pixels = middle + focal * center.xy / center.z + steps.x * major + steps.y * vec2(-major.y, major.x);
  gl_Position = vec4(vec2(2.0, -2.0) * pixels / viewport, 0.0, 1.0);
}
`;

const FRAGMENT_SHADER = `#version 300 es
precision highp float;
${RENDERER}
in vec2 offset;
in vec4 color;
out vec4 premultiplied;

void main() {
  float alpha = min(ALPHA_MAX, color.a * exp(-0.5 * dot(offset, offset)));
  if (alpha < ALPHA_CUT) discard;
  premultiplied = vec4(color.rgb * alpha, alpha);
}
`;
