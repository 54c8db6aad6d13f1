/* The words on the page: tokens while they come, struck out where they are withdrawn, then segments. */

import { clock, wordsOf } from "./formats.js";

export class Transcript {
  /**
   * @param {HTMLElement} list what is final, an item for each segment.
   * @param {HTMLElement} live what is not, a span for each token.
   * @param {(seconds: number) => void} onPlay called for a segment or word that is to be heard.
   */
  constructor(list, live, onPlay) {
    this.list = list;
    this.live = live;
    this.onPlay = onPlay;
    this.clear();
    list.addEventListener("click", (event) => this.#play(event.target));
    list.addEventListener("keydown", (event) => this.#key(event));
  }

  clear() {
    this.pending = [];
    this.items = [];
    this.list.replaceChildren();
    this.live.replaceChildren();
  }

  token({ index, window, token_id, text }) {
    let span = null;
    if (text) {
      span = document.createElement("span");
      span.className = "token";
      span.textContent = text;
      this.live.append(span);
    }
    this.pending.push({ index, window, id: token_id, span, withdrawn: false });
  }

  /** Strike the tokens out; they stay to be seen until more is withdrawn or the next window has words. */
  retract({ from_index }) {
    for (const token of this.pending) if (token.withdrawn) token.span?.remove();
    this.pending = this.pending.filter((token) => !token.withdrawn);
    for (const token of this.pending) {
      if (token.index < from_index || token.withdrawn) continue;
      token.withdrawn = true;
      token.span?.classList.replace("token", "withdrawn");
    }
  }

  segment(segment) {
    this.#settle(segment);
    const item = document.createElement("li");
    const time = document.createElement("button");
    time.type = "button";
    time.className = "time";
    time.textContent = clock(segment.start_s);
    time.setAttribute("aria-label", `Play from ${clock(segment.start_s)}`);
    const text = document.createElement("p");
    text.className = "text";
    item.append(time, text);
    this.items.push({ item, text, segment, words: [] });
    this.#write(this.items.at(-1), segment);
    this.list.append(item);
  }

  /** Take the whole as it stands at the end: with words' times, where there are any. */
  done({ segments }) {
    this.pending = [];
    this.live.replaceChildren();
    this.list.setAttribute("aria-live", "off"); // what was said once is not said again
    segments.forEach((segment, place) => {
      if (!this.items[place]) this.segment(segment);
      else this.#write(this.items[place], segment);
    });
    this.#first()?.setAttribute("tabindex", "0");
    requestAnimationFrame(() => this.list.setAttribute("aria-live", "polite"));
  }

  /** Mark the segment and the word at a time; null for none. */
  highlight(seconds) {
    for (const { item, segment, words } of this.items) {
      const current = seconds !== null && seconds >= segment.start_s && seconds < segment.end_s;
      item.classList.toggle("current", current);
      for (const { span, start_s, end_s } of words)
        span.classList.toggle("current", current && seconds >= start_s && seconds < end_s);
    }
  }

  /* The tokens of a segment, and whatever an earlier window left, are not pending any more. */
  #settle({ window, tokens }) {
    const standing = this.pending.filter((token) => token.window === window && !token.withdrawn);
    const begin = standing.findIndex((_, at) => tokens.every((id, i) => standing[at + i]?.id === id));
    const settled = new Set(begin < 0 ? standing : standing.slice(0, begin + tokens.length));
    this.pending = this.pending.filter((token) => {
      const over = settled.has(token) || token.window < window;
      if (over) token.span?.remove();
      return !over;
    });
  }

  #write(entry, segment) {
    entry.segment = segment;
    const words = wordsOf(segment);
    if (words.length) this.#spans(entry, words);
    else if (!entry.words.length) entry.text.textContent = segment.text.trim();
  }

  #spans(entry, words) {
    entry.words = words.map((word) => {
      const span = document.createElement("span");
      span.className = "word";
      span.setAttribute("role", "button");
      span.tabIndex = -1;
      span.textContent = word.word.trim();
      return { ...word, span };
    });
    const spaced = entry.words.flatMap(({ span, word }) => (/^\s/.test(word) ? [" ", span] : [span]));
    entry.text.replaceChildren(...spaced);
  }

  #first() {
    return this.list.querySelector(".word");
  }

  #play(target) {
    const entry = this.items.find(({ item }) => item.contains(target));
    if (!entry) return;
    const word = entry.words.find(({ span }) => span === target);
    this.onPlay(word ? word.start_s : entry.segment.start_s);
  }

  /* One word is in the order of the Tab key; the arrows go from word to word. */
  #key(event) {
    if (!event.target.classList.contains("word")) return;
    const spans = [...this.list.querySelectorAll(".word")];
    const to = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (to) {
      const next = spans[spans.indexOf(event.target) + to];
      if (!next) return;
      event.target.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    } else if (event.key === "Enter" || event.key === " ") this.#play(event.target);
    else return;
    event.preventDefault();
  }
}
