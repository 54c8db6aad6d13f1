/* Errors in words: a title for each code of the envelope, and what can be done about it. Pure. */

const TITLES = {
  invalid_audio: "That is no recording that can be read",
  audio_too_long: "That recording is too long",
  payload_too_large: "That file is too large",
  queue_full: "The server is busy",
  starting: "The model is still being loaded",
  draining: "The server is shutting down",
  engine_dead: "The server has failed and starts again",
  unavailable: "The server cannot take it now",
  model_not_found: "There is no such model here",
  unknown_parameter: "This server does not know an option",
  invalid_value: "An option has a value that is not possible",
  deadline_exceeded: "It took too long",
  request_timeout: "The upload took too long",
  invalid_api_key: "This server wants an API key",
  connection_lost: "The connection is gone",
  microphone: "No sound from the microphone",
};

/** Return title, text and details of a problem. */
export function described(problem) {
  const needsKey = problem.status === 401;
  const title = (needsKey && TITLES.invalid_api_key) || TITLES[problem.code] || "Something went wrong";
  const text = sentence(problem);
  const wait = problem.retryAfterS ? `Try again in ${problem.retryAfterS} s.` : "";
  const detail = problem.requestId ? `Request ${problem.requestId}` : "";
  return { title, text: [text, wait].filter(Boolean).join(" "), detail, needsKey };
}

/* Names of options and files keep their first letter as it is. */
function sentence({ message, param }) {
  const isName = param && message.startsWith(param);
  const capital = isName ? message : message.charAt(0).toUpperCase() + message.slice(1);
  return /[.!?]$/.test(capital) ? capital : `${capital}.`;
}

/** Return a problem of a file that need not be sent to be refused; null if there is none. */
export function refusedUnsent(file, maxBytes) {
  if (!file.size) return { message: `${file.name} is empty`, param: file.name, code: "invalid_audio" };
  if (!maxBytes || file.size <= maxBytes) return null;
  const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;
  return {
    message: `${file.name} has ${megabytes(file.size)}; this server takes ${megabytes(maxBytes)} at most`,
    param: file.name,
    code: "payload_too_large",
  };
}
