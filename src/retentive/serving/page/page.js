"use strict";
// One page over /v1/responses: what is on it comes from the server's stored states, and a reload loses nothing.

const at = (id) => document.getElementById(id);
const DRAFT = "retentive-draft";
const KEY = "retentive-key";
const BROKEN = "The answer broke off: the server has ended. What you wrote is kept.";
const changes = new BroadcastChannel("retentive");

let card = null; // the served model
let records = new Map(); // id -> stored state, without what was said
const said = new Map(); // id -> what was said to make it: it never changes
let current = null; // id of the state that the next message goes on from
let editing = false; // whether the draft takes the place of an earlier turn
let running = null; // {id, abort} of the answer that is being written

function headers(more) {
  const key = sessionStorage.getItem(KEY);
  return { ...(key ? { Authorization: `Bearer ${key}` } : {}), ...more };
}

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { ...options, headers: headers(options.headers) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. What you wrote is kept; it can be sent again when the server is back.");
  }
  if (answer.ok) return answer;
  let said = `The server answered ${answer.status}.`;
  try { said = (await answer.json()).error.message; } catch { /* no JSON: the status is all there is */ }
  if (answer.status === 401) askForKey(said);
  throw new Error(said);
}

function askForKey(why) {
  // Behind the dialog nothing is read or heard.
  at("refused").hidden = !sessionStorage.getItem(KEY);
  at("refused").textContent = why;
  if (!at("ask").open) at("ask").showModal();
}

const json = async (path, options) => (await ask(path, options)).json();
const post = (path, body, more = {}) =>
  ask(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), ...more });

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children); // strings become text: nothing that was said can become HTML
  return made;
}

function problem(error) {
  at("problem").hidden = !error;
  at("problem").textContent = error ? error.message || String(error) : "";
}

const bytes = (size) =>
  size < 10240 ? `${size.toLocaleString()} B` : size < 1 << 20 ? `${(size / 1024).toFixed(0)} kB` : `${(size / (1 << 20)).toFixed(1)} MB`;

// Turns and the tree

function path(id) {
  const turns = [];
  for (let record = records.get(id); record; record = records.get(record.parent)) {
    turns.unshift(record);
    // A fork repeats the turn of the state that it copies.
    if (record.kind === "fork") record = records.get(record.parent) || record;
  }
  return turns;
}

async function hearPath() {
  const unknown = path(current).filter((record) => !said.has(record.id));
  const found = await Promise.all(unknown.map((record) => json(`/v1/states/${record.id}/record`)));
  for (const record of found) said.set(record.id, record.turn ?? {});
}

const turnOf = (record) => record.turn ?? said.get(record.id) ?? {};
const asked = (record) => (turnOf(record).input || []).filter((one) => one.role === "user").map((one) => one.content).join("\n");

function passagesOf(read) {
  return (read || []).flatMap((chunk) => [
    element("h3", { textContent: `From token ${chunk.from_token.toLocaleString()}` }),
    ...(chunk.passages.length ? chunk.passages.map(passage) : [element("p", { textContent: "Nothing was found." })]),
  ]);
}

function passage(one) {
  const place = `${one.document}, line ${one.line.toLocaleString()}`;
  return element("details", {}, element("summary", { textContent: place }), element("p", { textContent: one.text, dir: "auto" }));
}

function turnElement(record) {
  const turn = element("article", { className: "turn" });
  const words = element("div");
  const user = asked(record);
  if (user) {
    const edit = element("button", { type: "button", textContent: "Edit" });
    edit.setAttribute("aria-label", `Edit the turn: ${user.slice(0, 60)}`);
    edit.addEventListener("click", () => beginEdit(record));
    words.append(element("div", { className: "who" }, "You", edit), element("div", { className: "said user", textContent: user, dir: "auto" }));
  }
  const status = turnOf(record).response?.status;
  const note = status === "cancelled" ? " (stopped)" : "";
  const output = element("div", { className: "said", textContent: turnOf(record).output ?? "", dir: "auto" });
  words.append(element("div", { className: "who" }, `Model${note}`), output);
  const aside = element("aside", { className: "passages" });
  aside.setAttribute("aria-label", "Passages that were read");
  turn.append(words, aside);
  turn.showPassages = (read) => {
    aside.append(...passagesOf(read));
    aside.hidden = !aside.childElementCount;
    turn.classList.toggle("has-passages", !aside.hidden);
  };
  turn.showPassages(turnOf(record).response?.neighbours);
  turn.output = output;
  return turn;
}

function stateButton(record) {
  const button = element("button", { type: "button", textContent: record.title || record.kind, dir: "auto" });
  button.title = `${record.kind}, ${record.tokens.toLocaleString()} tokens, ${bytes(record.bytes)}`;
  if (record.id === current) button.setAttribute("aria-current", "true");
  button.addEventListener("click", () => go(record.id));
  return button;
}

