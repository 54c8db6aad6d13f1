/* A transcript as SRT, VTT, text and JSON, and seconds as people write them. Pure functions. */

const MAX_CUE_CHARACTERS = 84;
const MAX_CUE_S = 7;

/** Return the words of a segment, each with its blank before it and its times; none without. */
export function wordsOf(segment) {
  return segment.words ?? [];
}

/** Return minutes and seconds, with hours where there are any: 0:07, 12:30, 1:02:03. */
export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (number) => String(number).padStart(2, "0");
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

/** Return the cues of a transcript: a segment each, or parts of it where words have times. */
export function cuesOf(segments) {
  return segments.flatMap((segment) => {
    const words = wordsOf(segment);
    if (!words.length) return [cue(segment.text, segment.start_s, segment.end_s)];
    const cues = [];
    for (const { word, start_s, end_s } of words) {
      const last = cues.at(-1);
      const fits = last && last.text.length + word.length <= MAX_CUE_CHARACTERS && end_s - last.start <= MAX_CUE_S;
      if (fits) Object.assign(last, { text: last.text + word, end: end_s });
      else cues.push({ text: word, start: start_s, end: end_s });
    }
    return cues.map(({ text, start, end }) => cue(text, start, end));
  }).filter(({ text }) => text);
}

/* A cue that ends when it begins is shown by no player. */
function cue(text, start, end) {
  return { text: text.trim().replace(/\s+/g, " "), start, end: Math.max(end, start + 0.01) };
}

function stamp(seconds, separator) {
  const ms = Math.round(seconds * 1000);
  const part = (value, digits) => String(value).padStart(digits, "0");
  const hours = part(Math.floor(ms / 3_600_000), 2);
  const minutes = part(Math.floor(ms / 60_000) % 60, 2);
  return `${hours}:${minutes}:${part(Math.floor(ms / 1000) % 60, 2)}${separator}${part(ms % 1000, 3)}`;
}

export function toSrt({ segments }) {
  return cuesOf(segments)
    .map(({ text, start, end }, place) => `${place + 1}\n${stamp(start, ",")} --> ${stamp(end, ",")}\n${text}\n`)
    .join("\n");
}

export function toVtt({ segments }) {
  const escaped = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const cues = cuesOf(segments).map(({ text, start, end }) => `${stamp(start, ".")} --> ${stamp(end, ".")}\n${escaped(text)}\n`);
  return ["WEBVTT\n", ...cues].join("\n");
}

/** Return seconds to a tenth where the whole is short: 0:01.6. */
export function fineClock(seconds, whole) {
  return whole < 60 ? `0:${seconds.toFixed(1).padStart(4, "0")}` : clock(seconds);
}

export function toText({ text }) {
  return text ? `${text}\n` : "";
}

export function toJson(done) {
  return `${JSON.stringify(done, null, 2)}\n`;
}

export const FORMATS = {
  srt: { write: toSrt, type: "application/x-subrip" },
  vtt: { write: toVtt, type: "text/vtt" },
  json: { write: toJson, type: "application/json" },
  txt: { write: toText, type: "text/plain" },
};
