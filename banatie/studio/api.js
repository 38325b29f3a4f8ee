/** The only module that speaks to the server. Addresses are relative to the page's own. */

const BASE = new URL(".", document.baseURI);
const RECONNECT_MILLISECONDS = [500, 1000, 2000, 4000];

/** What the server refused, or that it did not answer (status 0). */
export class ApiError extends Error {
  /**
   * @param {number} status
   * @param {string} code
   * @param {string} message
   * @param {any} [details]
   */
  constructor(status, code, message, details) {
    super(message);
    this.status = status;
    this.code = code;
    this.details = details;
  }
}

/** @type {Set<(error: ApiError | null) => void>} */
const watchers = new Set();

/** Call `watcher` with each answer's error, or with null after a success. */
export function watchAnswers(watcher) {
  watchers.add(watcher);
}

/** The address of a path of the server, such as `api/v1/generations`. */
export function address(path) {
  return new URL(path, BASE);
}

/**
 * The answer's `data`, or with `whole` the answer itself (a list's `pagination` stands beside its
 * data). Raises ApiError.
 * @param {string} method
 * @param {string} path
 * @param {any} [body] JSON, or a FormData that is sent as it is
 * @param {{ signal?: AbortSignal, headers?: Record<string, string>, whole?: boolean }} [options]
 */
export async function request(method, path, body, { signal, headers = {}, whole = false } = {}) {
  const isForm = body instanceof FormData;
  /** @type {RequestInit} */
  const init = { method, signal, credentials: "same-origin", headers: { ...headers } };
  if (body !== undefined) {
    init.body = isForm ? body : JSON.stringify(body);
    if (!isForm) init.headers = { ...headers, "Content-Type": "application/json" };
  }
  let answer;
  try {
    const response = await fetch(address(path), init);
    if (response.status === 204) return null;
    answer = { status: response.status, ...(await response.json()) };
  } catch (error) {
    if (signal?.aborted) throw error;
    throw told(new ApiError(0, "UNREACHABLE", "Banatie does not answer. Is it running?"));
  }
  if (!answer.success) {
    const { code, message, details } = answer.error ?? {};
    throw told(new ApiError(answer.status, code, message, details));
  }
  told(null);
  return whole ? answer : answer.data;
}

/**
 * Follow server-sent events until the function that is returned is called. A lost connection is
 * taken up again; `handlers.closed` is called when the server has nothing more to say.
 * @param {string} path
 * @param {Record<string, (data: any) => void>} handlers by the event's name
 */
export function listen(path, handlers) {
  /** @type {EventSource | undefined} */
  let source;
  let timer = 0;
  let failures = 0;
  const open = () => {
    source = new EventSource(address(path));
    for (const [name, handle] of Object.entries(handlers)) {
      source.addEventListener(name, (event) => {
        failures = 0;
        handle(JSON.parse(/** @type {MessageEvent} */ (event).data));
      });
    }
    source.onerror = () => {
      // While it is CONNECTING, the browser tries again by itself.
      if (source?.readyState !== EventSource.CLOSED) return;
      handlers.closed?.(null);
      const wait = RECONNECT_MILLISECONDS[Math.min(failures++, RECONNECT_MILLISECONDS.length - 1)];
      timer = setTimeout(open, wait);
    };
  };
  open();
  return () => {
    clearTimeout(timer);
    source?.close();
  };
}

/** @param {ApiError | null} error */
function told(error) {
  for (const watcher of watchers) watcher(error);
  return error;
}
