/* A recording as bars, with its segments, how far it is transcribed, and where it plays. */

const BAR = 2;
const GAP = 1.5;
const BUCKETS = 2000;
const RATE = 16_000;
const MAX_DECODED_S = 3600;
const MAX_UNKNOWN_BYTES = 64 * 1024 * 1024;

/**
 * Return `{duration, peaks, samples}` of a recording, decoded by the browser; null if it cannot, or
 * if that would take too much of its memory.
 * @param {number} duration seconds, NaN or Infinity where they are not known.
 */
export async function decode(blob, duration) {
  const known = Number.isFinite(duration);
  if (known ? duration > MAX_DECODED_S : blob.size > MAX_UNKNOWN_BYTES) return null;
  try {
    const context = new OfflineAudioContext(1, 1, RATE);
    const buffer = await context.decodeAudioData(await blob.arrayBuffer());
    const samples = buffer.getChannelData(0);
    return { duration: buffer.duration, peaks: peaksOf(samples), samples };
  } catch {
    return null;
  }
}

function peaksOf(samples) {
  const peaks = new Float32Array(BUCKETS);
  for (let bucket = 0; bucket < BUCKETS; bucket++) {
    const end = Math.floor(((bucket + 1) * samples.length) / BUCKETS);
    let peak = 0;
    for (let i = Math.floor((bucket * samples.length) / BUCKETS); i < end; i++) peak = Math.max(peak, Math.abs(samples[i]));
    peaks[bucket] = peak;
  }
  const loudest = peaks.reduce((a, b) => Math.max(a, b), 1e-4);
  return peaks.map((peak) => peak / loudest);
}

/** Return samples as a WAV file: what a recorder writes cannot be sought in everywhere. */
export function toWav(samples) {
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const text = (at, value) => [...value].forEach((char, i) => view.setUint8(at + i, char.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + 2 * samples.length, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, RATE, true);
  view.setUint32(28, 2 * RATE, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, 2 * samples.length, true);
  samples.forEach((sample, i) => view.setInt16(44 + 2 * i, Math.max(-1, Math.min(1, sample)) * 32767, true));
  return new Blob([view], { type: "audio/wav" });
}

/** Draw bars of heights in [0, 1] on a canvas, at its size on the screen. */
export function drawBars(canvas, heightAt, colourAt, under = () => {}) {
  const scale = globalThis.devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = canvas;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  under(context, width, height);
  const n = Math.floor(width / (BAR + GAP));
  for (let bar = 0; bar < n; bar++) {
    const tall = Math.max(2, heightAt(bar / n, (bar + 1) / n) * height);
    context.fillStyle = colourAt((bar + 0.5) / n);
    context.beginPath();
    context.roundRect(bar * (BAR + GAP), (height - tall) / 2, BAR, tall, 1);
    context.fill();
  }
  return { context, width, height };
}

export class Waveform {
  constructor(canvas) {
    this.canvas = canvas;
    this.clear();
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  clear() {
    Object.assign(this, { peaks: null, duration: 0, segments: [], heard: 0, position: null });
    this.draw();
  }

  set(changes) {
    Object.assign(this, changes);
    this.draw();
  }

  draw() {
    const style = getComputedStyle(this.canvas);
    const colour = (name) => style.getPropertyValue(name).trim();
    const [accent, plain, band, tint, ink] = ["--accent", "--bar", "--band", "--tint", "--ink"].map(colour);
    const at = (seconds) => (this.duration ? seconds / this.duration : 0);
    const { context, width, height } = drawBars(
      this.canvas,
      (from, to) => this.#peak(from, to),
      (place) => (place <= at(this.heard) ? accent : plain),
      (under, wide, high) => {
        for (const { start_s, end_s } of this.segments) {
          const now = this.position !== null && this.position >= start_s && this.position < end_s;
          under.fillStyle = now ? tint : band;
          under.beginPath();
          under.roundRect(at(start_s) * wide + 0.5, 0, Math.max(2, (at(end_s) - at(start_s)) * wide - 1), high, 6);
          under.fill();
        }
      },
    );
    if (this.position === null || !this.duration) return;
    context.fillStyle = ink;
    context.fillRect(Math.min(width - 2, at(this.position) * width), 0, 2, height);
  }

  #peak(from, to) {
    if (!this.peaks) return 0;
    const end = Math.max(Math.ceil(to * BUCKETS), Math.floor(from * BUCKETS) + 1);
    let peak = 0;
    for (let i = Math.floor(from * BUCKETS); i < end && i < BUCKETS; i++) peak = Math.max(peak, this.peaks[i]);
    return peak;
  }
}
