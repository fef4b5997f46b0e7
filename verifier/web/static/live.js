// Follows the verifier's stream of changes: when something that this page shows
// has changed, the page is fetched anew and its main part swapped.
"use strict";
(() => {
  const main = document.getElementById("main");
  const stream = document.getElementById("stream");
  const said = document.getElementById("said");
  const only = main.dataset.device;
  const longest = 3; // changes that are said aloud at a time
  const rest = 2000; // ms between two fetches: a large fleet changes all the time
  let ahead = Date.now() - main.dataset.now * 1000; // of this clock, in ms
  let fetched = -rest;
  let busy = false; // a fetch is due or under way
  let again = false; // something changed while it was under way

  function ago(at) {
    const s = Math.round((Date.now() - ahead - at) / 1000);
    if (s < -5) return "in the future";
    if (s < 5) return "just now";
    if (s < 120) return s + " s ago";
    if (s < 7200) return Math.floor(s / 60) + " min ago";
    if (s < 172800) return Math.floor(s / 3600) + " h ago";
    return Math.floor(s / 86400) + " days ago";
  }

  function tick() {
    for (const t of main.querySelectorAll("time")) t.textContent = ago(Date.parse(t.dateTime));
  }

  function state(name, text) {
    if (stream.dataset.state === name) return;
    stream.dataset.state = name;
    stream.textContent = text;
  }

  function sayings() {
    return new Map(Array.from(main.querySelectorAll("[data-say]"), (e) => [e.id, e.dataset.say]));
  }

  function say(before) {
    const news = [];
    for (const [id, text] of sayings()) {
      if (before.get(id) === text) continue;
      news.push(text);
      document.getElementById(id).classList.add("changed");
    }
    if (news.length === 0) return;
    const more = news.length > longest ? ". And " + (news.length - longest) + " more changes" : "";
    said.textContent = news.slice(0, longest).join(". ") + more;
  }

  function swap(text) {
    const page = new DOMParser().parseFromString(text, "text/html");
    const fresh = page.getElementById("main");
    if (!fresh) return;
    const before = sayings();
    const focus = main.contains(document.activeElement) ? document.activeElement.id : "";
    main.replaceChildren(...fresh.childNodes);
    ahead = Date.now() - fresh.dataset.now * 1000;
    document.title = page.title;
    if (focus) (document.getElementById(focus) || main).focus({ preventScroll: true });
    say(before);
  }

  async function refresh() {
    again = false;
    try {
      const answer = await fetch(location.href, { cache: "no-store" });
      if (answer.ok) swap(await answer.text());
    } catch {
      // The stream notices that the verifier is gone, and asks again.
    } finally {
      fetched = performance.now();
      busy = false;
      if (again) later();
    }
  }

  // What changes within a moment is one change of the page.
  function later() {
    again = busy;
    if (busy) return;
    busy = true;
    setTimeout(refresh, Math.max(150, fetched + rest - performance.now()));
  }

  let events = null;
  function follow() {
    events = new EventSource("/events");
    events.addEventListener("open", () => state("on", "live"));
    events.addEventListener("error", () => {
      state("lost", "connection lost, trying again");
      // The browser tries again by itself, but not after an answer that is no stream.
      if (events.readyState === EventSource.CLOSED) setTimeout(follow, 10000);
    });
    events.addEventListener("time", later);
    events.addEventListener("refused", later);
    events.addEventListener("device", (e) => {
      if (!only || JSON.parse(e.data).id === only) later();
    });
  }
  follow();
  addEventListener("pagehide", () => events.close());
  addEventListener("pageshow", (e) => { if (e.persisted) location.reload(); });
  setInterval(tick, 5000);
})();
