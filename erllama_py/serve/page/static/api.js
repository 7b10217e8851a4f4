// Requests to the server that this page came from, with its key where there is one.

const STORED = "erllama.key"; // in this tab alone, until it is closed

/** The key of this tab; null where there is none, and where the browser keeps nothing. */
export function storedKey() {
  try {
    return sessionStorage.getItem(STORED);
  } catch {
    return null;
  }
}

/** Keep a key for this tab, or forget it. Where the browser keeps nothing, it is asked for again after a reload. */
export function storeKey(key) {
  try {
    if (key === null) sessionStorage.removeItem(STORED);
    else sessionStorage.setItem(STORED, key);
  } catch {} // it is in use all the same
}

/** Whether a text can be a key: else it could not even be sent. */
export const couldBeKey = (text) => /^[\x21-\x7e]+$/.test(text);

/** The server said no: its sentence, its word for programs, and the id under which its log has the request. */
export class Refused extends Error {
  constructor(message, { status = 0, code = null, requestId = null, retryAfter = null } = {}) {
    super(message);
    Object.assign(this, { status, code, requestId, retryAfter });
  }
}

/** The server does not answer at all. */
export class Unreachable extends Error {}

/** What an answer or an event says of an error; `body` is its JSON. */
export function refusal(body, about = {}) {
  const error = body?.error;
  const message = typeof error === "string" ? error : (error?.message ?? `the server answered ${about.status}`);
  return new Refused(message, { code: error?.code ?? null, requestId: body?.request_id ?? null, ...about });
}

/** Asks with one key. */
export class Api {
  #key;

  constructor(key) {
    this.#key = key;
  }

  /** Whether it sends a key. */
  get hasKey() {
    return this.#key !== null;
  }

  /** A response of status 200. Throws `Refused`, `Unreachable`, and an `AbortError` where `signal` says so. */
  async ask(path, { body, signal, accept = "application/json", method = body === undefined ? "GET" : "POST" } = {}) {
    const headers = { accept };
    if (this.#key !== null) headers.authorization = `Bearer ${this.#key}`;
    if (body !== undefined) headers["content-type"] = "application/json";
    const options = { method, headers, signal, cache: "no-store", credentials: "omit", redirect: "error" };
    let response;
    try {
      // From the address of the page, wherever a host or a proxy has put it.
      response = await fetch(new URL(path, document.baseURI), { ...options, body: body && JSON.stringify(body) });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Unreachable("the server does not answer");
    }
    if (response.ok) return response;
    const retryAfter = response.headers.get("retry-after");
    const about = { status: response.status, retryAfter: retryAfter === null ? null : Number(retryAfter) };
    const requestId = response.headers.get("x-request-id");
    throw refusal(await response.json().catch(() => null), requestId === null ? about : { ...about, requestId });
  }

  /** The JSON of an answer. */
  async json(path, options) {
    return (await this.ask(path, options)).json();
  }
}

/** An error as a sentence, with what helps to find it. */
export function said(error) {
  if (!(error instanceof Refused)) return error.message;
  const facts = [error.status && `status ${error.status}`, error.code, error.requestId].filter(Boolean);
  const again = error.retryAfter ? ` Try again in ${error.retryAfter} s.` : "";
  return `${error.message.replace(/\.$/, "")}${facts.length ? ` (${facts.join(", ")})` : ""}.${again}`;
}
