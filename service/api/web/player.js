/* Plays a recording, and says where it is. Knows nothing about what is drawn. */

export class Player {
  /** @param {(seconds: number, playing: boolean) => void} onTime called while it plays and where it stops. */
  constructor(onTime) {
    this.audio = new Audio();
    this.audio.preload = "auto";
    this.onTime = onTime;
    for (const name of ["play", "pause", "ended", "seeked", "timeupdate"]) this.audio.addEventListener(name, () => this.#tell());
    this.audio.addEventListener("play", () => this.#follow());
  }

  /** Take a recording; resolves to its seconds (Infinity: not known), null if it cannot be played. */
  load(blob) {
    this.unload();
    this.url = URL.createObjectURL(blob);
    return new Promise((resolve) => {
      this.audio.onloadedmetadata = () => resolve(this.audio.duration);
      this.audio.onerror = () => resolve(null);
      this.audio.src = this.url;
    });
  }

  unload() {
    this.audio.pause();
    this.audio.removeAttribute("src");
    if (this.url) URL.revokeObjectURL(this.url);
    this.url = null;
  }

  get playable() {
    return Boolean(this.url) && !this.audio.error && this.audio.readyState > 0;
  }

  seek(seconds) {
    if (this.playable) this.audio.currentTime = Math.max(0, seconds);
  }

  playFrom(seconds) {
    if (!this.playable) return;
    this.audio.currentTime = seconds;
    this.#play();
  }

  toggle() {
    if (!this.playable) return;
    if (this.audio.paused) this.#play();
    else this.audio.pause();
  }

  /* A play that is interrupted by a pause or another recording is no error. */
  #play() {
    this.audio.play().catch(() => {});
  }

  #follow() {
    this.#tell();
    if (!this.audio.paused) requestAnimationFrame(() => this.#follow());
  }

  #tell() {
    if (this.url) this.onTime(this.audio.currentTime, !this.audio.paused && !this.audio.ended);
  }
}
