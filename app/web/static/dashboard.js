// Live updates, which no page depends on: the same page is fetched again and its content is replaced, except while
// it has the keyboard focus, selected text or an open section, or updates are paused.
"use strict";
(() => {
  const page = document.getElementById("page");
  const pause = document.getElementById("pause");
  if (!page || !pause || !page.dataset.live) return;
  let paused = false;
  pause.hidden = false;
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
  });
  const isInUse = () =>
    page.contains(document.activeElement) || page.querySelector("details[open]") || String(getSelection());
  const update = async () => {
    if (paused || document.hidden || isInUse()) return;
    const answer = await fetch(location.href, { headers: { "X-Certcourier-Fragment": "1" } });
    if (answer.redirected) location.reload();
    else if (answer.ok) {
      const html = await answer.text();
      if (!paused && !isInUse()) page.innerHTML = html;
    }
  };
  setInterval(() => update().catch(() => {}), Number(page.dataset.live) * 1000);
})();
