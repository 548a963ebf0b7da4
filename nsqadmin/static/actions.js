// Buttons that change the cluster: ask for confirmation, call the API, show the result.
//
// Attributes of a button: data-do (method), data-url, data-body (JSON), data-title, data-text, data-verb,
// data-done, data-type (a name that has to be typed) and data-then (where to go afterwards). A button that submits a form
// has data-submit instead of data-do.
(() => {
  "use strict";
  const TIMEOUT_MS = 20000;
  const SHOWN_MS = 6000;
  const RESULT_KEY = "console_result";

  const dialog = document.getElementById("ask");
  const part = (name) => dialog.querySelector(`[data-part="${name}"]`);
  const toasts = document.getElementById("toasts");
  let pending = null;

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-do]");
    if (button) askToConfirm({ ...button.dataset }); // a copy, as the button changes when the page is updated
  });

  // As the filter `name` of the templates does: names may be broken into lines between their parts.
  function write(element, text) {
    const parts = text.split(/(?<=[-._:/])(?=[^-._:/ ])|(?<=[a-z0-9])(?=[A-Z])|(?<=\S)(?=#)/);
    element.replaceChildren(...parts.flatMap((part, n) => (n ? [document.createElement("wbr"), part] : [part])));
  }

  function askToConfirm(action) {
    pending = action;
    write(part("title"), action.title);
    write(part("text"), action.text || "");
    part("field").hidden = !action.type;
    write(part("name"), action.type || "");
    part("typed").value = "";
    part("ok").textContent = action.verb;
    part("ok").classList.toggle("danger", Boolean(action.type));
    check();
    dialog.returnValue = "";
    dialog.showModal();
    (action.type ? part("typed") : part("ok")).focus();
  }

  function check() {
    part("ok").disabled = Boolean(pending.type) && part("typed").value !== pending.type;
  }

  part("typed").addEventListener("input", check);
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog || event.target.closest("[data-cancel]")) dialog.close("cancel");
  });
  dialog.addEventListener("close", () => {
    if (dialog.returnValue === "ok") send(pending);
  });

  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.dataset.publish) {
      event.preventDefault();
      publish(form);
      return;
    }
    if (form.dataset.seek) {
      event.preventDefault();
      askToSeek(form);
      return;
    }
    if (event.submitter && event.submitter.dataset.submit) {
      event.preventDefault();
      askToSubmit(form, event.submitter);
      return;
    }
    if (!form.dataset.create) return;
    event.preventDefault();
    const topic = form.elements.topic.value.trim();
    const channel = form.elements.channel.value.trim();
    const done = channel ? `Channel ${channel} of topic ${topic} created` : `Topic ${topic} created`;
    send({ do: "POST", url: form.dataset.create, body: JSON.stringify({ topic, channel }), done }).then((succeeded) => {
      if (succeeded) form.reset();
    });
  });

  function askToSeek(form) {
    const to = form.elements.to.value.trim();
    const channel = form.dataset.channel;
    askToConfirm({
      do: "POST",
      url: form.dataset.seek,
      body: JSON.stringify({ action: "seek", to }),
      title: `Move channel ${channel} to ${to}?`,
      text:
        "On all nodes, its messages from there on are delivered again, whether they were finished or not; those before " +
        "are not. Consumers get an error when they answer for what they work on.",
      verb: "Move",
      done: `Channel ${channel} moved to ${to}`,
      type: channel,
    });
  }

  // The fields are added to the body, and replace their names in braces in the texts.
  function askToSubmit(form, button) {
    const fields = {};
    for (const [name, value] of new FormData(form)) fields[name] = value.trim();
    const filled = (text) => text.replace(/\{(\w+)\}/g, (all, name) => fields[name] ?? all);
    const action = { ...button.dataset, do: button.dataset.submit };
    action.body = JSON.stringify({ ...JSON.parse(action.body), ...fields });
    for (const name of ["title", "text", "done"]) action[name] = filled(action[name]);
    askToConfirm(action);
  }

  function publish(form) {
    const node = form.elements.node.value;
    const body = form.elements.body.value;
    const done = `Message published to topic ${form.dataset.topic} on ${node}`;
    send({ do: "POST", url: form.dataset.publish, body: JSON.stringify({ node, body }), done }).then((succeeded) => {
      if (succeeded) form.reset();
    });
  }

  async function send(action) {
    let answer = {};
    try {
      const response = await fetch(action.url, {
        method: action.do,
        headers: {
          Accept: "application/vnd.nsq; version=1.0",
          "Content-Type": "application/json",
          // Read now: updates of the page renew it when the console has been restarted.
          "X-Console-Token": document.getElementById("content").dataset.token || "",
        },
        credentials: "same-origin",
        body: action.body,
        signal: AbortSignal.timeout(TIMEOUT_MS),
      });
      answer = await response.json().catch(() => ({}));
      if (response.status === 401) {
        location.reload(); // the session is over: the browser is sent to the page for logging in
        return false;
      }
      if (!response.ok) throw new Error(answer.message || `the console answered ${response.status}`);
    } catch (error) {
      const text = error.name === "TimeoutError" ? `no answer within ${TIMEOUT_MS / 1000} s` : error.message;
      showToast("bad", `Failed: ${text}`);
      return false;
    }
    const result = answer.message ? ["warn", `${action.done}, with errors: ${answer.message}`] : ["good", action.done];
    if (action.then) {
      store(result);
      location.assign(action.then);
    } else {
      showToast(...result);
      document.dispatchEvent(new Event("console:refresh"));
    }
    return true;
  }

  function showToast(kind, text) {
    const box = document.createElement("div");
    box.className = `notice ${kind}`;
    if (kind === "bad") box.setAttribute("role", "alert");
    const words = document.createElement("div");
    write(words, text);
    const close = document.createElement("button");
    close.className = "cross";
    close.textContent = "×";
    close.setAttribute("aria-label", "Dismiss");
    close.addEventListener("click", () => box.remove());
    box.append(words, close);
    toasts.append(box);
    while (toasts.children.length > 4) toasts.firstChild.remove();
    if (kind === "good") setTimeout(() => box.remove(), SHOWN_MS);
  }

  // For the next page, which shows it.
  function store(result) {
    try {
      sessionStorage.setItem(RESULT_KEY, JSON.stringify(result));
    } catch {
      // no session storage: the result is not shown
    }
  }

  try {
    const result = JSON.parse(sessionStorage.getItem(RESULT_KEY));
    sessionStorage.removeItem(RESULT_KEY);
    if (result) showToast(...result);
  } catch {
    // no result is stored
  }
})();
