/* The curl command that does what the page did. Pure. */

function quoted(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

/* curl ends a file's name at ; and , unless it is in quotes. */
function filePart(name) {
  return /[;,"\\\s]/.test(name) ? `file=@"${name.replace(/["\\]/g, "\\$&")}"` : `file=@${name}`;
}

/**
 * @param {string} url of /transcribe.
 * @param {string} name of the file.
 * @param {[string, string][]} options names and values.
 * @param {boolean} withKey whether the request carried an API key, which is not shown.
 */
export function curlCommand(url, name, options, withKey) {
  const parts = ["curl -N"];
  if (withKey) parts.push(`-H "Authorization: Bearer $EARSHOT_API_KEY"`);
  parts.push(`-F ${quoted(filePart(name))}`);
  for (const [option, value] of options) {
    // A value that begins with @ or < would be read from a file by -F.
    const flag = /^[@<]|[;"]/.test(value) ? "--form-string" : "-F";
    parts.push(`${flag} ${quoted(`${option}=${value}`)}`);
  }
  return [...parts, quoted(url)].join(" \\\n  ");
}
