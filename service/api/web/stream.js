/* POST a recording and read the events of the answer while they come. Knows nothing about the page. */

/** An answer that is not a success, or an error event: the envelope in fields. */
export class ServiceProblem extends Error {
  constructor({ message, code = null, param = null }, { status = 0, retryAfterS = null, requestId = null } = {}) {
    super(message);
    this.code = code;
    this.param = param;
    this.status = status;
    this.retryAfterS = retryAfterS;
    this.requestId = requestId;
  }
}

/**
 * Yield the events of a transcription, `done` last. Aborting the signal closes the connection, and
 * with it the server frees the recording's place.
 * @throws {ServiceProblem} for a refusal, an `error` event, or a connection that was lost.
 */
export async function* transcribe(url, form, { signal, key }) {
  const headers = { accept: "text/event-stream" };
  if (key) headers.authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(url, { method: "POST", body: form, headers, signal });
  } catch (error) {
    throw signal.aborted ? error : lost("The server cannot be reached.");
  }
  const requestId = response.headers.get("x-request-id");
  if (!response.ok) throw await refusal(response, requestId);
  let finished = false;
  try {
    for await (const event of eventsOf(response.body)) {
      if (event.type === "error") throw new ServiceProblem(event.error, { requestId });
      finished ||= event.type === "done";
      yield event;
    }
  } catch (error) {
    if (signal.aborted || error instanceof ServiceProblem) throw error;
    throw lost("The connection to the server broke off.", requestId);
  }
  if (!finished) throw lost("The answer ended before the transcript did.", requestId);
}

function lost(message, requestId = null) {
  return new ServiceProblem({ message, code: "connection_lost" }, { requestId });
}

async function refusal(response, requestId) {
  const details = { status: response.status, requestId };
  const seconds = Number.parseInt(response.headers.get("retry-after"), 10);
  if (seconds > 0) details.retryAfterS = seconds;
  try {
    return new ServiceProblem((await response.json()).error, details);
  } catch {
    return new ServiceProblem({ message: `The server answered with ${response.status}.` }, details);
  }
}

/** Yield the data of each server-sent event: lines end with \n, \r\n or \r, comments are skipped. */
export async function* eventsOf(body) {
  let rest = "";
  let data = [];
  for await (const text of chunksOf(body.pipeThrough(new TextDecoderStream()))) {
    const lines = (rest + text).split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
      else if (line === "" && data.length) {
        yield JSON.parse(data.join("\n"));
        data = [];
      }
    }
  }
}

/* Streams are iterable themselves in some browsers only. */
async function* chunksOf(stream) {
  const reader = stream.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
