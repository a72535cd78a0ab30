import { show } from "./case.js";
import { el } from "./dom.js";
import { showModel } from "./model.js";
import { ask, files, Refusal } from "./server.js";
import { date, kind, trouble, words } from "./words.js";

const at = (id) => document.getElementById(id);
const cases = []; // {file, url, verdict} or {file, url, error}; neither while it waits
let model = null;
let chosen = null;
let queue = Promise.resolve(); // one request at a time: the server batches what it holds anyhow

const MOST_AT_ONCE = 8; // images of a request, so that verdicts come in as they are given
const MB = 1e6;

async function start() {
  try {
    model = await ask("/v1/model");
  } catch (problem) {
    if (!(problem instanceof Refusal)) throw problem;
    at("served").textContent = "";
    return complain(problem.error);
  }
  const alias = model.alias ? `, the ${model.alias}` : "";
  at("served").textContent = `Judged by ${model.name}, version ${model.version}${alias}${model.made_at ? `, of ${date(model.made_at)}` : ""}`;
  showModel(at("model"), model);
  if (chosen) show(at("case"), chosen, model);
}
start(); // nothing waits for it: the registry may be slow

function take(chosenFiles) {
  const added = [...chosenFiles].map((file) => ({ file, url: URL.createObjectURL(file), item: null, verdict: null, error: null }));
  if (!added.length) return;
  at("empty").hidden = true;
  at("cases").hidden = false;
  at("trouble").hidden = true;
  for (const one of added) {
    cases.push(one);
    one.item = el("button", { type: "button", onclick: () => choose(one, true) });
    draw(one);
    at("list").append(el("li", {}, one.item));
  }
  queue = queue.then(() => judge(added)).catch((problem) => complain({ code: "", reason: problem.message }));
}

async function judge(added) {
  for (let start = 0, count = 1; start < added.length; start += count, count = portion(added, start)) {
    const part = added.slice(start, start + count);
    tell();
    const large = part.filter((one) => model && one.file.size > model.limits.max_image_mb * MB);
    for (const one of large) one.error = { code: "image_too_large", reason: `it has ${(one.file.size / MB).toFixed(1)} MB; the server takes ${model.limits.max_image_mb}.` };
    const sent = part.filter((one) => !one.error);
    try {
      const { results } = sent.length ? await ask("/v1/verdicts", files(sent.map((one) => one.file))) : { results: [] };
      results.forEach((result, i) => Object.assign(sent[i], result.error ? { error: result.error } : { verdict: result }));
    } catch (problem) {
      if (!(problem instanceof Refusal)) throw problem;
      for (const one of sent) one.error = problem.error;
    }
    if (model && sent.some((one) => one.verdict && one.verdict.model.version !== model.version)) start(); // another is served now
    part.forEach(draw);
    if (chosen === null || part.includes(chosen)) choose(chosen ?? part[0], false);
  }
  tell();
}

/** How many images from `start` on go into one request. */
function portion(added, start) {
  const most = Math.min(MOST_AT_ONCE, model?.limits.max_images ?? 1);
  let bytes = 0, count = 0;
  while (count < most && start + count < added.length) {
    bytes += added[start + count].file.size;
    if (count && bytes > 0.9 * MB * (model?.limits.max_request_mb ?? 0)) break;
    count += 1;
  }
  return Math.max(1, count);
}

function tell() {
  const done = cases.filter((one) => one.verdict || one.error).length;
  const only = cases.length === 1 && cases[0].verdict ? ` ${words(cases[0].verdict)}.` : ""; // for who hears the page
  at("progress").textContent = `${done} of ${cases.length} looked at${done === cases.length ? `.${only}` : " …"}`;
}

function complain(error) {
  at("trouble").hidden = false;
  at("trouble").textContent = trouble(error).join(" ");
}

function draw(one) {
  const said = one.verdict ? words(one.verdict) : one.error ? trouble(one.error, one.file.name)[0] : "Waiting …";
  const image = el("img", { src: one.url, alt: "", loading: "lazy", decoding: "async", onerror: () => image.replaceWith(el("span", { class: "none" })) });
  one.item.className = one.verdict ? kind(one.verdict) : one.error ? "failed" : "";
  one.item.replaceChildren(image, el("span", {}, said, el("span", { class: "name" }, one.file.name || "pasted image")));
}

function choose(one, byHand) {
  chosen?.item.removeAttribute("aria-current");
  chosen = one;
  one.item.setAttribute("aria-current", "true");
  show(at("case"), one, model);
  if (byHand) at("case").focus();
}

at("files").addEventListener("change", (event) => {
  take(event.target.files);
  event.target.value = ""; // the same file may be chosen again
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) take(event.clipboardData.files);
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("over");
});
document.addEventListener("dragleave", () => document.body.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  pick(tabs[0]);
  take(event.dataTransfer.files);
});

const tabs = [...document.querySelectorAll("[role=tab]")];
function pick(tab) {
  for (const one of tabs) {
    one.setAttribute("aria-selected", String(one === tab));
    one.tabIndex = one === tab ? 0 : -1;
    at(one.getAttribute("aria-controls")).hidden = one !== tab;
  }
}
for (const [i, tab] of tabs.entries()) {
  tab.addEventListener("click", () => pick(tab));
  tab.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowRight" && event.key !== "ArrowLeft") return;
    const next = tabs[(i + 1) % tabs.length]; // there are two
    pick(next);
    next.focus();
  });
}
