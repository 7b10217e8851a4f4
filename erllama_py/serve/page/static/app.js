// The page: asks for a key where the server wants one, then shows what it does and lets one chat.

import { Api, Refused, couldBeKey, said, storeKey, storedKey } from "./api.js";
import { showCache } from "./cache.js";
import { Chat } from "./chat.js";
import { byId, setText } from "./dom.js";
import { Drill } from "./drill.js";
import { follow } from "./live.js";
import { showModels } from "./models.js";
import { showStrip } from "./strip.js";
import { showTree } from "./tree.js";

const MODELS_SECONDS = 10; // between two looks at the list of models, where the feed does not tell

let api = new Api(storedKey());
let chat = null;
let latest = null;
let following = null;

function showDoor(problem) {
  following?.abort();
  chat?.clear();
  if (byId("drill").open) byId("drill").close("cancel"); // else the field below could not be reached
  byId("inside").hidden = true;
  byId("parts").hidden = true;
  byId("forget").hidden = true;
  byId("door").hidden = false;
  tell("bad", "Closed");
  setText(byId("key-problem"), problem);
  byId("key").focus();
}

function tell(tone, text, retry = "") {
  byId("live-dot").dataset.tone = tone;
  setText(byId("live-text"), text); // read out by screen readers when it changes; the seconds are not
  setText(byId("live-retry"), retry);
}

// Whether the key lets one in; the list of models is the least that every key may see.
async function enter() {
  try {
    const { data } = await api.json("v1/models");
    open(data.map((one) => one.id));
  } catch (error) {
    if (error instanceof Refused && error.status === 401) {
      const problem = api.hasKey ? said(error) : "";
      storeKey(null);
      showDoor(problem);
    } else {
      tell("bad", said(error));
      setTimeout(enter, 3000);
    }
  }
}

function open(models) {
  byId("door").hidden = true;
  byId("inside").hidden = false;
  byId("parts").hidden = false;
  byId("forget").hidden = !api.hasKey;
  chat ??= new Chat(api, unknown);
  chat.api = api;
  chat.models(models);
  chat.box.focus({ preventScroll: true });
  watch();
}

// The key is known no more: another one is asked for.
function unknown(error) {
  storeKey(null);
  showDoor(said(error));
}

async function watch() {
  following?.abort();
  const { signal } = (following = new AbortController());
  closed(null);
  try {
    await follow(api, { signal, show, tell: tellState });
  } catch (error) {
    if (error.status === 401) return unknown(error);
    closed(said(error));
    tell("rest", "Chat only");
    await refreshModels(signal);
  }
}

// A key that is no operator's sees no feed: its models may change all the same.
async function refreshModels(signal) {
  while (!signal.aborted) {
    await new Promise((resolve) => setTimeout(resolve, MODELS_SECONDS * 1000));
    const answer = await api.json("v1/models", { signal }).catch((error) => error);
    if (answer.status === 401) return unknown(answer);
    if (answer.data) chat.models(answer.data.map((one) => one.id));
  }
}

function closed(why) {
  byId("closed").hidden = why === null;
  byId("live-parts").hidden = why !== null;
  byId("strip").hidden = why !== null;
  for (const link of byId("parts").children) link.hidden = why !== null && link.hash !== "#chat";
  setText(byId("closed-text"), why ?? "");
}

const GONE = { ended: "The server has ended", gone: "The server does not answer", lost: "The connection is lost" };
let countdown = null;

function tellState(state) {
  clearInterval(countdown);
  byId("live-parts").classList.toggle("stale", state.kind !== "live");
  if (state.kind === "live") tell("ok", "Live");
  else if (state.kind === "hidden") tell("rest", "Paused");
  else {
    let left = Math.ceil(state.seconds);
    const again = () => tell("bad", GONE[state.why] ?? state.why, `, again in ${Math.max(0, left--)} s`);
    again();
    countdown = setInterval(again, 1000);
  }
}

function show(snapshot) {
  latest = snapshot;
  setText(byId("version"), snapshot.server.version);
  showStrip(byId("strip"), snapshot);
  showModels(byId("model-list"), snapshot, (model, card) => drill.ask(model, card));
  showTree(byId("tree-list"), snapshot.tree);
  showCache(snapshot);
  chat.models(snapshot.models.filter((model) => model.work?.can_generate !== false).flatMap((model) => [model.id, ...model.aliases]));
}

const drill = {
  ask: (model, card) => new Drill(api, () => latest).ask(model, card),
};

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const key = byId("key").value.trim();
  if (key === "") return;
  if (!couldBeKey(key)) return setText(byId("key-problem"), "That is no key: one is letters, digits and signs.");
  api = new Api(key);
  storeKey(key);
  byId("key").value = "";
  enter();
});
byId("forget").addEventListener("click", () => {
  storeKey(null);
  api = new Api(null);
  showDoor("");
});
byId("parts").addEventListener("click", (event) => {
  const part = event.target.hash && byId(event.target.hash.slice(1));
  if (!part) return;
  event.preventDefault(); // below a prefix "#models" is another address
  part.scrollIntoView();
  (part.id === "chat" ? chat.box : part).focus({ preventScroll: true });
});
byId("skip").addEventListener("click", (event) => {
  event.preventDefault();
  (byId("inside").hidden ? byId("key") : byId("message")).focus();
});

enter();
