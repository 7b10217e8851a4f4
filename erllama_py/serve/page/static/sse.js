// Server-sent events out of the body of a response, as the HTML standard reads them. `EventSource` cannot send a key in
// a header, and an address with a key in it would be in every log.

/** The events `{event, data}` of a stream of bytes. A last event that is cut is none. */
export async function* events(stream, heard = () => {}) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  const parser = new Parser();
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      heard(); // comments too: the other side lives
      yield* parser.push(value);
    }
  } finally {
    reader.cancel().catch(() => {}); // it may have failed, which was thrown above
  }
}

/** What has come of a line and of an event. */
export class Parser {
  #line = "";
  #data = [];
  #event = "";
  #afterReturn = false;

  /** The events that are complete with another piece of the text. */
  push(text) {
    const found = [];
    // A line break of two characters may come in two pieces.
    if (this.#afterReturn && text.startsWith("\n")) text = text.slice(1);
    if (text !== "") this.#afterReturn = text.endsWith("\r");
    const lines = (this.#line + text).split(/\r\n|\r|\n/);
    this.#line = lines.pop();
    for (const line of lines) {
      const event = this.#take(line);
      if (event !== null) found.push(event);
    }
    return found;
  }

  #take(line) {
    if (line === "") {
      const event = this.#data.length ? { event: this.#event || "message", data: this.#data.join("\n") } : null;
      this.#data = [];
      this.#event = "";
      return event;
    }
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "data") this.#data.push(value);
    else if (field === "event") this.#event = value;
    return null;
  }
}
