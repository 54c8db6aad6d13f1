/* The page: what a person does becomes a transcription, and what comes back is shown. */

import { curlCommand } from "./curl.js";
import { clock, fineClock, FORMATS } from "./formats.js";
import { Options } from "./options.js";
import { Player } from "./player.js";
import { described, refusedUnsent } from "./problems.js";
import { Recorder } from "./recorder.js";
import { ServiceView } from "./service.js";
import { transcribe } from "./stream.js";
import { Transcript } from "./transcript.js";
import { decode, toWav, Waveform } from "./waveform.js";

const $ = (id) => document.getElementById(id);
const SEEK_S = 5;

let facts = {};
let job = null; // the transcription that is shown: {file, options, withKey, controller, duration, done}

const options = new Options($("options-form"));
const waveform = new Waveform($("wave-canvas"));
const player = new Player(showTime);
const transcript = new Transcript($("segments"), $("live"), (seconds) => player.playFrom(seconds));
const recorder = new Recorder($("level"), (seconds) => write("recording-clock", clock(seconds)));
const service = new ServiceView((told) => {
  facts = told;
  options.offer(told);
});

function write(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
}

function enter(state) {
  document.body.dataset.state = state;
  $("ways").hidden = state === "recording";
  $("recording").hidden = state !== "recording";
  $("work").hidden = !job;
  $("results").hidden = !job?.done;
}

/* One recording, from the file to the transcript. */

async function start(file) {
  job?.controller.abort();
  $("problem").hidden = true;
  const own = { file, options: [], withKey: false, controller: new AbortController(), duration: 0, done: null };
  job = own;
  transcript.clear();
  waveform.clear();
  $("nothing").hidden = true;
  write("work-title", file.name);
  write("work-meta", "");
  write("progress", "Sending …");
  enter("busy");
  const shown = showRecording(own);
  try {
    // A file can be given before the page knows what may be asked of the service.
    if (!service.known) await Promise.race([service.asked, aborted(own.controller.signal)]);
    if (job !== own) return;
    own.controller.signal.throwIfAborted();
    Object.assign(own, { options: options.read(), withKey: Boolean(options.key) });
    const refused = refusedUnsent(file, facts.max_upload_bytes);
    if (refused) throw Object.assign(new Error(refused.message), refused);
    for await (const event of transcribe("transcribe", formOf(own), { signal: own.controller.signal, key: options.key })) {
      if (job !== own) return;
      take(own, event);
    }
    await shown;
  } catch (error) {
    if (job === own) fail(own, error);
  }
}

function aborted(signal) {
  return new Promise((resolve) => signal.addEventListener("abort", resolve));
}

function formOf({ file, options: chosen }) {
  const form = new FormData();
  for (const [name, value] of chosen) form.append(name, value);
  form.append("file", file, file.name);
  return form;
}

function take(own, event) {
  if (event.type === "started") {
    setDuration(event.duration_s);
    write("progress", "Listening …");
  } else if (event.type === "language") {
    write("work-meta", `${nameOf(event.language)}, ${Math.round(event.probability * 100)} % sure`);
  } else if (event.type === "token") {
    transcript.token(event);
    if (event.timestamp_s !== undefined) heard(event.timestamp_s);
  } else if (event.type === "retract") {
    transcript.retract(event);
  } else if (event.type === "segment") {
    transcript.segment(event);
    waveform.set({ segments: [...waveform.segments, event] });
    heard(event.end_s);
  } else if (event.type === "done") finish(own, event);
}

function heard(seconds) {
  waveform.set({ heard: Math.min(seconds, job.duration || seconds) });
  write("progress", job.duration ? `${clock(seconds)} of ${clock(job.duration)}` : clock(seconds));
}

function finish(own, done) {
  own.done = done;
  transcript.done(done);
  waveform.set({ segments: done.segments, heard: own.duration });
  const { total_ms, realtime_factor } = done.timings;
  const speed = realtime_factor >= 10 ? Math.round(realtime_factor) : realtime_factor.toFixed(1);
  write("progress", `${(total_ms / 1000).toFixed(1)} s, ${speed} × real time`);
  const meta = [done.language && nameOf(done.language), clock(done.duration_s), done.model];
  write("work-meta", meta.filter(Boolean).join(" · "));
  const url = new URL("transcribe", document.baseURI).href;
  write("curl", curlCommand(url, own.file.name, own.options, own.withKey));
  $("nothing").hidden = Boolean(done.text);
  write("said", done.text ? "The transcript is complete." : "There are no words in this recording.");
  enter("done");
}

function fail(own, error) {
  if (error.name === "AbortError") {
    write("progress", "Cancelled");
    enter("cancelled");
    return;
  }
  write("progress", "");
  showProblem(error);
  enter("failed");
}

function showProblem(error) {
  const { title, text, detail, needsKey } = described(error);
  write("problem-title", title);
  write("problem-text", text);
  write("problem-detail", detail);
  $("again").hidden = error.code === "microphone";
  $("problem").hidden = false;
  if (needsKey) options.askForKey();
}

