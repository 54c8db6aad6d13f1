/* What the service says of itself: its state, asked while the page is seen, and what it offers. */

import { clock } from "./formats.js";

const EVERY_MS = 1000;
const MAX_CELLS = 64;

export class ServiceView {
  /**
   * `asked` settles when the last question has its answer, or has none.
   * @param {(facts: object) => void} onFacts called when the model is there to ask about.
   */
  constructor(onFacts) {
    this.onFacts = onFacts;
    this.known = false;
    this.asked = Promise.resolve();
    this.timer = null;
    document.addEventListener("visibilitychange", () => this.#poll());
    this.#poll();
  }

  #poll() {
    clearTimeout(this.timer);
    if (document.visibilityState !== "visible") return;
    this.asked = this.#ask();
    this.asked.finally(() => {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.#poll(), EVERY_MS);
    });
  }

  async #ask() {
    try {
      const health = await (await fetch("health")).json();
      this.#show(health);
      if (!this.known && health.engine) {
        const facts = await (await fetch("web/facts.json")).json();
        this.known = true;
        this.onFacts(facts);
      }
    } catch {
      this.#state("unreachable", "unreachable");
    }
  }

  #show({ status, model, device, queue_audio_s, engine }) {
    this.#state(status, status === "ready" ? `${model} on ${device}` : status);
    if (!engine) return;
    set("rows", `${engine.decoder_rows_used} of ${engine.decoder_rows}`);
    set("waiting", String(engine.windows_waiting));
    set("requests", `${engine.requests} of ${engine.max_requests}`);
    set("held", queue_audio_s ? clock(queue_audio_s) : "none");
    this.#cells(engine.decoder_rows_used, engine.decoder_rows);
  }

  #state(status, text) {
    document.getElementById("service").dataset.status = status;
    set("service-text", text);
  }

  #cells(used, all) {
    const cells = document.getElementById("cells");
    const n = Math.min(all, MAX_CELLS);
    while (cells.childElementCount > n) cells.lastElementChild.remove();
    while (cells.childElementCount < n) cells.append(document.createElement("span"));
    const lit = Math.ceil((used * n) / all);
    [...cells.children].forEach((cell, place) => cell.classList.toggle("used", place < lit));
  }
}

function set(id, text) {
  const element = document.getElementById(id);
  if (element.textContent !== text) element.textContent = text;
}
