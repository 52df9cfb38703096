// Refreshes the page's live parts and adds keyboard shortcuts. Everything else works without it.

const EVERY_MS = 4000;
const KEYS = { o: 0, r: 1, c: 2, t: 3, a: 4 };

/** Replace the live parts that changed, unless the user is hovering over, selecting or typing in them. */
function exchange(fresh) {
  for (const old of document.querySelectorAll("[data-live]")) {
    const now = [...fresh.querySelectorAll("[data-live]")].find((part) => part.dataset.live === old.dataset.live);
    const busy = old.contains(document.activeElement) || !document.getSelection()?.isCollapsed || old.matches(":hover");
    if (now && !busy && now.innerHTML !== old.innerHTML) {
      const scrolled = [...old.querySelectorAll(".scroll")].map((box) => box.scrollLeft);
      old.replaceWith(document.adoptNode(now));
      now.querySelectorAll(".scroll").forEach((box, n) => { box.scrollLeft = scrolled[n] ?? box.scrollWidth; });
    }
  }
}

async function refresh() {
  if (document.hidden) return;
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" }, redirect: "error" });
    if (answer.ok) exchange(new DOMParser().parseFromString(await answer.text(), "text/html"));
    document.body.classList.toggle("stale", !answer.ok);
  } catch {
    document.body.classList.add("stale");
  }
}

if (document.querySelector("[data-live]")) setInterval(refresh, EVERY_MS);

document.querySelectorAll(".scroll").forEach((box) => { if (box.querySelector(".timeline")) box.scrollLeft = box.scrollWidth; });

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, textarea, select");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const tab = document.querySelectorAll(".tabs a")[KEYS[event.key]];
  if (tab) tab.click();
});
