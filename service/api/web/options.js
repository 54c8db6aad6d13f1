/* The form of options, and the API key, which is kept until the tab is closed. */

const KEY = "earshot-api-key";

export class Options {
  constructor(form) {
    this.form = form;
    this.known = new Set();
    this.keyField = document.getElementById("key-field");
    this.keyInput = document.getElementById("key");
    this.keyInput.value = sessionStorage.getItem(KEY) ?? "";
    this.keyField.hidden = !this.keyInput.value;
    this.keyInput.addEventListener("input", () => sessionStorage.setItem(KEY, this.keyInput.value));
    form.addEventListener("submit", (event) => event.preventDefault());
    this.offer({ options: [], languages: {} });
  }

  /** Offer what this service and its model can do. */
  offer({ options, languages, needs_key = false }) {
    this.known = new Set(options);
    if (needs_key) this.keyField.hidden = false;
    const names = Object.entries(languages ?? {});
    for (const label of this.form.querySelectorAll("[data-option]")) {
      const of = label.dataset.option;
      const possible = names.length || !["language", "task"].includes(of);
      label.hidden = !possible || !this.known.has(of);
    }
    const select = this.form.elements.language;
    const sorted = names.sort(([, a], [, b]) => a.localeCompare(b));
    select.replaceChildren(select.options[0], ...sorted.map(([code, name]) => new Option(name, code)));
  }

  get key() {
    return this.keyInput.value.trim();
  }

  /** Ask for a key: the service wants one. */
  askForKey() {
    this.keyField.hidden = false;
    document.getElementById("options").open = true;
    this.keyInput.focus();
  }

  /** Return names and values of the options that are not at their defaults. */
  read() {
    const { language, task, temperature, initial_prompt, hotwords, timestamps, word_timestamps } = this.form.elements;
    const chosen = [
      ["language", language.value, ""],
      ["task", task.value, "transcribe"],
      ["temperature", temperature.value, ""],
      ["initial_prompt", initial_prompt.value.trim(), ""],
      ["hotwords", hotwords.value.trim(), ""],
      ["without_timestamps", String(!timestamps.checked), "false"],
      ["word_timestamps", String(word_timestamps.checked && timestamps.checked), "false"],
    ];
    const offered = (name) => !this.form.querySelector(`[data-option="${name}"]`).hidden;
    return chosen.filter(([name, value, usual]) => value !== usual && offered(name)).map(([name, value]) => [name, value]);
  }
}
