
/**
 * Read the page's block of splats: "AGS1", the length of the header, a JSON header, sections of numbers. Unknown
 * sections are ignored.
 * Without a skeleton, all splats hang on one joint that never moves.
 * @returns {{count: number, bounds: number[][], means: Float32Array, scales: Float32Array, quats: Float32Array,
 *   colors: Uint8Array, joints: Uint8Array, weights: Uint8Array, rig: object, about: string[]}} metres; quaternions as
 *   w x y z; colours as red, green, blue, opacity; four joints and weights a splat.
 */
function readSplats(base64) {
  const text = atob(base64.trim());
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const magic = String.fromCharCode(...bytes.subarray(0, 4));
  if (magic !== "AGS1") throw new Error(`the splats in this page start with ${magic} instead of AGS1`);
  const start = 8 + new DataView(bytes.buffer).getUint32(4, true);
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, start)));

  const types = { uint8: Uint8Array, uint16: Uint16Array, int16: Int16Array };
  const stored = (name) => {
    const section = header.sections.find((candidate) => candidate.name === name);
    const length = (section.count ?? header.count) * section.components;
    return { section, values: new types[section.type](bytes.buffer, start + section.offset, length) };
  };
  const numbers = (name) => {
    const { section, values } = stored(name);
    const { components, low, high } = section;
    const largest = 2 ** (8 * values.BYTES_PER_ELEMENT) - 1;
    const steps = low.map((value, c) => (high[c] - value) / largest);
    return Float32Array.from(values, (value, i) => low[i % components] + steps[i % components] * value);
  };
  const still = { names: [], parents: [-1], joints: [[0, 0, 0]], quats: [[1, 0, 0, 0]], translation: [0, 0, 0], clips: [] };
  const rig = header.rig ?? still;
  for (const clip of rig.clips) clip.values = stored(clip.section).values;
  const rows = new Uint8Array(4 * header.count);
  return {
    rig,
    about: header.about ?? [],
    joints: header.rig ? stored("joints").values : rows,
    weights: header.rig ? stored("weights").values : rows.map((_, i) => (i % 4 ? 0 : 255)),
    count: header.count,
    bounds: header.bounds,
    means: numbers("means"),
    scales: numbers("log_scales").map(Math.exp),
    quats: numbers("quats"),
    colors: stored("colors").values,
  };
}