async function draw() {
  const shown = current;
  await hearPath();
  if (shown !== current) return; // another state was chosen meanwhile
  at("log").replaceChildren(...path(current).map(turnElement));
  at("log").scrollTop = at("log").scrollHeight;
  const children = new Map();
  for (const record of [...records.values()].sort((a, b) => a.created - b.created)) {
    const parent = records.has(record.parent) ? record.parent : null;
    children.set(parent, [...(children.get(parent) || []), record]);
  }
  const list = (parent) => {
    const items = [];
    let siblings = children.get(parent);
    // Turns that follow each other stand below each other, and only forks go in: a conversation may have many turns.
    for (; siblings?.length === 1; siblings = children.get(siblings[0].id)) items.push(element("li", {}, stateButton(siblings[0])));
    for (const record of siblings || []) {
      items.push(element("li", {}, stateButton(record), ...(children.has(record.id) ? [list(record.id)] : [])));
    }
    return element("ul", {}, ...items);
  };
  at("tree").replaceChildren(records.size ? list(null) : element("p", { textContent: "No stored state yet." }));
  at("tree").querySelector("[aria-current]")?.scrollIntoView({ block: "nearest" });
  figures(records.get(current));
  for (const id of ["save", "forget"]) at(id).disabled = !records.has(current) || Boolean(running);
}

function figures(record) {
  at("tokens").textContent = record ? record.tokens.toLocaleString() : "–";
  at("size").textContent = record ? bytes(record.bytes) : "–";
}

async function refresh() {
  const found = new Map();
  let before = "";
  for (let pages = 0; pages < 20; pages += 1) {
    const page = await json(`/v1/states?limit=1000${before}`);
    for (const record of page.data) found.set(record.id, record);
    if (!page.has_more) break;
    before = `&before=${page.data.at(-1).created}`;
  }
  records = found;
  if (current !== null && !records.has(current)) current = null;
  if (!running) await draw();
}

function go(id) {
  if (running) return;
  current = id;
  history.replaceState(null, "", id ? `#${id}` : "#");
  leaveEdit();
  at("speed").textContent = at("again").textContent = "–";
  problem(null);
  safely(draw)();
}

// Writing

function beginEdit(record) {
  if (running) return;
  const whole = path(record.id);
  const before = whole.length > 1 ? whole.at(-2) : null;
  current = before ? before.id : null;
  editing = true;
  at("editing").hidden = false;
  at("keep").onclick = () => go(record.id);
  at("input").value = asked(record);
  at("input").focus();
  safely(draw)();
}

function leaveEdit() {
  editing = false;
  at("editing").hidden = true;
}

function body(text) {
  const seed = at("seed").value;
  return {
    model: card.id,
    input: text,
    stream: true,
    previous_response_id: current,
    temperature: Number(at("temperature").value),
    top_p: Number(at("top_p").value),
    max_output_tokens: Number(at("most").value),
    ...(seed === "" ? {} : { seed: Number(seed) }),
    ...(card.reads_neighbours ? { return_neighbours: true } : {}),
  };
}

async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read().catch((error) => {
      throw error.name === "AbortError" ? error : new Error(BROKEN);
    });
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const line = part.split("\n").find((one) => one.startsWith("data: "));
      if (line) yield JSON.parse(line.slice(6));
    }
  }
}

function busy(is) {
  at("send").disabled = is;
  at("stop").disabled = !is;
  for (const id of ["new", "load"]) at(id).disabled = is;
  for (const button of document.querySelectorAll("#tree button, .who button")) button.disabled = is;
  if (is) for (const id of ["save", "forget"]) at(id).disabled = true;
}

async function send(text) {
  const parent = records.get(current);
  const abort = new AbortController();
  running = { id: null, abort };
  sessionStorage.setItem(DRAFT, JSON.stringify({ text, current }));
  problem(null);
  busy(true);
  const turn = turnElement({ turn: { input: [{ role: "user", content: text }], output: "" } });
  at("log").append(turn);
  const heard = { begun: 0, ended: 0, count: 0, last: null };
  try {
    const answer = await post("/v1/responses", body(text), { signal: abort.signal });
    for await (const event of events(answer)) hear(event, turn, heard);
    if (!heard.last) throw new Error(BROKEN);
    if (heard.last.status === "failed") throw new Error(heard.last.error.message);
    if (!heard.last.state) throw new Error("The answer was stopped before its first token. What you wrote is kept.");
    finish(heard, parent);
  } catch (error) {
    at("input").value = text;
    problem(error.name === "AbortError" ? "The answer was stopped, and is not stored." : error);
    turn.remove();
  } finally {
    running = null;
    sessionStorage.removeItem(DRAFT);
    await refresh().catch((error) => { if (at("problem").hidden) problem(error); });
    busy(false);
    changes.postMessage("changed");
  }
}

