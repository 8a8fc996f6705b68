"use strict";
document.documentElement.classList.add("js");
const services = JSON.parse(document.getElementById("data").textContent);
const map = document.getElementById("map"), panel = document.getElementById("panel"), whatif = document.getElementById("whatif");
const reset = document.getElementById("reset"), search = document.getElementById("search");
const chips = [];
for (const c of map.querySelectorAll(".chip")) {
  chips[c.dataset.n] = c;
  c.dataset.was = c.className;
}
const users = services.map(() => []);
services.forEach((s, i) => s.groups.forEach((g) => g.soft || g.by.forEach((b) => users[b].push(i))));
const lost = new Set(), started = new Set();
let picked = -1;

// fall: what runs falls with what it needs, and goes on without its manager.
function fall() {
  const down = new Set(lost);
  for (const v of down) {
    for (const u of users[v]) {
      if (!down.has(u) && services[u].groups.some((g) => !g.soft && !g.given && !g.managed && g.by.length && g.by.every((b) => down.has(b)))) down.add(u);
    }
  }
  return down;
}

// rise: what comes back of what is down, each with the second it is done.
function rise(down) {
  const done = new Map();
  for (let more = true; more;) {
    more = false;
    for (const v of down) {
      let start = 0;
      if (!started.has(v)) {
        for (const g of services[v].groups) {
          if (g.soft || g.given) continue;
          let first = Infinity;
          for (const b of g.by) first = Math.min(first, down.has(b) ? (done.has(b) ? done.get(b) : Infinity) : 0);
          start = Math.max(start, first);
        }
      }
      const end = start + services[v].takes;
      if (end < (done.has(v) ? done.get(v) : Infinity)) {
        done.set(v, end);
        more = true;
      }
    }
  }
  return done;
}

function time(seconds) {
  const m = Math.round(seconds / 60);
  return seconds < 90 ? Math.round(seconds) + " s" : m < 120 ? m + " min" : (m / 60).toFixed(1) + " h";
}

function play() {
  const plain = !lost.size && !started.size;
  reset.style.setProperty("display", plain ? "none" : "inline-block");
  whatif.className = "";
  if (plain) {
    whatif.textContent = "";
    chips.forEach((c) => { c.className = c.dataset.was; });
    filter();
    mark();
    return;
  }
  const down = lost.size ? fall() : new Set(services.keys());
  const done = rise(down);
  let end = 0, stuck = 0;
  services.forEach((s, i) => {
    let state = "up";
    if (down.has(i)) {
      if (done.has(i)) {
        end = Math.max(end, done.get(i));
        state = lost.size ? "waits" : "up";
      } else {
        stuck++;
        state = s.loop ? "loop" : "stuck";
      }
    }
    chips[i].className = "chip " + state + (lost.has(i) && state === "waits" ? " lost" : "") + (started.has(i) ? " started" : "");
  });
  whatif.className = stuck ? "bad" : "good";
  whatif.textContent = (lost.size ? down.size + " fall, " : "") + (stuck ? stuck + " never come back" : "all come back") + (done.size ? ", the last after " + time(end) : "");
  filter();
  mark();
}

function mark() {
  map.classList.toggle("picked", picked >= 0);
  chips.forEach((c) => c.classList.remove("self", "need", "user"));
  if (picked < 0) return;
  for (const u of users[picked]) chips[u].classList.add("user");
  for (const g of services[picked].groups) for (const b of g.by) chips[b].classList.add("need");
  chips[picked].classList.add("self");
}

function element(tag, text, parent) {
  const e = document.createElement(tag);
  e.textContent = text;
  parent.append(e);
  return e;
}

function show(n) {
  picked = n;
  mark();
  panel.replaceChildren();
  panel.classList.toggle("open", n >= 0);
  document.body.classList.toggle("reading", n >= 0);
  if (n < 0) return;
  const s = services[n];
  element("h3", s.name, panel);
  const facts = document.createElement("dl");
  panel.append(facts);
  const fact = (k, v, c) => {
    if (!v) return;
    element("dt", k, facts);
    element("dd", v, facts).className = c || "";
  };
  fact("owner", s.owner);
  fact("region", s.region);
  fact("runbook", s.runbook || "none");
  fact("proof", s.proof, s.proven ? "good" : "bad");
  fact("takes", time(s.takes) + ", " + s.source);
  fact("wave", s.wave ? String(s.wave) : "never comes back", s.wave ? "" : "bad");
  element("p", s.groups.length ? "Waits for" : "Waits for nothing", panel);
  const list = document.createElement("ul");
  panel.append(list);
  for (const g of s.groups) {
    const item = element("li", (g.managed ? "its manager " : g.soft ? "(seen in use) " : "") + g.text + " ", list);
    element("span", (g.given ? "is given; " : g.by.length ? "" : "nobody provides it; ") + g.evidence, item).className = "soft";
  }
  element("p", users[n].length + " wait for it", panel);
  const keys = document.createElement("div");
  keys.className = "keys";
  panel.append(keys);
  const key = (text, set, other) => {
    element("button", (set.has(n) ? "Undo: " : "What if ") + text, keys).addEventListener("click", () => {
      if (set.has(n)) set.delete(n);
      else set.add(n);
      other.delete(n);
      play();
      show(n);
    });
  };
  key("it is lost", lost, started);
  key("a recovery container starts it", started, lost);
  element("button", "Close", keys).addEventListener("click", () => show(-1));
}

map.addEventListener("click", (event) => {
  const c = event.target.closest(".chip");
  show(c && Number(c.dataset.n) !== picked ? Number(c.dataset.n) : -1);
});
function filter() {
  const q = search.value.trim().toLowerCase();
  services.forEach((s, i) => {
    chips[i].classList.toggle("hidden", q !== "" && ![s.name, s.owner || "", s.region || ""].some((t) => t.toLowerCase().includes(q)));
  });
}
search.addEventListener("input", filter);
reset.addEventListener("click", () => {
  lost.clear();
  started.clear();
  play();
  show(picked);
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") show(-1);
});
// On paper nothing opens: all of it is there.
let closed = [];
addEventListener("beforeprint", () => {
  closed = [...document.querySelectorAll("details:not([open])")];
  closed.forEach((d) => { d.open = true; });
});
addEventListener("afterprint", () => closed.forEach((d) => { d.open = false; }));
