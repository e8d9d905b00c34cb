// A run that goes on is asked for again and again; without this script the page loads itself anew instead.
"use strict";

const EVERY_MS = 1000;
const live = document.querySelector("[data-progress]");

// Whoever scrolls in a table, or is in it by keyboard, stays where they are.
function replace(old, fresh) {
  const before = [...old.querySelectorAll(".wide")].map((e) => [e.scrollLeft, e === document.activeElement]);
  old.replaceWith(fresh);
  fresh.querySelectorAll(".wide").forEach((element, place) => {
    const [left, focused] = before[place] ?? [0, false];
    element.scrollLeft = left;
    if (focused) element.focus({ preventScroll: true });
  });
}

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
        replace(document.getElementById("progress"), document.adoptNode(fresh));
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
