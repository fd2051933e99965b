
/**
 * The sorting worker, started from this function's source. Messages to it: {means} once, then {direction}, the viewing
 * direction. It answers with the splats' indices from the farthest to the nearest, as blending needs them. Counting sort
 * by 16-bit depth: a step is 0.03 mm on a body of two metres.
 */
function sortingWorker() {
  const BUCKETS = 65536;
  const starts = new Uint32Array(BUCKETS + 1);
  let means = new Float32Array(0);
  let depths = new Float32Array(0);
  let buckets = new Uint16Array(0);

  function measure([x, y, z]) {
    let low = Infinity, high = -Infinity;
    for (let i = 0; i < depths.length; i++) {
      const depth = means[3 * i] * x + means[3 * i + 1] * y + means[3 * i + 2] * z;
      depths[i] = depth;
      if (depth < low) low = depth;
      if (depth > high) high = depth;
    }
    const scale = high > low ? (BUCKETS - 1) / (high - low) : 0;
    for (let i = 0; i < depths.length; i++) buckets[i] = (high - depths[i]) * scale;
  }

  function sort(direction) {
    measure(direction);
    starts.fill(0);
    for (let i = 0; i < buckets.length; i++) starts[buckets[i] + 1]++;
    for (let b = 0; b < BUCKETS; b++) starts[b + 1] += starts[b];
    const order = new Uint32Array(buckets.length);
    // At equal depth the first splat is in front, as in the program's renderer.
    for (let i = buckets.length - 1; i >= 0; i--) order[starts[buckets[i]]++] = i;
    return order;
  }

  onmessage = ({ data }) => {
    if (data.means) {
      means = data.means;
      depths = new Float32Array(means.length / 3);
      buckets = new Uint16Array(means.length / 3);
    } else {
      const order = sort(data.direction);
      postMessage({ order, direction: data.direction }, [order.buffer]);
    }
  };
}

/** Keeps the order up to date; one sort runs at a time, and the latest direction replaces waiting ones. */
class Sorter {
  constructor(means, onOrder, onFailure) {
    const url = URL.createObjectURL(new Blob([`(${sortingWorker})()`], { type: "text/javascript" }));
    this.worker = new Worker(url);
    this.busy = false;
    this.waiting = null;
    this.sorted = null;
    this.worker.onmessage = ({ data }) => {
      this.busy = false;
      this.sorted = data.direction;
      onOrder(data.order);
      if (this.waiting) this.request(this.waiting);
    };
    this.worker.onerror = onFailure;
    this.worker.postMessage({ means });
  }

  /** Whether the latest order is the one for this direction. */
  isCurrent(direction) {
    return this.sorted !== null && direction.every((value, i) => Math.abs(value - this.sorted[i]) < 1e-4);
  }

  request(direction) {
    this.waiting = null;
    if (this.isCurrent(direction)) return;
    if (this.busy) {
      this.waiting = direction;
      return;
    }
    this.busy = true;
    this.worker.postMessage({ direction });
  }
}
