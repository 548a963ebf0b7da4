// A shared worker: the one event stream of all windows of a browser. Its name is the address of the stream.
//
// Over HTTP/1.1 a browser opens six connections to one host. With a stream in each window, the seventh window would
// wait for ever. A window sends "watch" or "leave", and is sent "open", "snapshot" or "lost".
"use strict";
const RETRY_MS = 15000;

const windows = new Set();
let source = null;
let retry = 0;

function tellAll(event) {
  for (const port of windows) port.postMessage(event);
}

function open() {
  clearTimeout(retry);
  source = new EventSource(self.name);
  source.addEventListener("open", () => tellAll("open"));
  source.addEventListener("snapshot", () => tellAll("snapshot"));
  source.addEventListener("error", () => {
    tellAll("lost");
    // The browser reconnects by itself unless the stream was refused.
    if (source.readyState !== EventSource.CLOSED) return;
    close();
    retry = setTimeout(open, RETRY_MS);
  });
}

function close() {
  clearTimeout(retry);
  source?.close();
  source = null;
}

addEventListener("connect", ({ ports: [port] }) => {
  port.onmessage = ({ data }) => {
    if (data === "watch") {
      windows.add(port);
      if (source?.readyState === EventSource.OPEN) port.postMessage("open");
      if (!source) open();
    } else {
      windows.delete(port);
      if (!windows.size) close();
    }
  };
});
