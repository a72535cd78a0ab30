// What the page asks of its server, with the token where one is wanted. Nothing of it is kept beyond the page's life.
const form = document.getElementById("token");
const text = document.getElementById("token-text");
const PATIENCE = 3; // times that an overloaded server is asked again

let token = "";
let asking = null; // a promise of the next token, while one is asked for

export class Refusal extends Error {
  constructor(error) {
    super(error.reason);
    this.error = error;
  }
}

/** The answer to a request, as JSON. Throws a Refusal with what the server says, or that it says nothing. */
export async function ask(path, options = {}, patience = PATIENCE) {
  const sent = token;
  let answer, record;
  try {
    answer = await fetch(path, { ...options, headers: sent ? { Authorization: `Bearer ${sent}` } : {} });
    record = await answer.json();
  } catch {
    throw new Refusal({ code: "unreachable", reason: "is it still running, and are you on its network?" });
  }
  if (answer.status === 401) {
    if (sent === token) await another(sent !== "");
    return ask(path, options, patience);
  }
  if (answer.status === 503 && patience) {
    await new Promise((resolve) => setTimeout(resolve, 1000 * (Number(answer.headers.get("Retry-After")) || 1)));
    return ask(path, options, patience - 1);
  }
  if (record.error && !record.results) throw new Refusal(record.error);
  return record;
}

/** The body that brings some files. */
export function files(chosen) {
  const body = new FormData();
  for (const file of chosen) body.append("images", file, file.name || "pasted image");
  return { method: "POST", body };
}

function another(wasWrong) {
  asking ??= new Promise((resolve) => {
    form.hidden = false;
    document.getElementById("token-refused").textContent = wasWrong ? "The server does not take this token." : "";
    text.focus();
    form.onsubmit = (event) => {
      event.preventDefault();
      token = text.value.trim();
      text.value = "";
      form.hidden = true;
      asking = null;
      resolve();
    };
  });
  return asking;
}
