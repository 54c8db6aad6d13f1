/* Records from the microphone into a file. */

import { drawBars } from "./waveform.js";

const TYPES = [
  ["audio/webm;codecs=opus", "webm"],
  ["audio/mp4", "m4a"],
  ["audio/ogg;codecs=opus", "ogg"],
];
const SHOWN = 90;

export class MicrophoneProblem extends Error {}

export class Recorder {
  /**
   * @param {HTMLCanvasElement} canvas where the level is drawn.
   * @param {(seconds: number) => void} onTime called while it records.
   */
  constructor(canvas, onTime) {
    this.canvas = canvas;
    this.onTime = onTime;
    this.recorder = null;
  }

  /** @throws {MicrophoneProblem} in words for the person who wanted to record. */
  async start() {
    if (!navigator.mediaDevices || !globalThis.MediaRecorder)
      throw new MicrophoneProblem("Browsers record on pages that come over HTTPS or from this machine only.");
    try {
      this.stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1 } });
    } catch (error) {
      throw new MicrophoneProblem(
        error.name === "NotFoundError" ? "There is no microphone." : "The browser did not let this page use the microphone.",
      );
    }
    const [type, suffix] = TYPES.find(([name]) => MediaRecorder.isTypeSupported(name)) ?? ["", "webm"];
    this.suffix = suffix;
    this.chunks = [];
    this.recorder = new MediaRecorder(this.stream, type ? { mimeType: type } : {});
    this.recorder.ondataavailable = ({ data }) => this.chunks.push(data);
    this.recorder.start(500);
    this.began = performance.now();
    this.#watch();
  }

  /** Return the recording as a file. */
  stop() {
    return new Promise((resolve) => {
      this.recorder.onstop = () => {
        const type = this.recorder.mimeType.split(";")[0];
        this.#release();
        resolve(new File(this.chunks, `recording.${this.suffix}`, { type }));
      };
      this.recorder.stop();
    });
  }

  discard() {
    this.recorder.onstop = null;
    this.recorder.stop();
    this.#release();
  }

  #release() {
    for (const track of this.stream.getTracks()) track.stop();
    this.context.close();
    this.recorder = null;
  }

  #watch() {
    this.context = new AudioContext();
    const analyser = this.context.createAnalyser();
    analyser.fftSize = 1024;
    this.context.createMediaStreamSource(this.stream).connect(analyser);
    const samples = new Float32Array(analyser.fftSize);
    const levels = new Array(SHOWN).fill(0);
    const accent = getComputedStyle(this.canvas).getPropertyValue("--accent").trim();
    const watch = () => {
      if (!this.recorder) return;
      analyser.getFloatTimeDomainData(samples);
      levels.push(Math.min(1, 1.5 * samples.reduce((most, sample) => Math.max(most, Math.abs(sample)), 0)));
      levels.shift();
      drawBars(this.canvas, (from) => levels[Math.floor(from * SHOWN)], () => accent);
      this.onTime((performance.now() - this.began) / 1000);
      requestAnimationFrame(watch);
    };
    watch();
  }
}
