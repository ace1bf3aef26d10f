// What pages do beyond what works without this script: they follow the cluster by server-sent events, and copy code.
"use strict";

(() => {
  const state = document.getElementById("live-state");
  const path = document.body.dataset.live;
  const region = document.getElementById("live");

  const say = (text) => {
    if (state) state.textContent = text ? ` · ${text}` : "";
  };

  // Fragments are made by the server, which escapes all that comes from tables and clients. A part in which somebody selects text
  // or moves by keyboard stays as it is until that ends.
  const isInUse = () => {
    const selection = document.getSelection();
    const selects = selection && !selection.isCollapsed && region.contains(selection.anchorNode);
    return selects || region.contains(document.activeElement);
  };

  const follow = () => {
    const events = new EventSource(path);
    let latest = null;
    const show = () => {
      if (latest === null || isInUse()) return;
      region.innerHTML = latest;
      latest = null;
    };
    events.addEventListener("open", () => say("live"));
    events.addEventListener("update", (event) => {
      latest = event.data;
      show();
      say("live");
    });
    events.addEventListener("tick", () => {
      show();
      say("live");
    });
    events.addEventListener("trouble", (event) => say(`as it was before: ${event.data}`));
    events.addEventListener("end", (event) => {
      events.close();
      say(`no longer live: ${event.data}`);
    });
    // A browser does not come back to what was refused.
    events.addEventListener("error", () => {
      const isOver = events.readyState === EventSource.CLOSED;
      say(isOver ? "no longer live: reload the page" : "not live: the member does not answer");
    });
    addEventListener("pagehide", () => events.close());
  };

  if (path && region && "EventSource" in window) follow();

  for (const button of document.querySelectorAll("button[data-copy]")) {
    const source = document.getElementById(button.dataset.copy);
    if (!source || !navigator.clipboard) continue;
    button.hidden = false;
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(source.textContent);
        button.textContent = "Copied";
      } catch {
        button.textContent = "Copy failed: select the text";
      }
    });
  }
})();