function hear(event, turn, heard) {
  if (event.error) throw new Error(event.error.message);
  if (event.type === "response.created") running.id = event.response.id;
  if (event.type === "response.output_text.delta") {
    const now = performance.now();
    if (!heard.begun) heard.begun = now;
    heard.count += 1;
    heard.ended = now;
    const near = at("log").scrollHeight - at("log").scrollTop - at("log").clientHeight < 80;
    turn.output.textContent += event.delta;
    if (near) at("log").scrollTop = at("log").scrollHeight;
    if (heard.count > 1) at("speed").textContent = (((heard.count - 1) * 1000) / (now - heard.begun)).toFixed(1);
  }
  if (event.type === "response.neighbours.delta") turn.showPassages(event.neighbours);
  if (/^response\.(completed|incomplete|failed)$/.test(event.type)) heard.last = event.response;
}

function finish(heard, parent) {
  const usage = heard.last.usage;
  // What an earlier turn had read and this one read anew; the last token of a turn is never read before the next.
  const again = parent ? Math.max(0, parent.tokens - 1 - usage.input_tokens_details.cached_tokens) : 0;
  at("again").textContent = again.toLocaleString();
  const seconds = (heard.ended - heard.begun) / 1000;
  if (seconds > 0) at("speed").textContent = ((usage.output_tokens - 1) / seconds).toFixed(1);
  at("input").value = "";
  leaveEdit();
  current = heard.last.id;
  history.replaceState(null, "", `#${current}`);
}

async function sendInput() {
  if (!card) await begin(); // the key was not given yet, or the server was away
  if (card && !running && at("input").value) await send(at("input").value);
}

async function stop() {
  // The answer ends with what it has, and its state is stored.
  try {
    if (running?.id) await post(`/v1/responses/${running.id}/cancel`, {});
    else running?.abort.abort();
  } catch { // leaving ends it too, and stores nothing
    running?.abort.abort();
  }
}

async function save() {
  const content = await (await ask(`/v1/states/${current}`)).blob();
  const address = URL.createObjectURL(content);
  element("a", { href: address, download: `${current}.safetensors` }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

async function load(file) {
  const record = await json("/v1/states", { method: "PUT", body: file });
  await refresh();
  go(record.id);
}

async function forget() {
  const parent = records.get(current)?.parent ?? null;
  await ask(`/v1/states/${current}`, { method: "DELETE" });
  await refresh();
  go(records.has(parent) ? parent : null);
  changes.postMessage("changed");
}

async function search(query) {
  const found = await (await post("/v1/search", { query, k: 5 })).json();
  at("found").replaceChildren(...(found.data.length ? found.data.map(passage) : [element("p", { textContent: "Nothing was found." })]));
}

// Beginning

const safely = (act) => (...given) => Promise.resolve().then(() => act(...given)).catch(problem);

function listen() {
  at("write").addEventListener("submit", (event) => {
    event.preventDefault();
    if (!running && at("input").value) safely(sendInput)();
  });
  at("input").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at("write").requestSubmit();
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape" && running) safely(stop)(); });
  at("stop").addEventListener("click", safely(stop));
  at("save").addEventListener("click", safely(save));
  at("forget").addEventListener("click", safely(forget));
  at("new").addEventListener("click", () => { go(null); at("input").focus(); });
  at("load").addEventListener("click", () => at("file").click());
  at("file").addEventListener("change", safely(async () => {
    const [file] = at("file").files;
    at("file").value = "";
    if (file) await load(file);
  }));
  at("search").addEventListener("submit", (event) => { event.preventDefault(); safely(search)(at("query").value); });
  at("toggle").addEventListener("click", () => {
    const open = at("sessions").classList.toggle("open");
    at("toggle").setAttribute("aria-expanded", String(open));
  });
  at("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    sessionStorage.setItem(KEY, at("key").value);
    at("key").value = "";
    at("ask").close();
    safely(begin)();
  });
  addEventListener("hashchange", () => {
    const id = location.hash.slice(1) || null;
    if (id === null || records.has(id)) go(id);
  });
  // The fragment names the state, and must not change for a jump inside of the page.
  document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); at("input").focus(); });
  changes.addEventListener("message", () => { if (!running) safely(refresh)(); });
}

async function begin() {
  problem(null);
  card = (await json("/v1/models")).data[0];
  at("model").textContent = card.id;
  at("store").hidden = !card.has_store;
  current = location.hash.slice(1) || null;
  const draft = JSON.parse(sessionStorage.getItem(DRAFT) || "null");
  if (draft) { // the page was left while an answer was written
    sessionStorage.removeItem(DRAFT);
    if (!at("input").value) at("input").value = draft.text;
    current = draft.current;
    problem("The answer was not finished when the page was left. Your message is below; send it again.");
  }
  const kept = at("problem").textContent;
  await refresh();
  if (kept) problem(kept);
}

listen();
safely(begin)();