function nameOf(language) {
  return facts.languages?.[language] ?? new Intl.DisplayNames(["en"], { type: "language" }).of(language);
}

/* The recording to be seen and heard. */

async function showRecording(own) {
  $("play").disabled = true;
  const isRecording = own.file.name.startsWith("recording.");
  const duration = await player.load(own.file);
  const decoded = await decode(own.file, duration ?? NaN);
  if (job !== own) return;
  document.body.dataset.audio = decoded || player.playable ? "yes" : "no";
  if (decoded) {
    if (isRecording) await player.load(toWav(decoded.samples));
    if (job !== own) return;
    setDuration(decoded.duration);
    waveform.set({ peaks: decoded.peaks });
  }
  $("play").disabled = !player.playable;
  $("wave").title = player.playable ? "" : "This browser cannot play this format";
  showTime(0, false);
}

function setDuration(seconds) {
  job.duration ||= seconds;
  waveform.set({ duration: job.duration });
  $("wave").setAttribute("aria-valuemax", job.duration.toFixed(1));
}

function showTime(seconds, playing) {
  const untouched = !playing && seconds === 0;
  waveform.set({ position: untouched ? null : seconds });
  transcript.highlight(untouched ? null : seconds);
  const whole = job?.duration ?? 0;
  write("clock", whole ? `${fineClock(seconds, whole)} / ${fineClock(whole, whole)}` : clock(seconds));
  $("play").setAttribute("aria-pressed", String(playing));
  $("wave").setAttribute("aria-valuenow", seconds.toFixed(1));
  $("wave").setAttribute("aria-valuetext", clock(seconds));
}

/* What a person does. */

$("choose").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => {
  const [file] = $("file").files;
  if (file) start(file);
  $("file").value = "";
});
$("again").addEventListener("click", () => (job ? start(job.file) : ($("problem").hidden = true)));
$("cancel").addEventListener("click", () => {
  job.controller.abort();
  $("choose").focus();
});

$("record").addEventListener("click", async () => {
  try {
    await recorder.start();
    job?.controller.abort();
    job = null;
    player.unload();
    $("problem").hidden = true;
    enter("recording");
    $("stop").focus();
  } catch (error) {
    showProblem({ message: error.message, code: "microphone" });
  }
});
$("stop").addEventListener("click", async () => start(await recorder.stop()));
$("discard").addEventListener("click", () => {
  recorder.discard();
  enter("empty");
  $("record").focus();
});

$("play").addEventListener("click", () => player.toggle());
$("wave").addEventListener("keydown", (event) => {
  const now = player.audio.currentTime;
  const to = { ArrowLeft: now - SEEK_S, ArrowRight: now + SEEK_S, Home: 0, End: job.duration }[event.key];
  if (to !== undefined) player.seek(Math.min(to, job.duration));
  else if (event.key === " " || event.key === "Enter") player.toggle();
  else return;
  event.preventDefault();
});
$("wave").addEventListener("pointerdown", (event) => {
  $("wave").setPointerCapture(event.pointerId);
  seekTo(event);
});
$("wave").addEventListener("pointermove", (event) => {
  if ($("wave").hasPointerCapture(event.pointerId)) seekTo(event);
});

function seekTo({ clientX }) {
  const { left, width } = $("wave-canvas").getBoundingClientRect();
  player.seek(Math.min(1, Math.max(0, (clientX - left) / width)) * job.duration);
}

for (const button of document.querySelectorAll("[data-download]")) {
  button.addEventListener("click", () => {
    const suffix = button.dataset.download;
    const { write: written, type } = FORMATS[suffix];
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([written(job.done)], { type }));
    link.download = `${job.file.name.replace(/\.[^.]*$/, "")}.${suffix}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href));
  });
}
$("copy-text").addEventListener("click", () => copy(job.done.text, $("copy-text")));
$("copy-curl").addEventListener("click", () => copy($("curl").textContent, $("copy-curl")));

/* The clipboard is there on secure pages only; elsewhere the text is selected to be copied by hand. */
async function copy(text, button) {
  const usual = (button.dataset.usual ??= button.textContent);
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
    write("said", "Copied");
    setTimeout(() => (button.textContent = usual), 1500);
  } catch {
    getSelection().selectAllChildren(button.id === "copy-curl" ? $("curl") : $("segments"));
    write("said", "Selected: copy it with the keyboard");
  }
}

/* Files dropped anywhere. */

let depth = 0;
const bringsFiles = (event) => event.dataTransfer?.types.includes("Files");
function veil(change) {
  depth = change ? Math.max(0, depth + change) : 0;
  $("veil").classList.toggle("shown", depth > 0);
}
addEventListener("dragenter", (event) => bringsFiles(event) && veil(1));
addEventListener("dragleave", (event) => bringsFiles(event) && veil(-1));
addEventListener("dragover", (event) => bringsFiles(event) && event.preventDefault());
addEventListener("drop", (event) => {
  if (!bringsFiles(event)) return;
  event.preventDefault();
  veil(0);
  const [file] = event.dataTransfer.files;
  if (file && document.body.dataset.state !== "recording") start(file);
});
