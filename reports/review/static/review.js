// A run that goes on is asked for again and again; without this script the page loads itself anew instead.
"use strict";

const EVERY_MS = 1000;
const live = document.querySelector("[data-progress]");

async function renew() {
  try {
    const answer = await fetch(live.dataset.progress, { redirect: "manual", headers: { accept: "text/html" } });
    if (answer.type === "opaqueredirect") {
      location.reload();
      return;
    }
    if (answer.ok) {
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("progress");
      if (fresh) {
        document.getElementById("progress").replaceWith(document.adoptNode(fresh));
        if (fresh.dataset.moving === "no") {
          location.reload();
          return;
        }
      }
    }
  } catch {
    // The page was stopped, or the network is away: the next time tells.
  }
  setTimeout(renew, EVERY_MS);
}

if (live) setTimeout(renew, EVERY_MS);
