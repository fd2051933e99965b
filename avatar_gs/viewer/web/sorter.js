
/**
 * The sorting worker, started from this function's source. Messages to it: {means, joints, weights} once, then {rows}: for
 * each joint the four numbers that give a point's depth. It answers with the splats' indices from the farthest to the
 * nearest, as blending needs them, padded to whole rows of a texture. Counting sort by 16-bit depth: a step is 0.03 mm on
 * a body of two metres.
 */
function sortingWorker() {
  const BUCKETS = 65536;
  const starts = new Uint32Array(BUCKETS + 1);
  let means = new Float32Array(0), joints = new Uint8Array(0), weights = new Float32Array(0);
  let depths = new Float32Array(0);
  let buckets = new Uint16Array(0);

  function measure(rows) {
    let low = Infinity, high = -Infinity;
    for (let i = 0; i < depths.length; i++) {
      const x = means[3 * i], y = means[3 * i + 1], z = means[3 * i + 2];
      let depth = 0;
      for (let k = 4 * i; k < 4 * i + 4 && weights[k]; k++) {
        const j = 4 * joints[k];
        depth += weights[k] * (rows[j] * x + rows[j + 1] * y + rows[j + 2] * z + rows[j + 3]);
      }
      depths[i] = depth;
      if (depth < low) low = depth;
      if (depth > high) high = depth;
    }
    const scale = high > low ? (BUCKETS - 1) / (high - low) : 0;
    for (let i = 0; i < depths.length; i++) buckets[i] = (high - depths[i]) * scale;
  }

  function sort(rows) {
    measure(rows);
    starts.fill(0);
    for (let i = 0; i < buckets.length; i++) starts[buckets[i] + 1]++;
    for (let b = 0; b < BUCKETS; b++) starts[b + 1] += starts[b];
    const order = new Uint32Array(512 * Math.ceil(buckets.length / 512));
    // At equal depth the first splat is in front, as in the program's renderer.
    for (let i = buckets.length - 1; i >= 0; i--) order[starts[buckets[i]]++] = i;
    return order;
  }

  onmessage = ({ data }) => {
    if (data.means) {
      ({ means, joints } = data);
      weights = Float32Array.from(data.weights, (weight, i) => {
        const k = i - (i % 4);
        return weight / (data.weights[k] + data.weights[k + 1] + data.weights[k + 2] + data.weights[k + 3]);
      });
      depths = new Float32Array(means.length / 3);
      buckets = new Uint16Array(means.length / 3);
    } else {
      const began = performance.now(), order = sort(data.rows);
      postMessage({ order, rows: data.rows, took: performance.now() - began }, [order.buffer]);
    }
  };
}

/** Keeps the order up to date; one sort runs at a time, and the latest request replaces a waiting one. */
class Sorter {
  constructor({ means, joints, weights }, onOrder, onFailure) {
    const url = URL.createObjectURL(new Blob([`(${sortingWorker})()`], { type: "text/javascript" }));
    this.worker = new Worker(url);
    this.busy = false;
    this.waiting = null;
    this.sorted = null;
    this.worker.onmessage = ({ data }) => {
      this.busy = false;
      this.sorted = data.rows;
      this.took = data.took;
      onOrder(data.order);
      if (this.waiting) this.request(this.waiting);
    };
    this.worker.onerror = onFailure;
    this.worker.postMessage({ means, joints, weights });
  }

  /** Whether the latest order is the one for these rows. */
  isCurrent(rows) {
    return this.sorted !== null && rows.every((value, i) => Math.abs(value - this.sorted[i]) < 1e-4);
  }

  request(rows) {
    this.waiting = null;
    if (this.isCurrent(rows)) return;
    if (this.busy) {
      this.waiting = rows;
      return;
    }
    this.busy = true;
    this.worker.postMessage({ rows });
  }
}
